"""`Data`: a dataset's splits as streams of batches."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tunas.data.ahead import one_ahead
from tunas.data.augmentation import PUBLISHED, Augmentation
from tunas.data.decoding import (
    CHUNK,
    Chunk,
    Decoder,
    EvaluationJob,
    Job,
    ShrinkJob,
    TrainingJob,
    bad_image_sentence,
    chunks,
    kill,
)
from tunas.data.examples import BadImageError
from tunas.data.identity import Identity
from tunas.data.images import PREPROCESSING_VERSION, augmented_view
from tunas.data.order import Order, check_shard, shard_range, stream_order, windows
from tunas.data.pixel_cache import PixelCache, kept_pixels
from tunas.data.progress import progress
from tunas.errors import InputError

SPLITS = ("train", "valid", "full_train", "test")
Batch = tuple[Tensor, Tensor]
"""uint8 images `[n, 3, S, S]` (channels_last in memory) and int64 labels `[n]`, on the host."""
log = logging.getLogger("tunas.data")


class Part(Protocol):
    """One split, wherever its pixels lie."""

    def __len__(self) -> int: ...

    @property
    def keys(self) -> np.ndarray:
        """int64 `[split]`: each example's index in the whole training set, or in the test set."""
        ...

    def groups(self, augment: bool | Augmentation) -> np.ndarray | None:
        """Which examples are read together, as `order.windows` gives them; None where each is read alone."""
        ...

    def random_batches(self, order: Order, seed: int, augment: bool | Augmentation) -> Generator[Batch]:
        """A batch for every (epoch, example) pair of int64 arrays in `order`."""
        ...

    def all_batches(self, batch_size: int, shard: tuple[int, int]) -> Generator[Batch]:
        """The shard's examples once, in order; the last batch may be smaller."""
        ...


@dataclass(frozen=True)
class PixelPart:
    """A split whose pixels lie in memory, or in a file that is mapped there: a batch is one gather where nothing is
    augmented.

    Attributes:
        pixels: uint8 `[rows, S, S, 3]`.
        labels: int64 `[rows]`.
        rows: int64 `[split]`, the row of every example, where the rows are fewer because some images are bad; they
            share the row of the next good image in a stream, and are left out where all are gone through once.
    """

    pixels: Tensor
    labels: Tensor
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels) if self.rows is None else len(self.rows)

    @property
    def keys(self) -> np.ndarray:
        return np.arange(len(self))

    def groups(self, augment: bool | Augmentation) -> None:
        return None

    def random_batches(self, order: Order, seed: int, augment: bool | Augmentation) -> Generator[Batch]:
        if isinstance(augment, Augmentation):
            yield from self._augmented(order, seed, augment)
            return
        for _, examples in order:
            rows = torch.from_numpy(np.array(examples) if self.rows is None else self.rows[examples])
            images = self.pixels.flatten(1).index_select(0, rows).view(-1, *self.pixels.shape[1:])
            yield images.permute(0, 3, 1, 2), self.labels.index_select(0, rows)

    def _augmented(self, order: Order, seed: int, augmentation: Augmentation) -> Generator[Batch]:
        size = self.pixels.shape[1]
        for epochs, examples in order:
            rows = torch.from_numpy(np.array(examples) if self.rows is None else self.rows[examples])
            views = [
                augmented_view(self.pixels[row], size, augmentation, seed, int(epoch), int(example), whole=True)
                for row, epoch, example in zip(rows.tolist(), epochs, examples, strict=True)
            ]
            yield torch.stack(views).permute(0, 3, 1, 2), self.labels.index_select(0, rows)

    def all_batches(self, batch_size: int, shard: tuple[int, int]) -> Generator[Batch]:
        start, stop = shard_range(len(self.labels), shard)
        for first in range(start, stop, batch_size):
            last = min(first + batch_size, stop)
            yield (
                self.pixels[first:last].permute(0, 3, 1, 2).clone(memory_format=torch.preserve_format),
                self.labels[first:last].clone(),
            )


