"""`tunas search`."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from tunas.cost.model import with_unit
from tunas.flags import as_told
from tunas.search.config import SearchConfig

if TYPE_CHECKING:
    from rich.table import Table

    from tunas.search.result import SearchResult

FAR = 0.01
"""Where the result is farther off the target, relative to it, a search says how to get closer."""


def run(config: SearchConfig) -> int:
    import os

    from rich.console import Console

    from tunas.errors import NOT_AS_ASKED
    from tunas.search.loop import search

    result = search(config)
    code = 0 if all(found.as_asked for found in result.frontier) else NOT_AS_ASKED
    if os.environ.get("RANK", "0") != "0":
        return code
    console = Console(soft_wrap=True)
    console.print(result_table(config, result))
    for found in result.frontier:
        print(f"indices = {found.architecture.text}" + (f"  # {target_of(found)}" if result.others else ""))
    said = config.rl_cost_model_tolerance is not None or config.constraint or config.at_most is not None
    if any(abs(found.off or 0.0) > FAR for found in result.frontier) and not said:
        print(
            f"closer to the target: tunas analyze {quote(f'--dirname={result.checkpoint_dir}')} "
            f"--rl_cost_model_tolerance={FAR} finds the likeliest architecture within {FAR:.0%}"
        )
    if result.timed and not result.as_asked:
        print(
            f"missed: none of {len(result.timed)} winners took at most {with_unit(result.at_most, result.unit)} when "
            "it was measured; a longer search, or a higher --at_most"
        )
    for found in result.frontier:
        if found.within_tolerance is False:
            print(
                f"missed: no architecture near the most likely one costs within {config.rl_cost_model_tolerance:.2%} "
                f"of {'the target' if not result.others else target_of(found)}; this one is "
                f"{100 * (found.off or 0.0):+.2f} % off"
            )
    print(f"next: {next_command(config, result)}")
    return code


def result_table(config: SearchConfig, result: SearchResult) -> Table:
    """What was found: a row for each target where there are several."""
    from rich.table import Table

    if result.others:
        return frontier_table(config, result)
    table = Table(title=f"search of {result.architecture.space.name}", show_header=False)
    table.add_row("indices", result.architecture.text)
    if result.cost is not None and result.target is not None:
        table.add_row("predicted cost", with_unit(result.cost, result.unit))
        table.add_row("target", f"{target_of(result)} ({100 * (result.off or 0.0):+.2f} %)")
    for name, said in result.constraints.items():
        table.add_row(f"constraint {name}", f"{said['cost']:.4g}, limit {said['limit']:.4g}")
    if result.at_most is not None:
        table.add_row("at most", with_unit(result.at_most, result.unit))
    for number, timed in enumerate(result.timed, 1):
        then = timed.at_speed_of_then
        verdict = "holds" if result.at_most is None or then <= result.at_most else "over"
        at_speed = f"{then:.4g} ms at the speed of the cost model's samples ({verdict})"
        if timed.changed:
            at_speed = f"not in turn with the cost model's samples ({'; '.join(timed.changed)}; {verdict})"
        table.add_row(
            f"measured, winner {number}",
            f"{timed.measured:.4g} ms now, {at_speed}; predicted {timed.predicted:.4g} ms",
        )
    if result.candidates:
        best, many = result.candidates[0], len(result.candidates)
        table.add_row(
            "chosen", f"of {many}: {best.quality:.4f} with shared weights on {best.examples:,} held-out examples"
        )
    table.add_row("steps", str(result.steps))
    table.add_row("directory", str(result.checkpoint_dir))
    return table


def frontier_table(config: SearchConfig, result: SearchResult) -> Table:
    """A row for each target. The architectures are too long for it."""
    from rich.table import Table

    table = Table(
        title=f"search of {result.architecture.space.name} for {len(result.frontier)} targets, {result.steps} steps",
        caption=f"directory {result.checkpoint_dir}",
    )
    of_devices = len(config.cost_models) > 1
    for column in ("target", *(("cost model",) if of_devices else ()), "predicted cost", "off target", "sampled"):
        table.add_column(column, justify="left" if column == "cost model" else "right")
    for name, said in result.constraints.items():
        table.add_column(f"{name} (limit {said['limit']:.4g})", justify="right")
    for found, told in zip(result.frontier, config.by_target(), strict=True):
        device = (str(told.cost_model),) if of_devices else ()
        cost = with_unit(found.cost, found.unit)
        off, further = (
            f"{100 * (found.off or 0.0):+.2f} %",
            [f"{said['cost']:.4g}" for said in found.constraints.values()],
        )
        table.add_row(target_of(found), *device, cost, off, f"{found.quality:.4f}", *further)
    return table


def target_of(found: SearchResult) -> str:
    """The target in words."""
    return with_unit(found.target, found.unit)


def next_command(config: SearchConfig, result: SearchResult) -> str:
    """The command that trains what the search found, for the first of several targets; with `--from`, the run says the
    rest."""
    words = ["tunas train", quote(f"--from={result.checkpoint_dir}"), *as_told(config, ["device"])]
    if result.others:
        words.append(f"--indices={result.architecture.text}")
    if len(config.cost_models) > 1:
        words.append(quote(f"--cost_model={config.cost_models[0]}"))
    if config.accuracy_model is not None:
        words.append("--dataset_dir=…")
    return " ".join(words)
