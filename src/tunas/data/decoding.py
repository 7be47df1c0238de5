"""The processes that decode: jobs go in, chunks of uint8 pixels come out, in order."""

from __future__ import annotations

import atexit
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
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tunas.allocator import keep_freed_memory
from tunas.data.chunk import Chunk
from tunas.data.decoder import Decoder, Job
from tunas.errors import TemporaryError
from tunas.named import LoadedFiles

MAX_WORKERS = 16
"""Processes that decode where their number is left out, at most."""
_AHEAD = 1.5
"""Batches that are decoded in advance, so that the next one is ready when a step ends."""
GRACE = 20
"""Seconds that a process goes on decoding after SIGTERM."""


def default_workers() -> int:
    """As many processes as this one may use processors, divided among the ranks on this machine, at most
    `MAX_WORKERS`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local_ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, min(MAX_WORKERS, usable // max(1, int(local_ranks) if local_ranks.isdigit() else 1)))


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
    """Ends the processes behind a loader's iterator."""
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
    """Ends this process when the run's has ended."""
    run.join()
    os._exit(1)


def _checked(made: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks, up to one that says why the run must stop, which is raised."""
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
