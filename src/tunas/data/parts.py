"""One split of a dataset, wherever its pixels lie: in memory, or in files that are decoded."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tunas.data.ahead import one_ahead
from tunas.data.augmentation import PUBLISHED, Augmentation
from tunas.data.chunk import Chunk
from tunas.data.decoder import Decoder, EvaluationJob, Job, ShrinkJob, TrainingJob, bad_image_sentence
from tunas.data.decoding import chunks, kill
from tunas.data.images import PREPROCESSING_VERSION, augmented_view
from tunas.data.order import Order, shard_range, windows
from tunas.data.pixel_cache import PixelCache, kept_pixels
from tunas.data.progress import progress
from tunas.errors import InputError

CHUNK = 64
"""Images that a process decodes before it hands them on: enough to hide the hand-over, few enough that a batch is
shared out."""
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
        """The cache of what `made` gives, whose bad images are noted."""
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
        """Chunks of the whole split in order, under a progress bar; `job` makes the job for some places."""
        with progress(f"decoding {self.name}", len(self)) as advance:
            jobs = (job(np.arange(start, min(start + CHUNK, len(self)))) for start in range(0, len(self), CHUNK))
            with contextlib.closing(chunks(self.decoder, jobs, self.workers)) as made:
                for chunk in made:
                    advance(len(chunk.good))
                    yield chunk

    def _decoded_once(self, batch_size: int, shard: tuple[int, int]) -> Generator[Batch]:
        """`all_batches` where nothing is kept."""
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
        """The chunks as one batch; what is bad in them is noted."""
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
        """Takes in (name, reason) of bad images; those that are known already count once."""
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
