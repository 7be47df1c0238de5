"""The processes that decode: jobs go in, chunks of uint8 pixels come out, in order."""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tunas.data.augmentation import PUBLISHED, Augmentation
from tunas.data.chunk import Chunk
from tunas.data.examples import BadImageError, Examples
from tunas.data.images import augmented_view, decode, evaluation_view, shrunk
from tunas.data.pixel_cache import PixelCache
from tunas.data.storage import read_ranges, reason
from tunas.errors import InputError

CHUNK = 64
"""Images that a process decodes before it hands them on: enough to hide the hand-over, few enough that a batch is
shared out."""
MAX_WORKERS = 16
_AHEAD = 1.5
"""Batches that are decoded in advance, so that the next one is ready when a step ends."""
GRACE = 20
"""Seconds that a process goes on decoding after SIGTERM."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingJob:
    """Augmented views of examples (by their places in the split); a bad image is replaced by the next one of the
    split."""

    epochs: np.ndarray
    places: np.ndarray
    seed: int
    augmentation: Augmentation = PUBLISHED
    replace: bool = True

    def view(self, pixels: Tensor, number: int, example: int, size: int) -> Tensor:
        return augmented_view(pixels, size, self.augmentation, self.seed, int(self.epochs[number]), example)


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluation views of examples; a bad image is left out, or replaced by the next one of the split."""

    places: np.ndarray
    replace: bool

    def view(self, pixels: Tensor, number: int, example: int, size: int) -> Tensor:
        return evaluation_view(pixels, size)


@dataclass(frozen=True)
class ShrinkJob:
    """Whole images with a shorter side of at most `short_side`; a bad image is left out."""

    places: np.ndarray
    short_side: int
    replace: bool = False

    def view(self, pixels: Tensor, number: int, example: int, size: int) -> Tensor:
        return shrunk(pixels, self.short_side)


Job = TrainingJob | EvaluationJob | ShrinkJob


class Decoder(Dataset[Chunk]):
    """Makes chunks of one split. Pickled into the processes, so it holds tables and paths only.

    Args:
        examples: the table that the split is taken from.
        indices: int64 `[split]`: the split's examples in it.
        image_size: S.
        on_bad_image: fail or skip.
        train_cache: decoded images of the whole table, or None.
    """

    def __init__(
        self,
        examples: Examples,
        indices: np.ndarray,
        image_size: int,
        on_bad_image: Literal["fail", "skip"],
        train_cache: PixelCache | None = None,
    ):
        self.examples = examples
        self.indices = indices
        self.image_size = image_size
        self.on_bad_image = on_bad_image
        self.train_cache = train_cache

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, job: Any) -> Chunk:
        run = _Run(self, job)
        try:
            return run.ragged() if isinstance(job, ShrinkJob) else run.squares()
        except InputError as error:
            nothing = np.empty(0, np.int64)
            return Chunk(torch.empty(0), nothing, nothing, nothing, tuple(run.bad), str(error))


