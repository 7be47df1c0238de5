"""`Data`: a dataset's splits as streams of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tunas.data.order import check_shard, shard_range, stream_order
from tunas.errors import InputError

SPLITS = ("train", "valid", "full_train", "test")
Batch = tuple[Tensor, Tensor]
"""uint8 images `[n, 3, S, S]` and int64 labels `[n]`, in memory of the host."""


class Part(Protocol):
    """One split, wherever its pixels lie."""

    def __len__(self) -> int: ...

    def random_batches(self, order: Iterator[tuple[np.ndarray, np.ndarray]], seed: int, augment: bool) -> Iterator[Batch]:
        """A batch for every (epoch, example) pair of int64 arrays in `order`."""
        ...

    def all_batches(self, batch_size: int, shard: tuple[int, int]) -> Iterator[Batch]:
        """The shard's examples once, in order; the last batch may be smaller."""
        ...


@dataclass(frozen=True)
class PixelPart:
    """A split whose pixels lie in memory: a batch is one gather. There is no augmentation."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def random_batches(self, order: Iterator[tuple[np.ndarray, np.ndarray]], seed: int, augment: bool) -> Iterator[Batch]:
        for _, examples in order:
            rows = torch.from_numpy(np.array(examples))
            yield self.pixels.index_select(0, rows), self.labels.index_select(0, rows)

    def all_batches(self, batch_size: int, shard: tuple[int, int]) -> Iterator[Batch]:
        start, stop = shard_range(len(self), shard)
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            yield self.pixels[first:last], self.labels[first:last]


class Data:
    """A dataset of labelled images in four splits.

    Splits are `train`; `valid`, held out from the training images; `full_train`, both of these; and `test`.

    Attributes:
        name: of the dataset, for people.
        num_classes: labels are 0 to num_classes - 1.
        class_names: in the order of the labels.
        image_size: S, pixels a side of every image handed out.
    """

    def __init__(self, name: str, class_names: tuple[str, ...], image_size: int, parts: Mapping[str, Part]):
        self.name = name
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.image_size = image_size
        self._parts = dict(parts)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(part)}" for split, part in self._parts.items())
        return f"Data({self.name!r}, {self.num_classes} classes, {self.image_size} px, {sizes})"

    def size(self, split: str) -> int:
        """How many images `split` has.

        Raises:
            InputError: where there is no such split.
        """
        return len(self._part(split))

    def stream(
        self, split: str, batch_size: int, *, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1), augment: bool = False
    ) -> Iterator[Batch]:
        """Batches without end, a function of the arguments alone: not of the number of workers, nor of what was read before.

        The global batch of step s covers positions [s·B, (s+1)·B) of the epochs' permutations laid end to end. Shard (k, n)
        gets the k-th of n equal contiguous parts of every global batch, so that all shards together see what one would.
        Starting at `start_step` goes on as if the steps before it had been read.

        Args:
            split: one of `SPLITS`.
            batch_size: B, images in a global batch; divisible by the number of shards.
            seed: of the order and of the augmentation, which is keyed by (seed, epoch, example).
            start_step: the first step to yield.
            shard: (k, n).
            augment: random resized crop and flip (SPEC §5) in place of the evaluation crop. The embedded digits have neither.

        Yields:
            uint8 `[B / n, 3, S, S]` and int64 `[B / n]`, on the host.

        Raises:
            InputError: where the split is unknown or the batch cannot be divided.
        """
        part = self._part(split)
        check_shard(batch_size, shard, divides=True)
        order = stream_order(len(part), batch_size, seed, SPLITS.index(split), start_step, shard)
        return part.random_batches(order, seed, augment)

    def once(self, split: str, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every image of `split` exactly once over all shards, with the evaluation crop, in a fixed order.

        Args:
            split: one of `SPLITS`.
            batch_size: images in each batch of this shard; its last batch may be smaller.
            shard: (k, n): this shard's images are the k-th of n nearly equal contiguous parts.

        Yields:
            uint8 `[b, 3, S, S]` and int64 `[b]`, on the host.
        """
        part = self._part(split)
        check_shard(batch_size, shard, divides=False)
        return part.all_batches(batch_size, shard)

    def _part(self, split: str) -> Part:
        if split not in self._parts:
            raise InputError(f"{self.name} has no split {split!r}; it has {', '.join(self._parts)}")
        return self._parts[split]
