"""`tunas released`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ReleasedConfig:
    """Read files of random and of searched architectures in the released format: check every row, compare, fit accuracy
    to architecture."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """random_architectures.csv and, optionally, searched_architectures.csv: paths, or URLs that fsspec understands."""

    out: str | None = None
    """Directory for a picture of each space (accuracy against time) and its accuracy model, `<ssd>.json`, which `tunas
    search --accuracy_model` takes."""


def run(config: ReleasedConfig) -> None:
    from rich.console import Console
    from rich.table import Table

    from tunas.errors import InputError
    from tunas.study.released import check_out, summaries, write_pictures_and_models

    if not 1 <= len(config.files) <= 2:
        raise InputError(
            f"give one file of random architectures, and after it one of searched ones, not {len(config.files)} files"
        )
    if config.out is not None:
        check_out(config.out)
    found = summaries(*config.files)
    table = Table()  # fits 80 columns
    table.add_column("space", overflow="fold")
    for name in ("kind", "rows", "ms", "off by, ms", "mean", "best", "rank corr."):
        table.add_column(name)
    for summary in found:
        times = [row.time for row in summary.rows]
        accuracies = summary.accuracies
        table.add_row(
            summary.space.name,
            summary.kind,
            str(len(times)),
            f"{min(times):.2f} to {max(times):.2f}",
            f"{summary.difference:.2g}",
            f"{sum(accuracies) / len(accuracies):.4f}" if accuracies else "",
            f"{max(accuracies):.4f}" if accuracies else "",
            f"{summary.fit.rank_correlation:.3f}" if summary.fit else "",
        )
    Console().print(table)
    print("off by: largest difference between the file's times and ours; mean, best: validation accuracy;")
    print("rank corr.: between accuracies and what a model fitted to the other nine tenths predicts (Spearman)")
    if config.out is not None:
        print(f"wrote {', '.join(write_pictures_and_models(found, config.out))} to {config.out}")
