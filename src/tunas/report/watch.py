"""A live view of running searches in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.report.analyze import findings
from tunas.run.directory import RESULT, read_params
from tunas.run.events import read_events
from tunas.search.places import SCALARS, params_by_target

SECONDS = 2.0
"""Seconds between two looks."""
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40


def watch(directories: Sequence[Path]) -> None:
    """Shows a table of the searches until all have ended, or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(overview(directories), refresh=True)
            if all((directory / RESULT).is_file() for directory in directories):
                return
            time.sleep(SECONDS)


def overview(directories: Sequence[Path]) -> Any:
    """A rich table with a row for each search: how far, how good, how near to its target, and the likeliest
    architecture."""
    from rich.table import Table

    table = Table(
        "search", "step", "quality", "reward", "cost / target", "entropy", "reward over time", "architecture now"
    )
    for directory in directories:
        try:
            for row in _rows(directory):
                table.add_row(*row)
        except InputError as error:
            table.add_row(directory.name, "", "", "", "", "", "", str(error))
    return table


def _rows(directory: Path) -> list[tuple[str, ...]]:
    """A row of the table for each target of a search."""
    params = read_params(directory)
    scalars, _ = read_events(directory)
    found = findings(directory)
    steps = params.get("steps")
    rows: list[tuple[str, ...]] = []
    for each, own in zip(found, params_by_target(params), strict=True):
        place, last = f"{SCALARS}{each.place}", scalars[each.step]
        end = "done" if (directory / RESULT).is_file() else f"{each.step + 1} of {steps}"
        target = own.get("rl_cost_model_target")
        rewards = [values[f"{place}reward"] for _, values in sorted(scalars.items()) if f"{place}reward" in values]
        is_first = each is found[0]
        rows.append(
            (
                directory.name if is_first else "",
                end if is_first else "",
                _figure(last.get(f"{place}validation_accuracy"), ".3f"),
                _figure(last.get(f"{place}reward"), ".3f"),
                "" if each.cost is None else f"{each.cost:.4g} / {_figure(target, '.4g')} {each.unit}",
                _figure(last.get(f"{place}entropy"), ".1f"),
                sparkline(rewards),
                each.architecture.text,
            )
        )
    return rows


def _figure(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else ""


def sparkline(values: Sequence[float]) -> str:
    """The course of the values in at most `SPARK_WIDTH` characters, lowest to highest."""
    if not values:
        return ""
    count = min(len(values), SPARK_WIDTH)
    means = []
    for place in range(count):
        part = values[place * len(values) // count : (place + 1) * len(values) // count]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    return "".join(
        SPARKS[round((mean - low) / (high - low) * (len(SPARKS) - 1)) if high > low else 0] for mean in means
    )
