"""`tunas search`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from tunas.flags import as_told
from tunas.search.config import SearchConfig

FAR = 0.01
"""Off the target by more, relative to it, a search says how to get closer."""


def run(config: SearchConfig) -> int:
    import os

    from rich.console import Console
    from rich.table import Table

    from tunas.errors import NOT_AS_ASKED
    from tunas.search.loop import search

    result = search(config)
    code = 0 if all(found.as_asked for found in result.frontier) else NOT_AS_ASKED
    if os.environ.get("RANK", "0") != "0":
        return code
    table = Table(title=f"search of {result.architecture.space.name}", show_header=False)
    table.add_row("indices", result.architecture.text)
    off = None
    if result.cost is not None and result.target is not None:
        off = result.cost / result.target - 1
        table.add_row("predicted cost", f"{result.cost:.4g} {result.unit}")
        table.add_row("target", f"{result.target:.4g} {result.unit} ({100 * off:+.2f} %)")
    if result.at_most is not None:
        table.add_row("at most", f"{result.at_most:.4g} {result.unit}")
    for number, timed in enumerate(result.timed, 1):
        then = timed.at_speed_of_then
        verdict = "holds" if result.at_most is None or then <= result.at_most else "over"
        table.add_row(
            f"measured, winner {number}",
            f"{timed.measured:.4g} ms now, {then:.4g} ms at the speed of the cost model's samples ({verdict}); "
            f"predicted {timed.predicted:.4g} ms",
        )
    table.add_row("steps", str(result.steps))
    table.add_row("directory", str(result.checkpoint_dir))
    console = Console(soft_wrap=True)
    console.print(table)
    print(f"indices = {result.architecture.text}")
    said = config.rl_cost_model_tolerance is not None or config.constraint or config.at_most is not None
    if off is not None and abs(off) > FAR and not said:
        print(
            f"closer to the target: tunas analyze {quote(f'--dirname={result.checkpoint_dir}')} "
            f"--rl_cost_model_tolerance={FAR} finds the likeliest architecture within {FAR:.0%}"
        )
    if result.timed and not result.as_asked:
        print(
            f"missed: none of {len(result.timed)} winners took at most {result.at_most:.4g} {result.unit} when it was "
            "measured; a longer search, or a higher --at_most"
        )
    elif code:
        print(
            f"missed: no architecture near the most likely one costs within {config.rl_cost_model_tolerance:.2%} of "
            f"the target; this one is {100 * (off or 0.0):+.2f} % off"
        )
    print(f"next: {next_command(config, result.checkpoint_dir)}")
    return code


def next_command(config: SearchConfig, directory: Path) -> str:
    """How to train what the search found: the run says the rest of what it was told."""
    words = ["tunas train", quote(f"--from={directory}"), *as_told(config, ["device"])]
    if config.accuracy_model is not None:
        words.append("--dataset_dir=…")
    return " ".join(words)
