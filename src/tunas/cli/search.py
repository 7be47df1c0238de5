"""`tunas search`."""

from __future__ import annotations

from tunas.search.config import SearchConfig


def run(config: SearchConfig) -> None:
    import os

    from rich.console import Console
    from rich.table import Table

    from tunas.search.loop import search

    result = search(config)
    if os.environ.get("RANK", "0") != "0":
        return
    table = Table(title=f"search of {result.architecture.space.name}", show_header=False)
    table.add_row("indices", result.architecture.text)
    if result.cost is not None and result.target is not None:
        table.add_row("predicted cost", f"{result.cost:.4g} {result.unit}")
        table.add_row("target", f"{result.target:.4g} {result.unit} ({100 * (result.cost / result.target - 1):+.2f} %)")
    table.add_row("steps", str(result.steps))
    table.add_row("directory", str(result.checkpoint_dir))
    console = Console(soft_wrap=True)
    console.print(table)
    print(f"indices = {result.architecture.text}")
    print(f"next: tunas train --ssd={result.architecture.space.name} --indices={result.architecture.text}")
