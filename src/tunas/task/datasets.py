"""Batches of a map-style dataset, each a function of (seed, step): whoever fetches it, and whatever was fetched before.

What is random in a dataset's transforms draws from the global generators of Python, NumPy and torch; these are set
before each example, and put back afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import random
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, TensorDataset, default_collate

from tunas.data.decoding import chunks
from tunas.data.order import shard_range
from tunas.errors import InputError
from tunas.task.batches import mapped

Batch = tuple[Any, Any]
"""Inputs and targets: each a tensor, or a tuple, list or dict of such, with the examples along the first dimension."""
EXAMPLES = 3
"""Purpose of a draw, beside those of `tunas.data.order`."""
WORDS = 4
"""Random words that one place of a Philox counter gives."""


@dataclass(frozen=True)
class Job:
    """Examples to fetch, by their places; the seed of each; and whether they are augmented."""

    places: np.ndarray
    seeds: np.ndarray
    augment: bool


@dataclass(frozen=True)
class Piece:
    """What became of a job: its batch, or what says why the run must stop."""

    batch: Any = None
    error: InputError | None = None


class Examples(Dataset[Piece]):
    """One split. Pickled into the processes that fetch, where there are any.

    Args:
        split: its name.
        dataset: has `__len__` and `__getitem__`.
        collate: makes a pair (inputs, targets) of a list of examples; torch's own where None.
        augment: changes an example; None leaves all as they are.

    Raises:
        InputError: where the dataset is no map-style dataset, or empty.
    """

    def __init__(
        self,
        split: str,
        dataset: Any,
        collate: Callable[[list[Any]], Any] | None,
        augment: Callable[[Any], Any] | None,
    ):
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise InputError(
                f"{split} must be a map-style dataset, with __len__ and __getitem__, unlike {type(dataset).__name__}"
            )
        self.split, self.dataset, self.collate, self.augment = split, dataset, collate, augment
        self.size = len(dataset)
        if not self.size:
            raise InputError(f"the dataset given as {split} is empty")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, job: Any) -> Piece:
        try:
            return Piece(self._batch(job))
        except InputError as error:
            return Piece(error=error)

    def _batch(self, job: Job) -> Batch:
        """The batch of a job, all of whose random numbers come from its seeds."""
        if len(self.dataset) != self.size:
            raise InputError(
                f"the dataset given as {self.split} had {self.size} examples when the run began, and has "
                f"{len(self.dataset)} now; it must stay the same"
            )
        if self._is_gather(job):
            return self._checked(_gathered(self.dataset, np.array(job.places)), len(job.places))
        with kept_random_state():
            examples = [self._example(*pair, job.augment) for pair in zip(job.places, job.seeds, strict=True)]
            try:
                batch = self.collate(examples) if self.collate else _as_tuples(default_collate(examples))
            except Exception as error:
                advice = "" if self.collate else "; give the task a collate function that can"
                raise InputError(
                    f"examples of {self.split} cannot be put into a batch: {told(error)}{advice}"
                ) from error
        return self._checked(batch, len(examples))

    def _is_gather(self, job: Job) -> bool:
        """Whether nothing can be random and a batch is one look-up."""
        return self._is_table and self.collate is None and not (job.augment and self.augment)

    @functools.cached_property
    def _is_table(self) -> bool:
        """Whether the examples are rows of tensors, or of several such tables alike below each other."""
        parts: list[Any] = self.dataset.datasets if type(self.dataset) is ConcatDataset else [self.dataset]
        if not all(type(part) is TensorDataset for part in parts):
            return False
        return len({tuple((tensor.dtype, tensor.shape[1:]) for tensor in part.tensors) for part in parts}) == 1

    def _example(self, place: int, seed: int, augment: bool) -> Any:
        """One example, whose random changes are drawn from the seed."""
        seed_generators(int(seed))
        try:
            example = self.dataset[int(place)]
            return self.augment(example) if augment and self.augment else example
        except Exception as error:
            raise InputError(f"example {place} of {self.split} cannot be read: {told(error)}") from error

    def _checked(self, batch: Any, count: int) -> Batch:
        """The batch of `count` examples, where it is one."""
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
            raise InputError(f"a batch of {self.split} must be a pair (inputs, targets), not {what}")
        lengths: set[int] = set()
        try:
            mapped(lambda tensor: lengths.add(len(tensor) if tensor.dim() else 0), batch)
        except InputError as error:
            raise InputError(f"in a batch of {self.split}: {error}") from None
        if lengths != {count}:
            found = ", ".join(map(str, sorted(lengths)))
            raise InputError(
                f"a batch of {count} examples of {self.split} must have {count} of everything, not {found}"
            )
        return batch[0], batch[1]

    def stream(self, jobs: Iterator[Job], workers: int, jobs_per_step: int = 1) -> Generator[Batch, None, None]:
        """A batch for every job, in order, fetched by `workers` processes (by this one where there are none)."""
        pieces: Any = chunks(self, jobs, workers, jobs_per_step)  # type: ignore[arg-type]
        with contextlib.closing(pieces):
            for piece in pieces:
                yield piece.batch


def _gathered(dataset: Any, places: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Rows of a `TensorDataset`, or of a `ConcatDataset` of such that are alike."""
    if type(dataset) is TensorDataset:
        rows = torch.from_numpy(places)
        return tuple(tensor[rows] for tensor in dataset.tensors)
    ends = np.array(dataset.cumulative_sizes)
    which = np.searchsorted(ends, places, side="right")
    tables: list[Any] = dataset.datasets
    found = [torch.empty(len(places), *tensor.shape[1:], dtype=tensor.dtype) for tensor in tables[0].tensors]
    for number, part in enumerate(tables):
        here = torch.from_numpy(np.flatnonzero(which == number))
        rows = torch.from_numpy(places)[here] - (int(ends[number - 1]) if number else 0)
        for batch, tensor in zip(found, part.tensors, strict=True):
            batch[here] = tensor[rows]
    return tuple(found)


