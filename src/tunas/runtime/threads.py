"""Torch's threads, which are one number for a whole process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def threads_given_back() -> Iterator[None]:
    """Gives torch back its threads at the end: what is timed on one thread leaves the process with one."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
