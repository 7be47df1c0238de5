"""Held-out quality of the most likely architecture during a search, with the shared weights as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunas.run.scores import Row, is_due, write_summary
from tunas.run.session import ended
from tunas.search.aims import Aim
from tunas.space import Architecture


def held_out_qualities(search: Any, *, each_whole: bool) -> list[float]:
    """Mean quality, for each target, of its most likely architecture over the held-out examples.

    Batch statistics are those of `valid_share` examples in random order, as when a sampled architecture is measured.
    The order is the same each time; what is left of the split after its last whole batch is not counted.

    Args:
        search: a `tunas.search.step.Search`, in every process.
        each_whole: whether every target's is measured on all examples, not on its own replicas' alone; that is as many
            times the work as there are targets.
    """
    plan = search.plan
    likeliest = [aim.controller.most_likely() for aim in search.aims]
    batches = max(1, search.task.size("valid") // (plan.valid_share * plan.replicas))
    if each_whole:
        return [float(qualities_of(search, [one], batches)[0]) for one in likeliest]
    dealt = [likeliest[replica % len(likeliest)] for replica in range(plan.replicas)]
    found = _by_replica(search, [dealt], batches)[0]
    return [float(found[number :: len(likeliest)].mean()) for number in range(len(likeliest))]


def qualities_of(search: Any, architectures: Sequence[Architecture], batches: int) -> np.ndarray:
    """`[N]`: quality of each architecture with the shared weights as they are, on the same examples for all.

    Args:
        batches: of as many examples as a step of the search measures on, the same each time.
    """
    dealt = [[architecture] * search.plan.replicas for architecture in architectures]
    return _by_replica(search, dealt, batches).mean(axis=(1, 2))


def _by_replica(search: Any, dealt: Sequence[Sequence[Architecture]], batches: int) -> np.ndarray:
    """`[N, replicas, batches]`: qualities of N times one architecture for each replica, each on its own examples."""
    plan, task, world = search.plan, search.task, search.world
    indices = np.array([[architecture.indices for architecture in row] for row in dealt])
    batch, shard = plan.valid_share * plan.replicas, (world.rank, world.size)
    stream = task.share_stream("valid", batch, len(search.local_replicas), seed=search.config.seed, shard=shard)
    found = []
    with ended(stream):
        for _ in range(batches):
            examples = next(stream)
            found.append(torch.stack([search.qualities(row, examples, plan.valid_share) for row in indices], 1))
    gathered: np.ndarray = world.gather(torch.stack(found, 2)).cpu().double().numpy()
    return gathered.swapaxes(0, 1)


class Scoring:
    """The scores of a search, in one process.

    Args:
        search: a `tunas.search.step.Search`.
        directory: of the run, for `summary.csv`.
    """

    def __init__(self, search: Any, directory: Path):
        self.search, self.directory = search, directory
        self.rows: list[Row] = []

    @property
    def name(self) -> str:
        """The column of `summary.csv` that holds the scores."""
        return f"eval_{self.search.task.quality_name}"

    def after(self, done: int, scalars: dict[str, float]) -> dict[str, float] | None:
        """What to log after `done` steps whose last one had these scalars; None where no scoring is due."""
        search, plan = self.search, self.search.plan
        if not is_due(done, plan.steps, plan.eval_steps):
            return None
        place = {
            "epoch": round(done * plan.batch / search.task.size("train"), 4),
            "step": done,
            "train_loss": scalars["model/loss"],
        }
        qualities = held_out_qualities(search, each_whole=done == plan.steps)
        rows = [self._row(aim, quality, place, scalars) for aim, quality in zip(search.aims, qualities, strict=True)]
        self.rows = [*(old for old in self.rows if old["step"] != done), *rows]
        search.world.from_main(lambda: write_summary(self.directory, self.rows))
        names = (f"eval/{aim.place}{search.task.quality_name}" for aim in search.aims)
        return dict(zip(names, (row[self.name] for row in rows), strict=True))

    def _row(self, aim: Aim, quality: float, place: Row, scalars: dict[str, float]) -> Row:
        """A target's row of `summary.csv`."""
        architecture = aim.controller.most_likely()
        reward = aim.scalar(scalars, "reward")
        return {
            **place,
            **({"target": aim.objective.target} if len(self.search.aims) > 1 else {}),
            "reward": "" if reward is None else reward,  # none where nothing was measured
            "entropy": aim.scalar(scalars, "entropy"),
            "cost": aim.objective.cost_of(architecture),
            self.name: quality,
            "indices": architecture.text,
        }

    def status(self) -> str:
        """The last score in words, of several targets their mean, for the progress line; nothing where there is
        none."""
        last = [row[self.name] for row in self.rows[-len(self.search.aims) :]]
        return f" most likely {sum(last) / len(last):.3f}" if last else ""
