"""`Data`: a dataset's splits as streams of batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from tunas.data.augmentation import Augmentation
from tunas.data.examples import BadImageError
from tunas.data.identity import Identity
from tunas.data.order import Order, check_shard, stream_order
from tunas.data.parts import BadImages, Batch, FilePart, Part
from tunas.errors import InputError

SPLITS = ("train", "valid", "full_train", "test")


class Data:
    """A dataset of labelled images in four splits.

    Splits are `train`; `valid`, held out from the training images; `full_train`, both of these; and `test`.

    Attributes:
        name: of the dataset, for people.
        num_classes: labels are 0 to num_classes - 1.
        class_names: in the order of the labels.
        image_size: S, pixels a side of every image handed out.
        bad_images: those that could not be decoded so far, where they are skipped; `bad_images.report()` says which.
        identity: what makes this the dataset that it is; part of a run.
        alone: whether there are only images to evaluate on, as `test`.
    """

    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        image_size: int,
        parts: Mapping[str, Part],
        bad_images: BadImages | None = None,
        *,
        identity: Identity | None = None,
        missing: Mapping[str, str] | None = None,
        alone: bool = False,
    ):
        self.name = name
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.image_size = image_size
        self.bad_images = bad_images or BadImages()
        self.identity = identity or Identity(class_names, None, 0)
        self.alone = alone
        self._parts = dict(parts)
        self._missing = dict(missing or {})

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(part)}" for split, part in self._parts.items())
        return f"Data({self.name!r}, {self.num_classes} classes, {self.image_size} px, {sizes})"

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of `SPLITS` that the dataset has; `test` may be missing."""
        return tuple(self._parts)

    def size(self, split: str) -> int:
        """How many images `split` lists, bad ones included.

        Raises:
            InputError: where there is no such split.
        """
        return len(self._part(split))

    def stored(self, split: str, count: int) -> Iterator[bytes]:
        """Up to `count` images of `split`, spread over it, encoded as they lie on storage; none of the embedded digits,
        which lie in no files, and none that cannot be read."""
        part = self._part(split)
        if not isinstance(part, FilePart):
            return
        examples, indices = part.decoder.examples, part.decoder.indices
        chosen = indices[np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(np.int64)]
        for index, content in zip(chosen.tolist(), examples.read(chosen.tolist()), strict=True):
            if isinstance(content, bytes):
                with contextlib.suppress(BadImageError):
                    yield examples.parse(index, content)[0]

    def ready(self, split: str) -> None:
        """Makes the evaluation views of `split`, where they are kept, so that a bad image shows now.

        Raises:
            InputError: where there is no such split, or an image is bad and not to be skipped.
        """
        part = self._part(split)
        if isinstance(part, FilePart) and part.cache_dir is not None:
            _ = part.cached

    def stream(
        self,
        split: str,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        shard: tuple[int, int] = (0, 1),
        augment: bool | Augmentation = False,
    ) -> Iterator[Batch]:
        """Batches without end, a function of the arguments alone: not of the number of workers, nor of what was read
        before.

        The global batch of step s covers positions [s·B, (s+1)·B) of the epochs' permutations laid end to end. Shard
        (k, n) gets the k-th of n equal contiguous parts of every global batch, so that all shards together see what one
        would. Starting at `start_step` goes on as if the steps before it had been read. Where bad images are skipped,
        the next good one of the split takes the place of a bad one.

        Args:
            split: one of `SPLITS`.
            batch_size: B, images in a global batch; divisible by the number of shards.
            seed: of the order and of the augmentation, which is keyed by (seed, epoch, example).
            start_step: the first step to yield.
            shard: (k, n).
            augment: what random views there are in place of the evaluation crop; True for the published ones
                (docs/algorithm.md#data), which the embedded digits do without.

        Yields:
            uint8 `[B / n, 3, S, S]` and int64 `[B / n]`, on the host.

        Raises:
            InputError: where the split is unknown, the batch cannot be divided, or an image is bad and not to be
            skipped.
        """
        part = self._part(split)
        check_shard(batch_size, shard, divides=True)
        order = stream_order(len(part), batch_size, seed, SPLITS.index(split), start_step, shard, part.groups(augment))
        return part.random_batches(order, seed, augment)

    def given(
        self, split: str, order: Order, *, seed: int = 0, augment: bool | Augmentation = False
    ) -> Iterator[Batch]:
        """The views of given examples of `split`, a batch for each (epochs, places) pair of equally many.

        Args:
            split: one of `SPLITS`.
            order: int64 arrays `[n]`, of the same n each time; places count in the split.
            seed, augment: as for `stream`.
        """
        return self._part(split).random_batches(order, seed, augment)

    def keys(self, split: str) -> np.ndarray:
        """int64 `[size]`: the index in the whole training set of every example of `train`, `valid` or `full_train`."""
        return self._part(split).keys

    def keys_stream(
        self, split: str, batch_size: int, *, seed: int, start_step: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Order:
        """Epochs and keys of the examples that `stream` yields for the same arguments, int64 `[B / n]` each."""
        part = self._part(split)
        keys = part.keys
        order = stream_order(len(part), batch_size, seed, SPLITS.index(split), start_step, shard, part.groups(True))
        for epochs, places in order:
            yield epochs, keys[places]

    def once(self, split: str, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Every image of `split` exactly once over all shards, with the evaluation crop, in a fixed order; skipped ones
        not at all.

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
            why = f" ({self._missing[split]})" if split in self._missing else ""
            raise InputError(f"{self.name} has no split {split!r}; it has {', '.join(self._parts)}{why}")
        return self._parts[split]
