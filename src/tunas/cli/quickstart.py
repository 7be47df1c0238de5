"""`tunas quickstart`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuickstartConfig:
    """The whole way on the embedded handwritten digits, in minutes on two processors: search an architecture for a
    Pixel-1 time, train it, and compare it with random architectures of the same time."""

    checkpoint_dir: str = "runs/quickstart"
    """Directory of the runs. What is done there already is not done again."""

    ssd: str = "proxylessnas_search"
    """Search space."""

    cost_model: str | None = None
    """pixel1, params, macs, peak_memory, flash, or a file that `tunas fit` wrote. As for `tunas search` where left
    out."""

    rl_cost_model_target: float | None = None
    """The cost to land on. As for `tunas search` where left out."""

    train_epochs: float = 12.0
    """Epochs of each stand-alone training."""

    random: int = 3
    """Random architectures to compare with."""

    seed: int = 0
    """Of everything random."""


def run(config: QuickstartConfig) -> None:
    import time
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from tunas.files import write_text
    from tunas.study.quickstart import quickstart, rows_as_json

    began = time.perf_counter()
    directory = Path(config.checkpoint_dir)
    rows, target, unit = quickstart(
        directory,
        config.ssd,
        config.rl_cost_model_target,
        train_epochs=config.train_epochs,
        random=config.random,
        seed=config.seed,
        cost_model=config.cost_model,
    )
    write_text(directory / "comparison.json", rows_as_json(rows) + "\n")
    table = Table(title=f"{config.ssd}, target {target:.4g} {unit}, embedded digits")
    for column in ("architecture", f"predicted {unit}", "off target", "test accuracy"):
        table.add_column(column, justify="left" if column == "architecture" else "right")
    for row in rows:
        table.add_row(
            row.name, f"{row.cost:.4g}", f"{100 * (row.cost / target - 1):+.2f} %", f"{100 * row.quality:.2f} %"
        )
    Console(soft_wrap=True).print(table)
    print(f"searched indices = {rows[0].architecture.text}")
    print(f"{time.perf_counter() - began:.0f} s; everything is in {config.checkpoint_dir}")
