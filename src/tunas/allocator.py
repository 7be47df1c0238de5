"""Memory that is kept after it was freed, because a run asks for the same sizes again and again."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1
"""Of mallopt(3)."""


def keep_freed_memory() -> bool:
    """Makes glibc keep the blocks that are freed, for as long as the process lives; whether it could.

    By default every block above a limit (128 KiB at first, 32 MiB at most) comes from the system and goes back to it,
    so that each operation on a large tensor pays for fresh pages. Afterwards all blocks come from one heap that never
    shrinks; threads share it, because heaps of their own are for small blocks only. Where the C library is another,
    nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False
    done = [library.mallopt(*setting) for setting in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_ARENA_MAX, 1))]
    return all(done)
