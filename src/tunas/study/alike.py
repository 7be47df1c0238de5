"""One architecture against random ones of the same cost, all trained alike: what a search was worth."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.run.directory import RESULT, quality_in, read_json_object
from tunas.space import Architecture
from tunas.study.sample import random_alike
from tunas.task import Task
from tunas.train.config import TrainConfig
from tunas.train.loop import train


@dataclass(frozen=True)
class Row:
    """One trained architecture: what it is called, its predicted cost, and its quality in its training's evaluation."""

    name: str
    architecture: Architecture
    cost: float
    quality: float


def trained_alike(
    architecture: Architecture,
    model: Any,
    config: TrainConfig,
    task: Task | None = None,
    *,
    random: int = 8,
    window: float = 0.01,
    around: float | None = None,
) -> list[Row]:
    """The architecture and `random` random ones that cost the same, each trained as `config` says: it comes first.

    Every training is a run of its own under `config.checkpoint_dir`, and goes on where it was interrupted.

    Args:
        model: the cost model that prices architectures.
        config: of every training; its `indices` do not count.
        window: random ones cost within this part of `around`.
        around: a cost; the architecture's own where left out.

    Raises:
        InputError: where there are no such random architectures, or as `train`.
    """
    if random < 0:
        raise InputError(f"random must be 0 or more, not {random}")
    if config.checkpoint_dir is None:
        raise InputError("checkpoint_dir must name a directory, under which each training has its own")
    root, cost = Path(config.checkpoint_dir), float(model.estimate(architecture))
    entries = [("searched", architecture)]
    others = random_alike(architecture.space, model, around or cost, window, random, config.seed)
    entries += [(f"random {number + 1}", other) for number, other in enumerate(others)]
    rows = []
    for name, entry in entries:
        own = dataclasses.replace(config, indices=entry.text, checkpoint_dir=str(root / name.replace(" ", "-")))
        quality = _quality(own, task)
        rows.append(Row(name, entry, float(model.estimate(entry)), quality))
    return rows


def _quality(config: TrainConfig, task: Task | None) -> float:
    """Trains unless the result is there already."""
    done = Path(str(config.checkpoint_dir)) / RESULT
    if done.is_file():
        document = read_json_object(done)
        if (document.get("indices"), document.get("epochs")) == (config.indices, config.epochs):
            return quality_in(document)
    return quality_in(train(config, task).document)
