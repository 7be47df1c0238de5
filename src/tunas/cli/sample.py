"""`tunas sample`."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SampleConfig:
    """Random architectures, uniform over the space, kept where their cost is in a range. JSON goes to standard
    output."""

    ssd: str = "proxylessnas_search"
    """Search space."""

    min_cost: float | None = None
    """Lower bound of the cost. Where left out with the pixel1 cost: 83 ms (proxyless spaces) or 57 ms (V3-like);
    otherwise none."""

    max_cost: float | None = None
    """Upper bound of the cost. Where left out with the pixel1 cost: 85 ms (proxyless spaces) or 59 ms (V3-like);
    otherwise none."""

    num_samples: int = 1
    """How many to find."""

    cost_model: str | None = None
    """pixel1, params, macs, peak_memory, flash, or a file that `tunas fit` wrote."""

    output_format: Literal["json", "csv"] = "json"
    """json: a list of indices and cost. csv: the columns of the released random_architectures.csv, accuracies left
    empty."""

    output: str | None = None
    """File to write instead of standard output."""

    image_size: int | None = None
    """Pixels a side, where the cost depends on it: 224 where left out, or with a fitted cost model those at which it
    was measured."""

    num_classes: int | None = None
    """Outputs of the classifier, where the cost depends on it: 1,000 where left out, or with a fitted cost model as it
    was measured."""

    seed: int = 0
    """Of the random numbers."""


def run(config: SampleConfig) -> None:
    import io

    from tunas.cost.catalog import conditions_note
    from tunas.files import check_writable, make_directory, write_text, writing_to
    from tunas.study.sample import sample_within

    if config.output is not None:
        check_writable(config.output)
    found, model = sample_within(config)
    if note := conditions_note(model, config.image_size):
        print(f"note: {note}", file=sys.stderr)
    out = io.StringIO()
    if config.output_format == "json":
        json.dump([{"indices": architecture.text, "cost": cost} for architecture, cost in found], out, indent=2)
        out.write("\n")
    else:
        writer = csv.writer(out, lineterminator="\n")
        is_pixel1 = (model.unit, model.device.startswith("Pixel 1")) == ("ms", True)
        cost_column = "simulated_pixel1_time_ms" if is_pixel1 else f"cost_{model.unit}"
        writer.writerow(["ssd", "indices", cost_column, "90epoch_validation_accuracy", "360epoch_test_accuracy"])
        writer.writerows(
            [architecture.space.name, architecture.text, f"{cost:.6g}", "", ""] for architecture, cost in found
        )
    if config.output is None:
        sys.stdout.write(out.getvalue())
        return
    from pathlib import Path

    path = Path(config.output)
    make_directory(path.parent)
    with writing_to(path):
        write_text(path, out.getvalue())
