"""Labelled images: where they lie, how they are split, and how batches of them reach the device.

`DataConfig` says where the images are, `open_data` looks there, and `Data` hands out batches of uint8 images that
`normalize` turns into the network's input on the device. Each name is imported when first used: the configuration
is part of the command line, which must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunas.data.config import DataConfig
    from tunas.data.images import normalize
    from tunas.data.loader import Data
    from tunas.data.opening import open_data

_HOME = {
    "DataConfig": "tunas.data.config",
    "Data": "tunas.data.loader",
    "normalize": "tunas.data.images",
    "open_data": "tunas.data.opening",
}
__all__ = ["Data", "DataConfig", "normalize", "open_data"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tunas.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
