"""What a search and a training set up before anything else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from tunas.allocator import give_back_memory, keep_freed_memory
from tunas.primitives import keep_primitives
from tunas.run.device import World, joined_world
from tunas.run.trackers import check_trackers


@contextlib.contextmanager
def long_job(device: str, log_to: Sequence[str]) -> Iterator[World]:
    """The processes of a job that makes many alike steps. Memory and compiled primitives are kept from step to step;
    what an earlier job of this process left is given back first.

    Args:
        device: as `--device` names it.
        log_to: trackers that will be asked for.

    Raises:
        InputError: where the device or a tracker is not there.
    """
    check_trackers(log_to)
    give_back_memory()
    keep_between_steps()
    with joined_world(device) as world:
        yield world


def keep_between_steps() -> None:
    """Keeps memory and compiled primitives, from now on and for as long as the process lives."""
    keep_freed_memory()
    keep_primitives()
