"""`tunas rank`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankConfig:
    """Is the ranking by shared weights real? Architectures measured with the weights of a search against the same ones
    trained alone, in a study or here, at every checkpoint that the search has kept."""

    checkpoint_dir: str
    """Directory of a search, finished or running."""

    study: str | None = None
    """Directory of a `tunas study` of the same space, or one CSV file of it. Where left out, random architectures that
    cost what the search aimed for are trained here, below the search's directory."""

    random: int = 24
    """Without a study: how many architectures are trained."""

    train: tuple[str, ...] = ()
    """Without a study: a flag of `tunas train` for every training, as name=value, such as epochs=30."""

    workers: int = 1
    """Without a study: trainings at a time, in processes that share this machine's processors."""

    dataset_dir: str | None = None
    """Where the search's examples are now, if they were moved."""

    examples: int = 2048
    """Held-out examples that each architecture is measured on: the same for all, in batches as large as in the search,
    and no more than there are."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""

    seed: int = 0
    """Of the order of the examples, and of the resampled architectures."""

    out: str | None = None
    """A JSON file for the figures and every quality. rank.json in the search's directory where left out."""


def run(config: RankConfig) -> None:
    import dataclasses
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from tunas.flags import refuse
    from tunas.study.rank import RANK, rank

    if config.study is not None:
        refuse(config, ["random", "train", "workers"], "with --study, which has trained already")
    out = config.out or str(Path(config.checkpoint_dir) / RANK)
    found = rank(**{**dataclasses.asdict(config), "out": out})
    counts = list(found.rankings[0].correlation.regret)
    table = Table(
        title=f"{len(found.architectures)} architectures, {found.examples} held-out examples each", pad_edge=False
    )
    for name in ("step", "shared", "Spearman", "Kendall", "95 %", *(f"top {count}" for count in counts)):
        table.add_column(name)
    for ranking in found.rankings:
        correlation = ranking.correlation
        interval = correlation.interval
        table.add_row(
            str(ranking.step),
            f"{ranking.qualities.mean():.4f}",
            _signed(correlation.spearman),
            _signed(correlation.kendall),
            f"{interval[0]:+.2f}, {interval[1]:+.2f}" if interval else "",
            *(f"{correlation.regret[count]:.4f}" for count in counts),
        )
    Console().print(table)
    print(f"shared: mean {found.quality_name} with shared weights; alone it is {found.stand_alone.mean():.4f}")
    print("top k: its regret, the best alone minus the best alone of the k that look best with shared weights")
    if any(ranking.correlation.spearman is None for ranking in found.rankings):
        print("no correlation: all architectures have the same quality there")
    print(f"wrote {out}")


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3f}"
