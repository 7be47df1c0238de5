"""`tunas export`."""

from __future__ import annotations

import sys

from tunas.export.config import ExportConfig


def run(config: ExportConfig) -> int:
    from rich.console import Console
    from rich.table import Table

    from tunas.cost.model import with_unit
    from tunas.export.export import export

    exported = export(config)
    first = exported[0].check
    table = Table(title=f"{first.images} images, PyTorch's top-1 {first.torch_accuracy:.2%}")
    table.add_column("runtime", no_wrap=True)
    columns = ["size", "top-1", "same class", "logits differ by", "measured"]
    if exported[0].predicted is not None:
        columns.append("predicted")
    for column in columns:
        table.add_column(column, justify="right")
    for one in exported:
        predicted = [] if one.predicted is None else [with_unit(*one.predicted)]
        table.add_row(
            one.runtime,
            f"{one.size / 1e6:.2f} MB",
            f"{one.check.accuracy:.2%}",
            f"{one.check.agreement:.2%}",
            f"{one.check.difference:.2g}",
            f"{one.latency['milliseconds']:.3g} ms",
            *predicted,
        )
    Console(soft_wrap=True).print(table)
    print(f"measured on: {exported[0].document['latency']['device']}, threads: {config.threads}")
    for one in exported:
        print(f"{one.runtime} = {one.directory}")
    for one in exported:
        if one.complaint:
            print(f"tunas: {one.runtime}: {one.complaint}; it is kept as {one.directory}", file=sys.stderr)
    return 1 if any(one.complaint for one in exported) else 0
