"""Processes beside this one, for searches and trainings.

What these import takes longer than many a short training. On Linux a server imports it once, and each process is forked
from it; elsewhere, where forking is unsafe or not known, each begins from nothing. Imports no torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

IMPORTED = ("tunas.search.loop", "tunas.train.loop", "rich.progress")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that say with how many threads a process begins."""

_FORKS = sys.platform.startswith("linux")
_CONTEXT: Any = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
if _FORKS:
    _CONTEXT.set_forkserver_preload(list(IMPORTED))


def context() -> Any:
    """How they start, as `multiprocessing.get_context` gives it. Each calls `begin` first of all."""
    return _CONTEXT


def start_importing() -> None:
    """Lets the server import what is needed while this process does something else; where there is one."""
    if not _FORKS:
        return
    from multiprocessing import forkserver

    with _environment(dict.fromkeys(THREADS, "1")):  # of forked processes only the forking thread lives on
        forkserver.ensure_running()


def wait_until_ready() -> None:
    """Waits until the server, where there is one, has imported what is needed."""
    if _FORKS:
        start_importing()
        process = _CONTEXT.Process(target=os.getpid)
        process.start()
        process.join()


@contextlib.contextmanager
def shared_threads(workers: int) -> Iterator[None]:
    """Within the context new processes share the processors: more threads would take them from each other."""
    start_importing()
    threads = max(1, len(os.sched_getaffinity(0)) // workers) if hasattr(os, "sched_getaffinity") else 1
    with _environment(dict.fromkeys(THREADS, str(threads))):
        yield


def begin(environment: Mapping[str, str]) -> None:
    """In a new process: what `os.environ` was where it was started, with the threads that it says.

    A forked process has the environment that there was when the server started.
    """
    import torch

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment[THREADS[0]]))


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
