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
    first, unit, quality_name = exported[0].check, exported[0].unit, exported[0].quality_name
    classifies = quality_name == "accuracy"
    name = "top-1" if classifies else quality_name
    shown = "{:.2%}".format if classifies else "{:.4g}".format
    table = Table(title=f"{first.examples} {unit}, PyTorch's {name} {shown(first.torch_quality)}")
    table.add_column("runtime", no_wrap=True)
    differ = "logits\noff by" if classifies else "outputs\noff by"
    columns = ["MB", name, "same\nclass", differ, "ms\nmeasured"]
    if exported[0].predicted is not None:
        columns.append("predicted")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for one in exported:
        predicted = [] if one.predicted is None else [with_unit(*one.predicted)]
        table.add_row(
            one.runtime,
            f"{one.size / 1e6:.2f}",
            shown(one.check.quality),
            "–" if one.check.agreement is None else f"{one.check.agreement:.2%}",
            f"{one.check.difference:.2g}",
            f"{one.latency['milliseconds']:.3g}",
            *predicted,
        )
    Console(soft_wrap=True).print(table)
    print(f"measured on: {exported[0].document['latency']['device']}, threads: {config.threads}")
    for one in exported:
        print(f"{one.runtime} = {one.directory}")
    for one in exported:
        if one.complaint:
            passed = one.directory.with_name(one.runtime)
            earlier = f", and {passed} is still that of an earlier export" if passed.exists() else ""
            print(f"tunas: {one.runtime}: {one.complaint}; it is kept as {one.directory}{earlier}", file=sys.stderr)
    return 1 if any(one.complaint for one in exported) else 0
