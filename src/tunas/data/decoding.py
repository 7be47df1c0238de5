"""The processes that decode: jobs go in, chunks of uint8 pixels come out, in order."""

from __future__ import annotations

import atexit
import itertools
import math
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tunas.allocator import keep_freed_memory
from tunas.data.augmentation import PUBLISHED, Augmentation
from tunas.data.chunk import Chunk
from tunas.data.examples import BadImageError, Examples
from tunas.data.images import augmented_view, decode, evaluation_view, shrunk
from tunas.data.pixel_cache import PixelCache
from tunas.data.shared import SharedArrays
from tunas.data.storage import DamagedFileError, reason, storage_error
from tunas.errors import InputError, TemporaryError
from tunas.named import LoadedFiles

CHUNK = 64
"""Images that a process decodes before it hands them on: enough to hide the hand-over, few enough that a batch is
shared out."""
MAX_WORKERS = 16
_AHEAD = 1.5
"""Batches that are decoded in advance, so that the next one is ready when a step ends."""
GRACE = 20
"""Seconds that a process goes on decoding after SIGTERM."""


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
        self._shared: SharedArrays | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, job: Any) -> Chunk:
        run = _Run(self, job)
        try:
            return run.ragged() if isinstance(job, ShrinkJob) else run.squares()
        except (InputError, TemporaryError) as error:
            nothing = np.empty(0, np.int64)
            return Chunk(torch.empty(0), nothing, nothing, nothing, tuple(run.bad), error)

    def __getstate__(self) -> dict[str, Any]:
        if self._shared is None or self._shared["indices"] is not self.indices:
            self._shared = SharedArrays(indices=self.indices)
        return {**self.__dict__, "indices": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        assert self._shared is not None
        self.indices = self._shared["indices"]


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
        images = handed_over(len(self.good) * size * size * 3).view(len(self.good), size, size, 3)
        for row, view in enumerate(self._views()):
            images[row] = view
        count = len(self.labels)
        return self._chunk(images[:count], np.full((count, 2), size, np.int32))

    def ragged(self) -> Chunk:
        views = list(self._views())
        images = handed_over(sum(view.numel() for view in views))
        if views:
            torch.cat([view.reshape(-1) for view in views], out=images)
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
        return decoder.examples.read([int(decoder.indices[place]) for place in places])

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
            if isinstance(content, FileNotFoundError | DamagedFileError):
                raise BadImageError(reason(content))
            if isinstance(content, OSError):  # which says nothing about the image
                raise storage_error(f"image {decoder.examples.name(index)}", content)
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


def handed_over(size: int) -> Tensor:
    """uint8 `[size]`, in memory that the process which asked for it can map where this one is a worker.

    Raises:
        InputError: where there is too little of it.
    """
    if get_worker_info() is None or not size:
        return torch.empty(size, dtype=torch.uint8)
    try:
        # Here, and not on the way to the other process, where an error would be lost and the other wait for ever.
        return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))  # type: ignore[call-overload]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"the shared memory of this machine (/dev/shm) is too small for decoded images: "
            f"{str(error).splitlines()[0]}; make it larger (docker run --shm-size=2g, or a volume at /dev/shm), lower "
            f"--num_workers or the batch size, or decode in the run itself with --num_workers=0"
        ) from None


def chunks(
    decoder: Decoder,
    jobs: Iterator[Job],
    workers: int,
    chunks_per_batch: int = 1,
    started: list[BaseProcess] | None = None,
) -> Generator[Chunk]:
    """A chunk for every job, in order, made by `workers` processes (by this one where there are none). Closing it ends
    the processes, which are noted in `started`.

    Raises:
        InputError: where a chunk says that the run must stop.
        TemporaryError: where a storage does not answer, or a process was ended from outside.
    """
    if workers == 0:
        yield from _checked(decoder[job] for job in jobs)
        return
    # The map-style loader takes its "indices" from any iterable and keeps their order: here, the jobs.
    loader = DataLoader(
        _Carried(LoadedFiles(), decoder),
        batch_size=None,
        sampler=_Once(jobs),
        num_workers=workers,
        prefetch_factor=max(2, math.ceil(_AHEAD * chunks_per_batch / workers)),
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # or it would draw a seed from torch's own, which is the run's
    )
    made = _started(loader)
    if started is not None:
        started += made._workers
    try:
        yield from _checked(_told(made))
    finally:
        _end(made)


