"""A task: where its batches come from, and what is made of what the network gives."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from tunas.data.loader import SPLITS
from tunas.data.order import check_shard, stream_order
from tunas.errors import InputError
from tunas.task.batches import length
from tunas.task.datasets import Batch, Examples, once_jobs, share_jobs
from tunas.task.metric import Metric


class Task:
    """What is learned: examples in three splits, and what is wanted of a network that sees them.

    An example is whatever `collate` makes batches of; where it is left out, a pair (inputs, target) of tensors, arrays
    or numbers, or tuples and dicts of them. A batch is a pair (inputs, targets). The batch of a step is a function of
    (seed, step), whatever the number of workers and processes. What is random in the datasets' transforms, in `augment`
    and in `collate` may draw from the global generators of `random`, NumPy and torch: they are set before each
    example.

    Args:
        train, valid, test: map-style datasets (with `__len__` and `__getitem__`); test may be missing.
        loss: (outputs, targets) -> mean over the batch, a differentiable scalar: what the weights minimise.
        quality: (outputs, targets) -> mean over the batch, one number: what a search maximises. The `abs` reward adds
            cost to it, so that it should be of the order of 1, as an accuracy is.
        collate: list of examples -> (inputs, targets).
        augment: example -> example, for the training examples alone.
        prepare: a batch's inputs, on the device -> what the network takes.
        metrics: by name, what else is counted over a whole split when a network is evaluated: a `Metric`, or a
            torchmetrics object. Loss and quality, as means over the examples, always are.
        num_classes: outputs of the classifier, where a tower's network learns the task.
        num_workers: processes that fetch examples; 0 for none but the run itself. `--num_workers` goes before it.
        name: for people, and in `result.json`.
        unit: what an example is called, in the plural.
        quality_name: what the quality is called.

    Attributes:
        network_arguments: what building a tower's network takes beside the architecture.
        cost_arguments: what pricing a space takes beside its name.
        compared: names of facts and of the identity that `check_same` compares.
        evaluation_view: how the inputs of an evaluation are made from what is stored, in words, for `result.json`.
        is_proven: whether every network of a tower is known to fit it.
        data: where the examples are labelled images, these (`tunas.data.Data`); None where they are not.
        guessing_loss: what the metric `loss` is where nothing has been learned; None where that is not known.
        metrics: those counted over a whole split, in this order.
        draws_nothing: whether `prepare`, `loss` and `quality` are functions of their arguments alone, so that several
            threads may call them at once with the same result.

    Raises:
        InputError: where a split is no map-style dataset or empty, or a function cannot be called.
    """

    name = "task"
    unit = "examples"
    quality_name = "quality"
    num_workers = 0
    is_proven = False
    network_arguments: Mapping[str, Any] = {}
    compared: frozenset[str] = frozenset()
    evaluation_view: Mapping[str, Any] = {}
    draws_nothing = False
    data: Any = None
    guessing_loss: float | None = None
    metrics: Mapping[str, Any] = {}

    def __init__(
        self,
        train: Any,
        valid: Any,
        test: Any = None,
        *,
        loss: Callable[[Any, Any], Tensor],
        quality: Callable[[Any, Any], Tensor | float],
        collate: Callable[[list[Any]], Any] | None = None,
        augment: Callable[[Any], Any] | None = None,
        prepare: Callable[[Any], Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        num_workers: int = 0,
        name: str = "task",
        unit: str = "examples",
        quality_name: str = "quality",
    ):
        functions = {"loss": loss, "quality": quality, "collate": collate, "augment": augment, "prepare": prepare}
        for what, function in functions.items():
            if not callable(function) and not (function is None and what not in ("loss", "quality")):
                raise InputError(f"{what} of a task must be a function, not {function!r}")
        self._functions: dict[str, Any] = functions
        self.name, self.unit, self.quality_name, self.num_workers = name, unit, quality_name, num_workers
        self._parts = {
            "train": Examples("train", train, collate, augment),
            "valid": Examples("valid", valid, collate, augment),
        }
        self._parts["full_train"] = Examples("full_train", ConcatDataset([train, valid]), collate, augment)
        if test is not None:
            self._parts["test"] = Examples("test", test, collate, augment)
        if num_classes is not None:
            self.network_arguments = {"num_classes": num_classes}
        self.metrics = {quality_name: Metric(_summed(quality)), "loss": Metric(_summed(loss))}
        for key, metric in (metrics or {}).items():
            if key in self.metrics:
                raise InputError(f"the metric {key!r} has the name of one that is always counted; choose another name")
            if not isinstance(metric, Metric) and not (hasattr(metric, "update") and hasattr(metric, "compute")):
                raise InputError(f"the metric {key!r} must be a tunas.Metric or a torchmetrics object, not {metric!r}")
            self.metrics[key] = metric

    @functools.cached_property
    def cost_arguments(self) -> Mapping[str, Any]:
        """What a network is counted by: the prepared inputs of one example, or for a tower their size.

        Raises:
            InputError: where a tower shall learn from something other than square images.
        """
        batches: Any = self.once("train", 1)
        with contextlib.closing(batches):
            inputs, _ = next(batches)
        example = self.prepare(inputs)
        if not self.network_arguments:
            return {"example": example}
        if not (isinstance(example, Tensor) and example.dim() == 4 and example.shape[2] == example.shape[3]):
            what = list(example.shape) if isinstance(example, Tensor) else type(example).__name__
            raise InputError(
                f"num_classes of {self.name} is for a tower, which takes square images [N, 3, S, S], not {what}; leave "
                f"it out for a model of your own"
            )
        return {"image_size": example.shape[3], **self.network_arguments}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {', '.join(f'{s} {self.size(s)}' for s in self.splits)})"

    def with_workers(self, count: int | None) -> Task:
        """The same task with so many processes that fetch; itself where None."""
        if count is None:
            return self
        changed = copy.copy(self)
        changed.num_workers = count
        return changed

    @property
    def splits(self) -> tuple[str, ...]:
        """`train`; `valid`; `full_train`, both of these; and where there is one, `test`."""
        return tuple(self._parts)

    def size(self, split: str) -> int:
        """How many examples `split` lists.

        Raises:
            InputError: where there is no such split.
        """
        return len(self._part(split))

    def ready(self, split: str) -> None:
        """Makes ready what going through `split` will need, so that what it lacks shows before a run begins.

        Raises:
            InputError: where there is no such split, or it cannot be used.
        """
        self.size(split)

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
        streamed: dict[str, Any] = {"seed": seed, "start_step": start_step, "shard": shard, "augment": augment}
        shares: Any = self.share_stream(split, batch_size, 1, **streamed)
        with contextlib.closing(shares):
            for (batch,) in shares:
                yield batch

    def share_stream(
        self,
        split: str,
        batch_size: int,
        shares: int,
        *,
        seed: int,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        augment: bool = False,
    ) -> Iterator[list[Batch]]:
        """The batches of `stream`, this shard's part of each in `shares` equal pieces.

        Each piece is collated on its own, so that it is the same whichever process gets it.
        """
        part = self._part(split)
        check_shard(batch_size, shard, divides=True)
        order = stream_order(len(part), batch_size, seed, SPLITS.index(split), start_step, shard)
        first = start_step * batch_size + shard[0] * (batch_size // shard[1])
        jobs = share_jobs(order, first, batch_size, shares, seed, augment)
        with contextlib.closing(part.stream(jobs, self.num_workers, shares)) as batches:
            while True:
                yield [next(batches) for _ in range(shares)]

    def once(self, split: str, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every example of `split` exactly once over all shards; as `tunas.data.Data.once`."""
        part = self._part(split)
        check_shard(batch_size, shard, divides=False)
        return part.stream(once_jobs(len(part), batch_size, shard), self.num_workers)

    def _part(self, split: str) -> Examples:
        if split not in self._parts:
            raise InputError(f"{self.name} has no split {split!r}; it has {', '.join(self._parts)}")
        return self._parts[split]

    def prepare(self, inputs: Any) -> Any:
        """What the network takes, of a batch's inputs on its device."""
        function = self._functions["prepare"]
        return function(inputs) if function else inputs

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over a batch, differentiable: what the weights minimise."""
        return self._functions["loss"](outputs, targets)

    def quality(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over a batch, `[]`: what a search maximises."""
        return torch.as_tensor(self._functions["quality"](outputs, targets))

    def facts(self) -> dict[str, Any]:
        """What `params.json` keeps of it: the next session of a run must find the same."""
        sizes = {f"{split}_{self.unit}": self.size(split) for split in self.splits if split != "full_train"}
        counted = {name: value for name, value in self.cost_arguments.items() if name != "example"}
        return {"dataset": self.name, **counted, **sizes}

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


def _summed(mean: Callable[[Any, Any], Tensor | float]) -> Callable[[Any, Any], Tensor]:
    """The sum over a batch, of a function that gives its mean."""
    return lambda outputs, targets: torch.as_tensor(mean(outputs, targets)) * length(targets)
