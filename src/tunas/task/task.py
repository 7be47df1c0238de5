"""A task: where its batches come from, and what is made of what the network gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tunas.task.metric import Metric

Batch = tuple[Any, Any]
"""Inputs and targets: each a tensor, or a tuple, list or dict of such, with the examples along the first dimension."""


class Task:
    """What is learned.

    Attributes:
        name: for people, and in `result.json`.
        unit: what an example is called, in the plural.
        quality_name: what the quality is called.
        network_arguments: what building a tower's network takes beside the architecture.
        cost_arguments: what pricing a space takes beside its name.
        compared: names of facts and of the identity that `check_same` compares.
        evaluation_view: how the inputs of an evaluation are made from what is stored, in words, for `result.json`.
        metrics: counted over a whole split when a network is evaluated, in this order.
        draws_nothing: whether `prepare`, `loss` and `quality` are functions of their arguments alone, so that several
            threads may call them at once with the same result.
    """

    name = "task"
    unit = "examples"
    quality_name = "quality"
    network_arguments: Mapping[str, Any] = {}
    cost_arguments: Mapping[str, Any] = {}
    compared: frozenset[str] = frozenset()
    evaluation_view: Mapping[str, Any] = {}
    metrics: Mapping[str, Metric] = {}
    draws_nothing = False

    def size(self, split: str) -> int:
        """How many examples `split` lists.

        Raises:
            InputError: where there is no such split.
        """
        raise NotImplementedError

    def stream(
        self,
        split: str,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        augment: bool = False,
    ) -> Iterator[Batch]:
        """Batches without end, a function of the arguments alone; as `tunas.data.Data.stream`."""
        raise NotImplementedError

    def once(self, split: str, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every example of `split` exactly once over all shards; as `tunas.data.Data.once`."""
        raise NotImplementedError

    def prepare(self, inputs: Any) -> Any:
        """What the network takes, of a batch's inputs on its device."""
        return inputs

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over a batch, differentiable: what the weights minimise."""
        raise NotImplementedError

    def quality(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over a batch: what a search maximises."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """What `params.json` keeps of it: the next session of a run must find the same."""
        return {"dataset": self.name}

    def identity(self) -> dict[str, Any]:
        """What `params.json` keeps of the examples themselves, for `check_same` to compare."""
        return {}

    def check_same(self, params: Mapping[str, Any], where: Path) -> None:
        """Compares the examples with those of the run whose `params.json` this is, before the run goes on.

        Raises:
            InputError: naming the first difference.
        """

    def evaluated_split(self, wanted: str) -> str:
        """The split that stands for `wanted` where weights are evaluated alone."""
        return wanted

    def describe(self, directory: Path) -> None:
        """Writes into the directory of a run what a reader of its results wants to know of the examples."""

    def left_out(self) -> str | None:
        """A sentence about examples that could not be used so far; None where there are none."""
        return None
