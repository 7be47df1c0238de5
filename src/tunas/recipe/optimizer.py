"""RMSProp in TensorFlow's form, for shared and for stand-alone weights (SPEC §3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from timm.optim.rmsprop_tf import RMSpropTF

DECAY = 0.9
EPSILON = 1.0
"""Inside the square root."""


def rmsprop(parameters: Iterable[Any], momentum: float) -> RMSpropTF:
    """The optimiser of parameters or parameter groups: squared average from one, learning rate inside the momentum and
    0 until set."""
    return RMSpropTF(parameters, lr=0.0, alpha=DECAY, eps=EPSILON, momentum=momentum)
