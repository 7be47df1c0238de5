"""The processes that decode: jobs go in, chunks of uint8 pixels come out, in order."""

from __future__ import annotations

import itertools
import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tunas.data.examples import BadImageError, Examples
from tunas.data.images import decode, evaluation_view, random_crop, shrunk, training_view
from tunas.data.pixel_cache import PixelCache
from tunas.data.storage import read_ranges, reason
from tunas.errors import InputError

CHUNK = 64
"""Images that a process decodes before it hands them on: enough to hide the hand-over, few enough that a batch is shared out."""
MAX_WORKERS = 16
_AHEAD = 1.5
"""Batches that are decoded in advance, so that the next one is ready when a step ends."""

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingJob:
    """Augmented views of examples (by their places in the split); a bad image is replaced by the next one of the split."""

    epochs: np.ndarray
    places: np.ndarray
    seed: int


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluation views of examples; a bad image is left out, or replaced by the next one of the split."""

    places: np.ndarray
    replace: bool


@dataclass(frozen=True)
class ShrinkJob:
    """Whole images with a shorter side of at most `short_side`; a bad image is left out."""

    places: np.ndarray
    short_side: int


Job = TrainingJob | EvaluationJob | ShrinkJob


@dataclass(frozen=True)
class Chunk:
    """What became of one job.

    Attributes:
        images: uint8 `[n, S, S, 3]`, or the bytes of n images of different shapes one after the other.
        labels: int64 `[n]`.
        shapes: int32 `[n, 2]`, height and width.
        good: bool `[places of the job]`: which examples could be decoded.
        bad: name and reason of each one that could not.
        error: where the run must stop, the sentence that says why.
    """

    images: Tensor
    labels: np.ndarray
    shapes: np.ndarray
    good: np.ndarray
    bad: tuple[tuple[str, str], ...] = ()
    error: str | None = None


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
        return _Run(self, job).chunk()


class _Run:
    """One job at work."""

    def __init__(self, decoder: Decoder, job: Job):
        self.decoder = decoder
        self.job = job
        self.bad: list[tuple[str, str]] = []

    def chunk(self) -> Chunk:
        job, size = self.job, self.decoder.image_size
        replace = isinstance(job, TrainingJob) or (isinstance(job, EvaluationJob) and job.replace)
        views: list[Tensor] = []
        labels: list[int] = []
        good = np.zeros(len(job.places), bool)
        cached = isinstance(job, TrainingJob) and self.decoder.train_cache is not None
        contents = self._contents(job.places) if not cached else [None] * len(job.places)
        fixed = torch.empty((len(job.places), size, size, 3), dtype=torch.uint8) if not isinstance(job, ShrinkJob) else None
        try:
            for number, (place, content) in enumerate(zip(job.places.tolist(), contents, strict=True)):
                try:
                    pixels, label, place = self._replaced(place, content) if replace else (*self._pixels(place, content), place)
                except BadImageError:
                    continue
                good[number] = True
                view = self._view(number, place, pixels)
                if fixed is None:
                    views.append(view)
                else:
                    fixed[len(labels)] = view
                labels.append(label)
        except InputError as error:
            return Chunk(torch.empty(0), np.empty(0), np.empty(0), good, tuple(self.bad), str(error))
        if fixed is not None:
            images, shapes = fixed[: len(labels)], np.full((len(labels), 2), size, np.int32)
        else:
            images = torch.cat([view.reshape(-1) for view in views]) if views else torch.empty(0, dtype=torch.uint8)
            shapes = np.array([view.shape[:2] for view in views], np.int32).reshape(-1, 2)
        return Chunk(images, np.array(labels, np.int64), shapes, good, tuple(self.bad))

    def _view(self, number: int, place: int, pixels: Tensor) -> Tensor:
        job, size = self.job, self.decoder.image_size
        if isinstance(job, EvaluationJob):
            return evaluation_view(pixels, size)
        if isinstance(job, ShrinkJob):
            return shrunk(pixels, job.short_side)
        example = int(self.decoder.indices[place])
        return training_view(pixels, random_crop(pixels.shape[0], pixels.shape[1], job.seed, int(job.epochs[number]), example), size)

    def _contents(self, places: np.ndarray) -> list[bytes | OSError]:
        decoder = self.decoder
        return read_ranges([decoder.examples.range(index) for index in decoder.indices[places].tolist()])

    def _replaced(self, place: int, content: bytes | OSError | None) -> tuple[Tensor, int, int]:
        """Pixels, label and place of the first good example from `place` on."""
        total = len(self.decoder)
        for candidate in itertools.islice(itertools.cycle(range(total)), place, place + total):
            try:
                return (*self._pixels(candidate, content), candidate)
            except BadImageError:
                content = None
        raise InputError("not one image of the split can be decoded")

    def _pixels(self, place: int, content: bytes | OSError | None) -> tuple[Tensor, int]:
        """Pixels `[height, width, 3]` and label; of a bad image `BadImageError` where it may be skipped, `InputError` where it may not."""
        decoder = self.decoder
        index = int(decoder.indices[place])
        try:
            if isinstance(self.job, TrainingJob) and decoder.train_cache is not None:
                return decoder.train_cache.image(index)
            if content is None:
                (content,) = self._contents(np.array([place]))
            if isinstance(content, OSError):
                raise BadImageError(reason(content))
            encoded, label = decoder.examples.parse(index, content)
            return decode(encoded), label
        except BadImageError as error:
            name = decoder.examples.name(index)
            self.bad.append((name, str(error)))
            if decoder.on_bad_image == "fail":
                raise InputError(f"cannot read image {name}: {error} (on_bad_image=skip leaves such images out)") from None
            raise


def default_workers() -> int:
    """As many processes as this one may use processors, divided among the ranks on this machine, at most `MAX_WORKERS`."""
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
    """A terminal and a scheduler signal every process of a run: it is for the run to say when its decoding ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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
