"""What every long run does around its steps: stop on a signal, show progress, draw its random numbers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import numpy as np
import torch

from tunas.run.time_left import in_words

STREAMS = ("controller", "cost", "weights", "dropout", "mixing", "noise")
"""Independent sources of random numbers in a run."""
OVERDUE = 5.0
"""Seconds that a run which is asked to stop goes on waiting for a batch."""


def generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """The random numbers of one step: a function of its arguments, so that nothing has to be saved to resume."""
    return np.random.default_rng([seed, STREAMS.index(stream), step])


def seed_global_generators(seed: int) -> None:
    """Starts the global random generators of Python, NumPy and torch from a run's seed: the first weights are drawn
    from torch's."""
    number = int(generator(seed, "weights").integers(2**62))
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


class StopRequest:
    """Whether SIGTERM or SIGINT asked the run to stop after the present step."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0

    def is_overdue(self) -> bool:
        """Whether the run was asked so long ago that it need not wait for another batch."""
        return self.signal is not None and time.monotonic() - self.since > OVERDUE

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes a signal; the second Ctrl-C ends the process at once."""
        is_again = self.signal is not None and number == signal.SIGINT
        if is_again and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun hands on the first one a second time
            raise KeyboardInterrupt
        self.signal = number
        self.since = time.monotonic()


class Stopped(Exception):
    """The run saved its state and stopped as asked; `code` is the exit code that schedulers expect (128 + signal)."""

    def __init__(self, number: int, step: int):
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}; run the same command to go on")
        self.code = 128 + number


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the context, SIGTERM and SIGINT only make a note."""
    request = StopRequest()
    try:
        old = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever runs us handles signals
        old = {}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended(*streams: Iterator[Any]) -> Iterator[None]:
    """Ends what is behind the streams, such as processes that decode, with the context; a traceback would keep them
    alive otherwise."""
    try:
        yield
    finally:
        for stream in streams:
            if isinstance(stream, Generator):
                stream.close()


def warn(sentence: str | None) -> None:
    """Says at the end of a run what went on without stopping it; nothing where there is nothing to say."""
    if sentence:
        print(f"warning: {sentence}", file=sys.stderr)


class Progress:
    """A rich progress bar on a terminal; one line at every tenth of the way elsewhere.

    Args:
        label: what runs.
        total: steps.
        start: steps done before.
        shown: False in every process but the first.
    """

    def __init__(self, label: str, total: int, start: int, *, shown: bool):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self.label, self.total, self.shown = label, total, shown
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task(label, total=total, completed=start, status="", left="")
        self._plain = shown and not console.is_terminal

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, done: int, status: str, seconds_left: float | None = None) -> None:
        """`done` steps of the total; `status` says how it goes, in a few words."""
        left = in_words(seconds_left)
        self._bar.update(self._task, completed=done, status=status, left=left)
        if self._plain and (done == self.total or done % max(1, self.total // 10) == 0):
            ending = f" {left}" if left and done < self.total else ""
            print(f"{self.label} {done}/{self.total} {status}{ending}", file=sys.stderr, flush=True)
