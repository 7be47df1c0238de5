"""What a process that decodes hands on: images of one job, and what became of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tunas.errors import InputError, TemporaryError


@dataclass(frozen=True)
class Chunk:
    """What became of one job.

    Attributes:
        images: uint8 `[n, S, S, 3]`, or the bytes of n images of different shapes one after the other.
        labels: int64 `[n]`.
        shapes: int32 `[n, 2]`, height and width.
        good: bool `[places of the job]`: which examples could be decoded.
        bad: name and reason of each one that could not.
        error: where the run must stop, what says why.
    """

    images: Tensor
    labels: np.ndarray
    shapes: np.ndarray
    good: np.ndarray
    bad: tuple[tuple[str, str], ...] = ()
    error: InputError | TemporaryError | None = None
