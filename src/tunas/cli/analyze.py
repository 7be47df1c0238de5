"""`tunas analyze`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tunas.report.analyze import Finding


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

    target: float | None = None
    """Of a search for several targets: only what was found for this one."""

    watch: bool = False
    """Show running searches live in the terminal, until they end or Ctrl-C."""


def run(config: AnalyzeConfig) -> int:
    import csv
    import sys

    from tunas.errors import NOT_AS_ASKED, InputError
    from tunas.report.analyze import findings, run_directories

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if config.output_format == "csv":
        writer.writerow(["indices", "global_step", "directory", "cost_model", "unit", "remark", "target", "device"])
    directories = run_directories(config.dirname)
    if config.watch:
        from tunas.report.watch import watch

        watch(directories)
        return 0
    skipped = 0
    doubtful = False
    for directory in directories:
        try:
            found = findings(directory, config.cost_model, config.rl_cost_model_tolerance, config.target)
        except InputError as error:
            print(f"tunas: {error}" + ("; skipping" if len(directories) > 1 else ""), file=sys.stderr)
            skipped += 1
            continue
        doubtful |= any(bool(each.missing or each.misses) for each in found)
        for warning in (warning for each in found for warning in each.warnings):
            print(f"warning: {warning}", file=sys.stderr)
        for each in found:
            if config.output_format == "csv":
                cost = "" if each.cost is None else f"{each.cost:f}"
                of = ("" if each.target is None else f"{each.target:g}", each.device)
                writer.writerow([each.architecture.text, each.step, directory, cost, each.unit, each.remark, *of])
            else:
                print_lines(each)
    if skipped == len(directories):
        return 2
    return NOT_AS_ASKED if doubtful else 0


def print_lines(found: Finding) -> None:
    """What a search came to for a target, for people."""
    print(f"directory = {found.directory}")
    print(f"global_step = {found.step}")
    if found.target is not None:
        print(f"target = {found.target:g}" + (f"  # {found.device}" if found.device else ""))
    print(f"indices = {found.architecture.text}" + (f"  # {found.remark}" if found.remark else ""))
    if found.cost is not None:
        print(f"cost_model = {found.cost:f}")
        print(f"unit = {found.unit}")
    print()