class _Run:
    """One job at work."""

    def __init__(self, decoder: Decoder, job: Job):
        self.decoder = decoder
        self.job = job
        self.cache = decoder.train_cache if isinstance(job, TrainingJob) else None
        self.good = np.zeros(len(job.places), bool)
        self.labels: list[int] = []
        self.bad: list[tuple[str, str]] = []

    def squares(self) -> Chunk:
        size = self.decoder.image_size
        images = torch.empty((len(self.good), size, size, 3), dtype=torch.uint8)
        for row, view in enumerate(self._views()):
            images[row] = view
        count = len(self.labels)
        return self._chunk(images[:count], np.full((count, 2), size, np.int32))

    def ragged(self) -> Chunk:
        views = list(self._views())
        images = torch.cat([view.reshape(-1) for view in views]) if views else torch.empty(0, dtype=torch.uint8)
        return self._chunk(images, np.array([view.shape[:2] for view in views], np.int32).reshape(-1, 2))

    def _chunk(self, images: Tensor, shapes: np.ndarray) -> Chunk:
        return Chunk(images, np.array(self.labels, np.int64), shapes, self.good, tuple(self.bad))

    def _views(self) -> Iterator[Tensor]:
        """A view for every good example, whose label is noted on the way."""
        decoder, job = self.decoder, self.job
        contents = self._contents(job.places.tolist()) if self.cache is None else [None] * len(job.places)
        for number, (place, content) in enumerate(zip(job.places.tolist(), contents, strict=True)):
            for candidate in self._candidates(place):
                try:
                    pixels, label = self._pixels(candidate, content if candidate == place else None)
                except BadImageError:
                    continue
                self.good[number] = True
                self.labels.append(label)
                yield job.view(pixels, number, int(decoder.indices[candidate]), decoder.image_size)
                break
            else:
                if job.replace:
                    raise InputError("not one image of the split can be decoded")

    def _candidates(self, place: int) -> Iterator[int]:
        """The example, and those that may take its place where it is bad."""
        yield place
        if self.job.replace:
            yield from itertools.chain(range(place + 1, len(self.decoder)), range(place))

    def _contents(self, places: Sequence[int]) -> list[bytes | OSError]:
        decoder = self.decoder
        return read_ranges([decoder.examples.range(int(decoder.indices[place])) for place in places])

    def _pixels(self, place: int, content: bytes | OSError | None) -> tuple[Tensor, int]:
        """Pixels `[height, width, 3]` and label; of a bad image `BadImageError` where it may be skipped, `InputError`
        where it may not."""
        decoder = self.decoder
        index = int(decoder.indices[place])
        try:
            if self.cache is not None:
                return self.cache.image(index)
            if content is None:
                (content,) = self._contents([place])
            if isinstance(content, OSError):
                raise BadImageError(reason(content))
            encoded, label = decoder.examples.parse(index, content)
            return decode(encoded), label
        except BadImageError as error:
            name = decoder.examples.name(index)
            self.bad.append((name, str(error)))
            if decoder.on_bad_image == "fail":
                raise InputError(bad_image_sentence(name, str(error))) from None
            raise


def bad_image_sentence(name: str, why: str) -> str:
    return f"cannot read image {name}: {why} (on_bad_image=skip leaves such images out)"


def default_workers() -> int:
    """As many processes as this one may use processors, divided among the ranks on this machine, at most
    `MAX_WORKERS`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local_ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, min(MAX_WORKERS, usable // max(1, int(local_ranks) if local_ranks.isdigit() else 1)))


def chunks(decoder: Decoder, jobs: Iterator[Job], workers: int, chunks_per_batch: int = 1) -> Iterator[Chunk]:
    """A chunk for every job, in order, made by `workers` processes (by this one where there are none).

    Raises:
        InputError: where a chunk says that the run must stop.
    """
    if workers == 0:
        made: Iterator[Chunk] = (decoder[job] for job in jobs)
    else:
        # The map-style loader takes its "indices" from any iterable and keeps their order: here, the jobs.
        loader = DataLoader(
            decoder,
            batch_size=None,
            sampler=_Once(jobs),
            num_workers=workers,
            prefetch_factor=max(2, math.ceil(_AHEAD * chunks_per_batch / workers)),
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # or it would draw a seed from torch's own, which is the run's
        )
        made = iter(loader)
    return _checked(made)


def _leave_signals(worker: int) -> None:
    """A terminal and a scheduler signal every process of a run: it is for the run to say when its decoding ends.

    After SIGTERM there is a while for that, because it is also how Python ends what is left when a run breaks off.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE) and None)


def _checked(made: Iterator[Chunk]) -> Iterator[Chunk]:
    try:
        for chunk in made:
            if chunk.error:
                raise InputError(chunk.error)
            yield chunk
    finally:
        del made  # the loader's last reference, so that its processes end now and not when a traceback is collected


@dataclass(frozen=True)
class _Once:
    """An iterable over an iterator, which is what a sampler must be."""

    jobs: Iterator[Job]

    def __iter__(self) -> Iterator[Job]:
        return self.jobs


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made by a thread while the last one is used."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="tunas-data") as pool:
        pending = pool.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
