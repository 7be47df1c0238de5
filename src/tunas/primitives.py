"""Machine code that oneDNN makes for each shape of an operation, and keeps."""

from __future__ import annotations

import os

CAPACITY = 8192
"""How many shapes. oneDNN's own 1,024 are filled within a few steps of a space with many widths. The code of each may
take a few mappings of memory, of which Linux allows a process 65,530."""


def keep_primitives() -> None:
    """Lets oneDNN keep the code of more shapes than by default, where nothing is set and it has made none yet.

    A search that samples widths meets thousands of shapes again and again; making code for one takes longer than
    running it on a few small images.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(CAPACITY))
