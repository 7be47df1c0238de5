"""Memory that is kept after it was freed, because a run asks for the same sizes again and again."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Settings of mallopt(3)."""
NEVER = -1
"""The threshold of trimming that is never reached."""


def keep_freed_memory() -> bool:
    """Makes glibc keep the blocks that are freed, for as long as the process lives; whether it could.

    By default every block above a limit (128 KiB at first, 32 MiB at most) comes from the system and goes back to it,
    so that each operation on a large tensor pays for fresh pages. Afterwards all blocks come from one heap that never
    shrinks; threads share it, because heaps of their own are for small blocks only. Where the C library is another,
    nothing happens.
    """
    library = _glibc()
    if library is None:
        return False
    done = [library.mallopt(*setting) for setting in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_ARENA_MAX, 1))]
    return all(done)


def give_back_memory() -> bool:
    """Gives the pages back that are free now, once, whatever is kept; whether there were any.

    A heap that never shrinks grows with every job of a process: what a dataset left is too small for the next one when
    something of a few bytes that stays came to lie in it.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


def _glibc() -> Any:
    """The C library, where it is the one whose settings these are."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    is_glibc = hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")
    return library if is_glibc else None