@dataclass
class _Carried(Dataset[Chunk]):
    """A decoder on its way to another process, where the files that define its classes come first."""

    files: LoadedFiles
    decoder: Decoder

    def __getitem__(self, job: Job) -> Chunk:
        return self.decoder[job]


_running: weakref.WeakSet[Any] = weakref.WeakSet()
"""What has processes that are to be ended before the interpreter goes."""


def _started(loader: DataLoader[Chunk]) -> Any:
    """The loader's iterator, with its processes at work.

    torch installs a handler of SIGCHLD that raises wherever the run happens to be. It does so in the main thread alone,
    so another one starts the processes; that one of them ended is noticed within seconds all the same.
    """
    outcome: list[Any] = []

    def start() -> None:
        try:
            outcome.append(iter(loader))
        except BaseException as error:
            outcome.append(error)

    # No pool: a forked process would wait for the pool's thread at its end, which it is itself, and exit with 1.
    thread = threading.Thread(target=start, name="tunas-start")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    _running.add(outcome[0])
    return outcome[0]


def _told(made: Any) -> Iterator[Chunk]:
    """The chunks, with the end of a process in one sentence."""
    try:
        yield from made
    except (RuntimeError, OSError, EOFError) as error:  # by where the process was in handing something over
        until = time.monotonic() + 1
        while not (codes := [worker.exitcode for worker in made._workers if worker.exitcode]):
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        how = f"by {signal.Signals(-codes[0]).name}" if codes[0] < 0 else f"with exit code {codes[0]}"
        hint = ", as systems do where memory runs out" if codes[0] == -signal.SIGKILL else ""
        raise TemporaryError(
            f"a process that decodes images was ended {how}{hint}; start the same command again, with fewer "
            f"--num_workers if it happens again"
        ) from error


def _end(made: Any) -> None:
    _running.discard(made)
    made._shutdown_workers()


@atexit.register
def _end_all() -> None:
    """Before `multiprocessing` would: it asks with SIGTERM, which the processes do not obey at once."""
    for made in list(_running):
        kill(made._workers)
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # they are the run's to end


def kill(processes: Sequence[BaseProcess]) -> None:
    """Ends processes at once; they only decode, so nothing is lost."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join(1)


def _begin_worker(worker: int) -> None:
    """A terminal and a scheduler signal every process of a run: it is for the run to say when its decoding ends.

    After SIGTERM there is a while for that, because it is also how Python ends what is left when a run breaks off. A
    run that is killed says nothing. torch notices by the number of the parent process, which is the fork server's where
    that is how processes start; so we wait for the run itself too.
    """
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    run = multiprocessing.parent_process()
    if run is not None and multiprocessing.get_start_method() != "fork":
        threading.Thread(target=_end_with, args=(run,), name="tunas-parent", daemon=True).start()


def _end_soon(number: int, frame: Any) -> None:
    """Ends this process after a while, whatever it does."""
    if hasattr(signal, "alarm"):
        signal.alarm(GRACE)
        return
    ending = threading.Timer(GRACE, os._exit, (128 + number,))  # Windows has no alarms
    ending.daemon = True
    ending.start()


def _end_with(run: Any) -> None:
    run.join()
    os._exit(1)


def _checked(made: Iterator[Chunk]) -> Iterator[Chunk]:
    for chunk in made:
        if chunk.error:
            raise chunk.error
        yield chunk


@dataclass(frozen=True)
class _Once:
    """An iterable over an iterator, which is what a sampler must be."""

    jobs: Iterator[Job]

    def __iter__(self) -> Iterator[Job]:
        return self.jobs