def share_jobs(
    order: Iterator[tuple[np.ndarray, np.ndarray]], first: int, stride: int, shares: int, seed: int, augment: bool
) -> Iterator[Job]:
    """`shares` jobs for every step's places of `order`.

    Args:
        first: position in the run's sequence of examples of the first step's first one.
        stride: positions from a step's first one to the next step's.
        seed: of the run.
    """
    for _, places in order:
        for part in np.split(np.arange(len(places)), shares):
            yield Job(places[part], example_seeds(seed, first + int(part[0]), len(part)), augment)
        first += stride


def once_jobs(size: int, batch_size: int, shard: tuple[int, int]) -> Iterator[Job]:
    """Jobs for the shard's examples, each once, in order."""
    start, stop = shard_range(size, shard)
    for begin in range(start, stop, batch_size):
        places = np.arange(begin, min(begin + batch_size, stop))
        yield Job(places, example_seeds(0, begin, len(places)), augment=False)


def example_seeds(seed: int, first: int, count: int) -> np.ndarray:
    """uint64 `[count]`: seeds of consecutive positions in the sequence of examples, the same however it is divided."""
    generator = np.random.Philox(
        key=np.array([seed % 2**64, EXAMPLES], np.uint64), counter=np.array([first, 0, 0, 0], np.uint64)
    )
    return generator.random_raw(WORDS * count)[::WORDS]


def seed_generators(seed: int) -> None:
    """Starts what a dataset may draw from: the generators of Python, of NumPy, and torch's on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**63)


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """After the context the generators that `seed_generators` starts stand where they stood: they are the run's."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _as_tuples(batch: Any) -> Any:
    """The batch with tuples where torch's collate has made lists of them."""
    if isinstance(batch, dict):
        return {name: _as_tuples(part) for name, part in batch.items()}
    return tuple(_as_tuples(part) for part in batch) if isinstance(batch, list) else batch


def told(error: Exception) -> str:
    """The kind of an error in a user's code, its first line, and where it was raised."""
    lines = str(error).splitlines()
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return f"{said} ({Path(frame.filename).name}, line {frame.lineno})"
