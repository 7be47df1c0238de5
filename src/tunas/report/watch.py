"""A live view of running searches in a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.report.analyze import analyze
from tunas.run.directory import RESULT, read_params
from tunas.run.events import read_events

SECONDS = 2.0
"""Between two looks."""
REWARD = "rlcontroller/reward"
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40


def watch(directories: Sequence[Path], seconds: float = SECONDS) -> None:
    """Shows a table of the searches until all have ended, or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(overview(directories), refresh=True)
            if all((directory / RESULT).is_file() for directory in directories):
                return
            time.sleep(seconds)


def overview(directories: Sequence[Path]) -> Any:
    """A rich table with a row for each search: how far, how good, how near to its target, and the likeliest
    architecture."""
    from rich.table import Table

    table = Table(
        "search", "step", "quality", "reward", "cost / target", "entropy", "reward over time", "architecture now"
    )
    for directory in directories:
        try:
            table.add_row(*_row(directory))
        except InputError as error:
            table.add_row(directory.name, "", "", "", "", "", "", str(error))
    return table


def _row(directory: Path) -> tuple[str, ...]:
    params = read_params(directory)
    scalars, _ = read_events(directory)
    found = analyze(directory)
    last = scalars[found.step]
    target = params.get("rl_cost_model_target")
    steps = params.get("steps")
    end = "done" if (directory / RESULT).is_file() else f"{found.step + 1} of {steps}"
    rewards = [
        values["rlcontroller/reward"] for _, values in sorted(scalars.items()) if "rlcontroller/reward" in values
    ]
    return (
        directory.name,
        end,
        _figure(last.get("rlcontroller/validation_accuracy"), ".3f"),
        _figure(last.get(REWARD), ".3f"),
        "" if found.cost is None else f"{found.cost:.4g} / {_figure(target, '.4g')} {found.unit}",
        _figure(last.get("rlcontroller/entropy"), ".1f"),
        sparkline(rewards),
        found.architecture.text,
    )


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
