"""`tunas analyze`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AnalyzeConfig:
    """What one or many searches came to: the result of one that has ended, the most likely architecture of the newest
    state of another, with its cost and its step. Exit code 3: only part could be read, or a tolerance was missed."""

    dirname: str
    """Directory of a search, or a glob that matches many."""

    output_format: Literal["lines", "csv"] = "lines"
    """lines for people, csv for programs."""

    cost_model: str | None = None
    """Price with this model instead of the search's own."""

    rl_cost_model_tolerance: float | None = None
    """As of `tunas search`, afterwards: the likeliest architecture whose cost is no farther from the search's target,
    relative to it."""

    watch: bool = False
    """Show running searches live in the terminal, until they end or Ctrl-C."""


def run(config: AnalyzeConfig) -> int:
    import csv
    import sys

    from tunas.errors import NOT_AS_ASKED, InputError
    from tunas.report.analyze import analyze, run_directories

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if config.output_format == "csv":
        writer.writerow(["indices", "global_step", "directory", "cost_model", "unit", "remark"])
    directories = run_directories(config.dirname)
    if config.watch:
        from tunas.report.watch import watch

        watch(directories)
        return 0
    skipped = 0
    doubtful = False
    for directory in directories:
        try:
            found = analyze(directory, config.cost_model, config.rl_cost_model_tolerance)
        except InputError as error:
            print(f"tunas: {error}" + ("; skipping" if len(directories) > 1 else ""), file=sys.stderr)
            skipped += 1
            continue
        doubtful |= bool(found.missing or found.misses)
        for warning in found.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        if config.output_format == "csv":
            cost = "" if found.cost is None else f"{found.cost:f}"
            writer.writerow([found.architecture.text, found.step, directory, cost, found.unit, found.remark])
            continue
        print(f"directory = {directory}")
        print(f"global_step = {found.step}")
        print(f"indices = {found.architecture.text}" + (f"  # {found.remark}" if found.remark else ""))
        if found.cost is not None:
            print(f"cost_model = {found.cost:f}")
            print(f"unit = {found.unit}")
        print()
    if skipped == len(directories):
        return 2
    return NOT_AS_ASKED if doubtful else 0
