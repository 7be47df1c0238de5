"""The loop of a long run: a search, a simulated one, a training, or one of a user's own."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from tunas.data.ahead import WaitingStopped, stopped_when
from tunas.run.checkpoint import KEPT, resumed_checkpoint, save_checkpoint
from tunas.run.device import Votes, World
from tunas.run.events import EventLog
from tunas.run.session import Progress, Stopped, StopRequest, stop_requests
from tunas.run.time_left import TimeLeft
from tunas.run.trackers import open_trackers

Scalars = dict[str, float]


class Event(NamedTuple):
    """What is logged at once.

    Args:
        step: from 0.
        scalars: (tag, value).
        texts: tag -> line of text.
    """

    step: int
    scalars: Iterable[tuple[str, float]]
    texts: Mapping[str, str] = {}


class Run(Protocol):
    """What `carry_out` asks of a run. Whoever inherits from it writes `advance`, `tensors` and `load`, and of the rest
    what differs.

    Each process has its own; what is called in the first one alone says so.
    """

    label: str
    """What runs, for the progress bar."""
    steps: int
    """Of the whole run."""
    log_every: int
    """Steps from one logged step to the next; the last is always logged."""
    save_every: int
    """Steps from one checkpoint to the next; there is always one after the last step."""
    keep: int = KEPT
    """How many checkpoints stay, the newest ones."""

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Goes on where `tensors()` and `numbers()` were taken; `numbers["step"]` steps had been done."""

    def reading(self, start: int) -> contextlib.AbstractContextManager[object]:
        """Opens what the steps from `start` on read, and closes it in the end."""
        return contextlib.nullcontext()

    def advance(self, step: int) -> Scalars:
        """Does one step; its scalars."""
        ...

    def logged(self, step: int, scalars: Scalars) -> Event:
        """What to log of a step (first process)."""
        return Event(step, scalars.items())

    def scored(self, done: int, scalars: Scalars) -> Event | None:
        """Measures what is due after `done` steps, the last of which had these scalars; what to log of it."""
        return None

    def status(self, scalars: Scalars, rate: float) -> str:
        """How it goes, in a few words for the progress bar, at `rate` steps per second."""
        return f"{rate:.1f} steps/s"

    def work(self) -> np.ndarray:
        """What each step consists of, `[steps, parts]`, in a unit that is about the same for all parts; for the time
        left, as `TimeLeft` takes it."""
        return np.ones((self.steps, 1))

    def settle(self) -> None:
        """Called before a checkpoint, for what processes have to exchange first."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds (first process)."""
        ...

    def numbers(self) -> dict[str, Any]:
        """What else it holds: JSON values, but none named `step`, `events` or `random` (first process)."""
        return {}

    def saved(self) -> None:
        """Called after a checkpoint, to remove what older ones needed (first process)."""
        return

    def finished(self) -> Event | None:
        """Called after the last step; what to log."""
        return None


def carry_out(run: Run, directory: Path, world: World, log_to: Sequence[str] = ()) -> int:
    """Does the steps of a run, or those that are left where `directory` has a checkpoint.

    Args:
        run: in every process its own.
        directory: where checkpoints and event files are written.
        log_to: trackers that are given the same scalars.

    Returns:
        The steps that had been done before.

    Raises:
        Stopped: after SIGTERM or SIGINT, once the present step is done and saved; of several processes the next one.
        InputError: where the disk is full or the directory cannot be written.
    """
    start = 0
    if (found := resumed_checkpoint(directory, world)) is not None:
        run.load(*found)
        start = found[1]["step"]
        if world.is_main and start < run.steps:
            print(f"{run.label} goes on after step {start} of {run.steps}", file=sys.stderr)
    kept = _Kept(run, directory, world, log_to)
    try:
        with (
            run.reading(start),
            stop_requests() as stop,
            stopped_when(stop.is_overdue),
            Progress(run.label, run.steps, start, shown=world.is_main) as progress,
        ):
            _do_steps(run, start, world, kept, stop, progress)
        kept.log(run.finished())
    finally:
        kept.close()
    return start


def _do_steps(run: Run, start: int, world: World, kept: _Kept, stop: StopRequest, progress: Progress) -> None:
    """Each step of a run from `start` on, and what there is to log, to show and to save after it."""
    votes, pace = Votes(world), _Pace(run.work(), start)
    scalars: Scalars = {}
    for step in range(start, run.steps):
        try:
            scalars = run.advance(step)
        except WaitingStopped:
            if scalars and world.size == 1:
                kept.save(step)
            raise Stopped(stop.signal or signal.SIGTERM, step) from None
        done = step + 1
        if world.is_main and (step % run.log_every == 0 or done == run.steps):
            kept.log(run.logged(step, scalars))
        kept.log(run.scored(done, scalars))
        rate = pace.after(done)
        progress.update(done, run.status(scalars, rate), pace.seconds_left())
        stopping = votes.cast(stop.signal is not None)
        if stopping or done % run.save_every == 0 or done == run.steps:
            kept.save(done)
        if stopping and done < run.steps:
            raise Stopped(stop.signal or signal.SIGTERM, done)


class _Pace:
    """How fast the steps of this session go, and how long those to come take."""

    def __init__(self, work: np.ndarray, start: int):
        self._start, self._left = start, TimeLeft(work, start)
        self._began = self._last = time.perf_counter()

    def after(self, done: int) -> float:
        """Steps per second, now that `done` are done."""
        now = time.perf_counter()
        self._left.took(now - self._last)
        self._last = now
        return (done - self._start) / (now - self._began)

    def seconds_left(self) -> float | None:
        return self._left.seconds()


class _Kept:
    """What a run leaves in its directory: event files and checkpoints, both written by the first process."""

    def __init__(self, run: Run, directory: Path, world: World, log_to: Sequence[str]):
        self._run, self._directory, self._world = run, directory, world
        self._events = EventLog(directory, open_trackers(log_to, directory)) if world.is_main else None

    def log(self, event: Event | None) -> None:
        if self._events and event:
            self._events.log(*event)

    def save(self, done: int) -> None:
        """A checkpoint after so many steps; called in every process."""
        self._run.settle()
        self._world.from_main(lambda: self._save(done))

    def _save(self, done: int) -> None:
        assert self._events is not None
        run = self._run
        numbers = {**run.numbers(), "events": self._events.sizes()}
        save_checkpoint(self._directory, done, run.tensors(), numbers, run.keep)
        run.saved()

    def close(self) -> None:
        if self._events:
            self._events.close()
