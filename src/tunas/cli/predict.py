"""`tunas predict`."""

from __future__ import annotations

import csv
import json
import sys

from tunas.export.predict_config import PredictConfig


def run(config: PredictConfig) -> None:
    from tunas.export.predict import predict

    predictions = predict(config)
    rows = [(one.image, name, chance) for one in predictions.found for name, chance in one.classes]
    if config.output_format == "json":
        document = [
            {"image": one.image, "classes": [{"class": name, "probability": chance} for name, chance in one.classes]}
            for one in predictions.found
        ]
        print(json.dumps(document, indent=1, ensure_ascii=False))
    elif config.output_format == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("image", "class", "probability"))
        writer.writerows((image, name, f"{chance:.6f}") for image, name, chance in rows)
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("image", "class")
        table.add_column("probability", justify="right")
        for image, name, chance in rows:
            table.add_row(image, name, f"{chance:.2%}")
        Console(soft_wrap=True).print(table)
    for name, reason in predictions.skipped:
        print(f"tunas: left out {name}: {reason}", file=sys.stderr)
