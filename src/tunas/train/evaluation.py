"""How good a network is, over a whole split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunas.recipe.precision import autocast
from tunas.run.device import World
from tunas.task.batches import as_float, length, on_device
from tunas.task.task import Task


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Args:
        metrics: by the names of the task's metrics, such as accuracy.
        examples: how many were counted.
    """

    metrics: dict[str, float]
    examples: int


@torch.no_grad()
def evaluate(
    network: nn.Module, task: Task, split: str, world: World, *, batch_size: int = 256, precision: str = "fp32"
) -> Evaluation:
    """The task's metrics over a whole split, every example counted once over all processes.

    Args:
        network: takes what `task.prepare` gives; is left in eval mode.
        batch_size: per process; the last one may be smaller.
    """
    network.eval()
    sums: dict[str, Tensor] = {}
    examples = torch.zeros((), dtype=torch.float64)
    for inputs, targets in task.once(split, batch_size, shard=(world.rank, world.size)):
        examples += length(targets)
        inputs, targets = on_device(inputs, world.device), on_device(targets, world.device)
        with autocast(world.device, precision):
            outputs = network(task.prepare(inputs))
        outputs = as_float(outputs)
        for name, metric in task.metrics.items():
            counted = metric.count(outputs, targets).double().cpu()
            sums[name] = sums[name] + counted if name in sums else counted
    for total in (*sums.values(), examples):
        _add_up(total, world)
    count = int(examples)
    return Evaluation({name: metric.result(sums[name], count) for name, metric in task.metrics.items()}, count)


def _add_up(sums: Tensor, world: World) -> None:
    """Replaces the sums of this process by those of all."""
    if world.size > 1:
        on_its_device = sums.reshape(-1).to(world.device)
        world.sum_(on_its_device)
        sums.copy_(on_its_device.view(sums.shape))