@dataclass(frozen=True)
class FilePart:
    """A split whose images are decoded as they are needed; or once, into a file, where it is gone through again and
    again.

    Attributes:
        name: of the split.
        decoder: makes its chunks.
        workers: processes that decode.
        bad_images: where names of bad ones are noted.
        cache_dir: where the evaluation views are kept; None decodes them each time.
        dataset: name of the dataset, the first part of the file's name.
    """

    name: str
    decoder: Decoder
    workers: int
    bad_images: BadImages
    cache_dir: Path | None
    dataset: str

    def __len__(self) -> int:
        return len(self.decoder)

    @property
    def keys(self) -> np.ndarray:
        return self.decoder.indices

    def groups(self, augment: bool | Augmentation) -> np.ndarray | None:
        if (not augment and self.cache_dir is not None) or (augment and self.decoder.train_cache is not None):
            return None
        groups = self.decoder.examples.read_groups()
        return None if groups is None else windows(groups[self.decoder.indices])

    def random_batches(self, order: Order, seed: int, augment: bool | Augmentation) -> Generator[Batch]:
        if not augment and self.cache_dir is not None:
            return one_ahead(self.cached.random_batches(order, seed, augment))
        first = next(order)
        lengths = _chunk_lengths(len(first[0]))
        augmentation = augment if isinstance(augment, Augmentation) else PUBLISHED

        def jobs() -> Iterator[Job]:
            for epochs, places in itertools.chain([first], order):
                for start, length in lengths:
                    part = slice(start, start + length)
                    yield (
                        TrainingJob(epochs[part], places[part], seed, augmentation)
                        if augment
                        else EvaluationJob(places[part], replace=True)
                    )

        started: list[BaseProcess] = []
        made = self._joined(chunks(self.decoder, jobs(), self.workers, len(lengths), started), len(lengths))
        return one_ahead(made, left=lambda: kill(started)) if self.workers else made

    def all_batches(self, batch_size: int, shard: tuple[int, int]) -> Generator[Batch]:
        if self.cache_dir is not None:
            return one_ahead(self.cached.all_batches(batch_size, shard))
        return self._decoded_once(batch_size, shard)

    @functools.cached_property
    def cached(self) -> PixelPart:
        """The split's evaluation views, decoded by the first process that asks for them, ever."""
        assert self.cache_dir is not None
        size = self.decoder.image_size
        made = self._every_chunk(lambda places: EvaluationJob(places, replace=False))
        cache = self._kept(f"{self.name}-{size}", "evaluation", made, self.cache_dir, check_pixels=True)
        if not len(cache.labels):
            raise InputError(f"not one image of the {self.name} split of {self.dataset} can be decoded")
        following = np.minimum.accumulate(np.where(cache.good, np.arange(len(cache.good)), len(cache.good))[::-1])[::-1]
        rows = (np.cumsum(cache.good) - 1)[np.where(following < len(cache.good), following, following[0])]
        return PixelPart(cache.squares(), cache.labels, rows)

    def kept_whole(self, short_side: int, cache_dir: Path) -> PixelCache:
        """The split's whole images with a shorter side of at most `short_side`, decoded by the first process that asks
        for them, ever.

        Only the tables are checked on opening: to read hundreds of gigabytes at every start would cost more than it
        saves.
        """
        made = self._every_chunk(lambda places: ShrinkJob(places, short_side))
        return self._kept(f"{self.name}-whole-{short_side}", "whole", made, cache_dir, check_pixels=False)

    def _kept(
        self, title: str, kind: str, made: Generator[Chunk], cache_dir: Path, *, check_pixels: bool
    ) -> PixelCache:
        fingerprint = self.decoder.examples.fingerprint(self.decoder.indices)
        key = f"{title} {kind} {PREPROCESSING_VERSION} {fingerprint}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
        path = cache_dir / f"{self.dataset}-{title}-{digest}.pixels"
        with contextlib.closing(made):
            cache = kept_pixels(path, key, made, check_pixels=check_pixels)
        if cache.bad and self.decoder.on_bad_image == "fail":  # an earlier run skipped them
            raise InputError(f"{bad_image_sentence(*cache.bad[0])}; noted in {cache.path}")
        self.bad_images.note(cache.bad)
        return cache

    def _every_chunk(self, job: Callable[[np.ndarray], Job]) -> Generator[Chunk]:
        with progress(f"decoding {self.name}", len(self)) as advance:
            jobs = (job(np.arange(start, min(start + CHUNK, len(self)))) for start in range(0, len(self), CHUNK))
            with contextlib.closing(chunks(self.decoder, jobs, self.workers)) as made:
                for chunk in made:
                    advance(len(chunk.good))
                    yield chunk

    def _decoded_once(self, batch_size: int, shard: tuple[int, int]) -> Generator[Batch]:
        start, stop = shard_range(len(self), shard)
        spans = [(first, _chunk_lengths(min(batch_size, stop - first))) for first in range(start, stop, batch_size)]
        jobs = (
            EvaluationJob(np.arange(first + s, first + s + n), replace=False)
            for first, lengths in spans
            for s, n in lengths
        )
        with contextlib.closing(chunks(self.decoder, jobs, self.workers, len(_chunk_lengths(batch_size)))) as made:
            for _, lengths in spans:
                images, labels = self._batch(list(itertools.islice(made, len(lengths))))
                if len(labels):
                    yield images, labels

    def _joined(self, made: Generator[Chunk], count: int) -> Generator[Batch]:
        """Batches of `count` chunks each."""
        with contextlib.closing(made):
            while parts := list(itertools.islice(made, count)):
                yield self._batch(parts)

    def _batch(self, parts: Sequence[Chunk]) -> Batch:
        for part in parts:
            self.bad_images.note(part.bad)
        images = parts[0].images if len(parts) == 1 else torch.cat([part.images for part in parts])
        return images.permute(0, 3, 1, 2), torch.from_numpy(np.concatenate([part.labels for part in parts]))


def _chunk_lengths(batch: int) -> list[tuple[int, int]]:
    """(start, length) of nearly equal chunks of a batch."""
    count = -(-batch // CHUNK)
    return [(batch * k // count, batch * (k + 1) // count - batch * k // count) for k in range(count)]


class BadImages:
    """Names of images that could not be decoded and were left out, each once; the first ones are logged as they are
    met."""

    SHOWN = 5

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def note(self, bad: Iterable[tuple[str, str]]) -> None:
        for name, why in bad:
            if name not in self.reasons:
                self.reasons[name] = why
                if len(self.reasons) <= self.SHOWN:
                    log.warning("left out %s: %s", name, why)

    def report(self) -> str | None:
        """A sentence with the count and the first names; None where there are none."""
        if not self.reasons:
            return None
        names = list(self.reasons)
        more = f", and {len(names) - self.SHOWN} more" if len(names) > self.SHOWN else ""
        return f"{len(names)} images could not be decoded and were left out: {', '.join(names[: self.SHOWN])}{more}"


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
