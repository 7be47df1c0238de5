"""How good a network is, over a whole split."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.recipe.precision import autocast
from tunas.run.device import World
from tunas.run.transfer import arriving
from tunas.task.batches import as_float, length, on_device
from tunas.task.metric import Metric
from tunas.task.task import Task

BROKEN = 1.2
"""A network whose loss is more than so many times that of guessing counts as broken."""


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Args:
        metrics: by the names of the task's metrics, such as accuracy.
        examples: how many were counted.
    """

    metrics: dict[str, float]
    examples: int


def trouble(evaluation: Evaluation, split: str, guessing_loss: float | None) -> str | None:
    """A sentence where the network does worse than guessing would, as after a loss that exploded; None where it does
    not, or the task does not know what guessing costs."""
    loss = evaluation.metrics.get("loss")
    if loss is None or guessing_loss is None or loss <= BROKEN * guessing_loss:
        return None
    return (
        f"the loss on {split} is {loss:.3g}, and guessing would cost {guessing_loss:.3g}: the training broke down, or "
        f"its running batch-norm statistics lag behind; a longer --warmup_steps_fraction, --clip_grad, a lower "
        f"--base_learning_rate or a higher --bn_momentum help"
    )


@torch.no_grad()
def evaluate(
    network: nn.Module, task: Task, split: str, world: World, *, batch_size: int = 256, precision: str = "fp32"
) -> Evaluation:
    """The task's metrics over a whole split, every example counted once over all processes.

    Args:
        network: takes what `task.prepare` gives; is left in eval mode.
        batch_size: per process; the last one may be smaller.

    Raises:
        InputError: where a metric is not one number, or cannot be added up over the processes.
    """
    network.eval()
    counters = {name: _counter(name, metric, world) for name, metric in task.metrics.items()}
    examples = torch.zeros((), dtype=torch.float64)

    def outputs_of(inputs: Any) -> Any:
        with autocast(world.device, precision):
            outputs = network(task.prepare(inputs))
        return as_float(outputs)

    for batch in arriving(task.once(split, batch_size, shard=(world.rank, world.size)), world.device):
        examples += length(batch)
        inputs, targets = batch
        outputs = outputs_of(inputs)
        for counter in counters.values():
            counter.add(outputs, targets)
    if not examples:  # fewer examples than processes: this one still has to know what is added up
        inputs, targets = on_device(next(task.once(split, 1)), world.device)
        outputs = outputs_of(inputs)
        for counter in counters.values():
            counter.add_nothing(outputs, targets)
    count = int(_added_up(examples, world))
    return Evaluation({name: counter.result(count) for name, counter in counters.items()}, count)


class _Sums:
    """Counts for a `Metric`."""

    def __init__(self, metric: Metric, world: World):
        self.metric, self.world = metric, world
        self.sums: Tensor | None = None
        self._counted: Tensor | None = None

    def add(self, outputs: Any, targets: Any) -> None:
        """Takes in a batch."""
        counted = self.metric.count(outputs, targets)
        self._take_in()
        self._counted = counted  # fetched when the next batch is queued, so that a GPU does not stand still for it

    def _take_in(self) -> None:
        if self._counted is not None:
            counted = self._counted.cpu().double()
            self.sums = counted if self.sums is None else self.sums + counted
            self._counted = None

    def add_nothing(self, outputs: Any, targets: Any) -> None:
        """Zeros in the shape of what this batch would add."""
        self.sums = torch.zeros_like(self.metric.count(outputs, targets), dtype=torch.float64, device="cpu")

    def result(self, examples: int) -> float:
        """The figure over `examples` of all processes."""
        self._take_in()
        assert self.sums is not None
        return self.metric.result(_added_up(self.sums, self.world), examples)


class _Foreign:
    """Counts by a torchmetrics object, which itself adds up over the processes."""

    def __init__(self, name: str, metric: Any, world: World):
        if world.size > 1 and not hasattr(metric, "sync"):
            raise InputError(
                f"the metric {name!r} cannot be added up over {world.size} processes; give a tunas.Metric or a "
                f"torchmetrics object"
            )
        self.name, self.metric = name, copy.deepcopy(metric)
        if hasattr(self.metric, "reset"):
            self.metric.reset()
        if hasattr(self.metric, "to"):
            self.metric = self.metric.to(world.device)

    def add(self, outputs: Any, targets: Any) -> None:
        self.metric.update(outputs, targets)

    def add_nothing(self, outputs: Any, targets: Any) -> None:
        """Its state is what it starts from."""

    def result(self, examples: int) -> float:
        value = self.metric.compute()
        if isinstance(value, dict) or (isinstance(value, Tensor) and value.numel() != 1):
            what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else "a dict"
            raise InputError(f"the metric {self.name!r} must be one number, not {what}")
        return float(value)


def _counter(name: str, metric: Any, world: World) -> _Sums | _Foreign:
    return _Sums(metric, world) if isinstance(metric, Metric) else _Foreign(name, metric, world)


def _added_up(sums: Tensor, world: World) -> Tensor:
    """The sums of all processes."""
    if world.size == 1:
        return sums
    on_its_device = sums.reshape(-1).to(world.device)
    world.sum_(on_its_device)
    return on_its_device.cpu().view(sums.shape)
