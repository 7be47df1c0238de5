"""What a design came to, for people."""

from __future__ import annotations

import math
from typing import Any

from tunas.design.outcome import Outcome

ACCURACY = "accuracy"


def show(found: Outcome) -> None:
    """Prints what a design came to."""
    from rich.console import Console
    from rich.table import Table

    from tunas.cost.model import with_unit

    console = Console(soft_wrap=True)
    table = Table(title=f"{found.ssd}; {found.quality_name} on {found.split} examples")
    columns = ["target", "predicted", "off", "measured", "network", "file"]
    for column in columns if found.exports else columns[:3] + columns[4:5]:
        table.add_column(column, justify="right")
    for row in found.rows:
        off = f"{row.predicted / row.target - 1:+.2%}"
        cells = [with_unit(row.target, found.unit), with_unit(row.predicted, found.unit), off]
        if found.exports:
            cells.append(_measured(row.measured, row.at_speed_of_then))
        cells.append(_quality(row.quality, found.quality_name))
        if row.file_quality is not None:
            cells.append(f"{row.file_quality:.2%}" + (" (failed its check)" if row.complaint else ""))
        table.add_row(*cells)
    console.print(table)
    if any(row.comparison for row in found.rows):
        console.print(_comparison(found))
    if found.exports and found.other_device:
        print(f"measured: on this machine now; not what was predicted: {found.other_device}")
    elif found.exports:
        print(
            "measured: now, and in brackets at the speed that the device had when the cost model's networks were timed"
        )
    for row in found.rows:
        print(f"{row.name}: indices = {row.architecture.text}")
        print(f"{row.name}: trained in {row.training}")
        if row.file is not None:
            print(f"{row.name}: file in {row.file}; its classes: tunas predict --model={row.file} IMAGES")
    print(
        f"{found.seconds:.0f} s in all; everything is in {found.out}"
        + (f", to read {found.report}" if found.report else "")
    )


def _comparison(found: Outcome) -> Any:
    """The winners against random architectures of the same cost."""
    from rich.table import Table

    seeds = f", {found.seeds} seeds each" if found.seeds > 1 else ""
    table = Table(title=f"against random architectures of the same cost, trained alike{seeds}")
    in_percent = found.quality_name == ACCURACY
    for column in ("target", "architectures", "mean", "best", "random better", "search = random trials", "their best"):
        names = column == "architectures"
        table.add_column(column, justify="left" if names else "right", no_wrap=names)
    for row in found.rows:
        if row.comparison is None:
            continue
        searched, random = row.comparison["searched"], row.comparison["random"]
        error = searched["seed_spread"] / math.sqrt(found.seeds) if "seed_spread" in searched else None
        table.add_row(
            row.name,
            "searched",
            _mean(searched["mean"], error, in_percent),
            _quality(searched["best"], found.quality_name),
            f"{searched['probability_that_random_is_better']:.0%}",
            f"{searched['random_trainings_for_one_search']:.1f}",
            _quality(searched["expected_best_of_so_many"], found.quality_name),
        )
        mean = _mean(random["mean"], random.get("standard_error"), in_percent)
        table.add_row("", f"{random['count']} random", mean, _quality(random["best"], found.quality_name))
    return table


def _mean(mean: float, error: float | None, in_percent: bool) -> str:
    if error is None:
        return f"{mean:.2%}" if in_percent else f"{mean:.4f}"
    return f"{100 * mean:.2f} ± {100 * error:.2f} %" if in_percent else f"{mean:.4f} ± {error:.4f}"


def _quality(value: float, name: str) -> str:
    """A quality for a table, in percent where it is a part of the examples."""
    return f"{value:.2%}" if name == ACCURACY else f"{value:.4f}"


def _measured(milliseconds: float | None, then: float | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds:.3g} ms" + (f" ({then:.3g} ms)" if then is not None else "")
