"""`tunas quickstart`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QuickstartConfig:
    """The whole way on the embedded handwritten digits, in minutes on two processors: search an architecture for a Pixel-1 time, train
    it, and compare it with random architectures of the same time."""

    checkpoint_dir: str = "runs/quickstart"
    """Directory of the runs. What is done there already is not done again."""

    ssd: str = "proxylessnas_search"
    """Search space; one with Pixel-1 tables."""

    rl_cost_model_target: float | None = None
    """Pixel-1 milliseconds to land on. 84 (proxyless spaces) or 57 (V3-like) where left out."""

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

    from tunas.errors import InputError
    from tunas.files import write_text
    from tunas.space import get_space
    from tunas.study.quickstart import quickstart, rows_as_json

    target = config.rl_cost_model_target or get_space(config.ssd).default_target
    if target is None:
        raise InputError(f"{config.ssd} has no Pixel-1 tables; the quickstart needs one of the three search spaces of the paper")
    began = time.perf_counter()
    rows = quickstart(Path(config.checkpoint_dir), config.ssd, target, config.train_epochs, config.random, config.seed)
    write_text(Path(config.checkpoint_dir) / "comparison.json", rows_as_json(rows) + "\n")
    table = Table(title=f"{config.ssd}, target {target:g} ms, embedded digits")
    for column in ("architecture", "predicted ms", "off target", "test accuracy"):
        table.add_column(column, justify="left" if column == "architecture" else "right")
    for row in rows:
        table.add_row(row.name, f"{row.cost:.2f}", f"{100 * (row.cost / target - 1):+.2f} %", f"{100 * row.accuracy:.2f} %")
    Console(soft_wrap=True).print(table)
    print(f"searched indices = {rows[0].architecture.text}")
    print(f"{time.perf_counter() - began:.0f} s; everything is in {config.checkpoint_dir}")
