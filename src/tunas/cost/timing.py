"""Timing: things that can be called, in turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.progress import Progress

CLOCKS = {"wall": time.perf_counter_ns, "processor": time.process_time_ns}
UNDISTURBED = 0.1
"""Share of a network's rounds that are taken to have been disturbed less than what it counts with."""
LARGEST_KEPT_BLOCK = 31 * 2**20
"""Bytes, just below glibc's upper limit of 32 MiB."""


def settle_allocator() -> None:
    """Makes glibc keep freed memory, as it does in a process that has run for a while.

    At first it takes every block above 128 KiB from the system and hands it back, so that each operator pays for fresh
    pages; freeing one large block raises that limit to 32 MiB for good (mallopt(3), M_MMAP_THRESHOLD). Without this,
    small networks were timed at two to three times of what they take in a process that had trained before.
    """
    block = bytearray(LARGEST_KEPT_BLOCK)
    del block


def interleaved_times(
    runs: Sequence[Callable[[], Any]],
    warmup: int,
    rounds: int,
    repeats: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    visited: Callable[[], Any] = lambda: None,
) -> np.ndarray:
    """Milliseconds `[len(runs), rounds, repeats]` that each of `runs` takes, in turns.

    Args:
        warmup: runs of each before all turns.
        rounds: turns of each. A turn begins with one run that is not timed, to fill the caches again.
        repeats: timed runs in a turn.
        clock: gives nanoseconds.
        visited: called, untimed, after the warmup of each and after each turn.
    """
    times = np.empty((len(runs), rounds, repeats))
    for run in runs:
        for _ in range(warmup):
            run()
        visited()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for number, run in enumerate(runs):
                run()
                for repeat in range(repeats):
                    start = clock()
                    run()
                    times[number, turn, repeat] = clock() - start
                visited()
    finally:
        if collecting:
            gc.enable()
    return times / 1e6


def latency(times: np.ndarray) -> float:
    """What a network counts with: the lower decile over rounds of the median of a round's runs.

    What else runs on a machine only ever adds to a time, so the rounds that were disturbed least say what the network
    takes. The very least would hang on how many rounds there were. The runs of one round are the network's own: the
    median of these is what it takes in steady use.

    Args:
        times: `[rounds, repeats]`.
    """
    return float(np.quantile(np.median(times, axis=1), UNDISTURBED))


def summary(times: np.ndarray) -> dict[str, float]:
    """`milliseconds`, `spread` and `half_difference` of one network's times `[rounds, repeats]` (see `Sample`)."""
    low, high = np.percentile(times, [25, 75])
    return {
        "milliseconds": latency(times),
        "spread": float(high - low),
        "half_difference": abs(latency(times[0::2]) - latency(times[1::2])),
    }


def progress_bar() -> Progress:
    """A bar with the rate and the time left, on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed * 60:.0f} a minute" if task.speed else "")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
