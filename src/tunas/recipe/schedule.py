"""The weights' learning rate, as a function of the step (docs/algorithm.md#weight-training). A step is counted from 0;
step `max_step` is the end."""

from __future__ import annotations

import math

from tunas.errors import InputError

LEARNING_RATE_BATCH = 256
"""Learning rates are given for this batch size and grow in proportion to it (docs/algorithm.md#weight-training)."""
PEAK_LEARNING_RATE = 0.165
"""Peak learning rate of the weights, per 256 images (docs/algorithm.md#weight-training)."""
LEARNING_RATE_WARMUP_FRACTION = 0.025
"""Part of the steps over which the weights' learning rate rises (docs/algorithm.md#weight-training)."""


def steps_of(fraction: float, max_step: int) -> int:
    """`fraction` of `max_step` in whole steps, rounded down.

    Raises:
        InputError: where the fraction is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"a fraction of the steps must be between 0 and 1, not {fraction}")
    return int(fraction * max_step)


def scaled_learning_rate(per_256: float, batch_size: int) -> float:
    """A learning rate given for 256 images, for `batch_size` of them (docs/algorithm.md#weight-training)."""
    return per_256 * batch_size / LEARNING_RATE_BATCH


def cosine_decay_with_linear_warmup(peak: float, step: int, max_step: int, warmup_steps: int = 0) -> float:
    """The weights' learning rate: linear from 0 to `peak` over `warmup_steps`, then half a cosine to 0 at `max_step`
    (docs/algorithm.md#weight-training).

    Raises:
        InputError: where the warmup is longer than the whole.
    """
    if warmup_steps > max_step:
        raise InputError(f"a warmup of {warmup_steps} steps does not fit into {max_step} steps")
    if step < warmup_steps:
        return peak * step / warmup_steps
    if step >= max_step:
        return 0.0
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (max_step - warmup_steps)))


def scheduled_learning_rate(shape: str, peak: float, step: int, max_step: int, warmup_steps: int = 0) -> float:
    """The weights' learning rate: linear from 0 to `peak` over `warmup_steps`, then by `shape`: cosine (half a cosine
    to 0 at `max_step`), linear (a line to 0) or constant.

    Raises:
        InputError: where the warmup is longer than the whole.
    """
    cosine = cosine_decay_with_linear_warmup(peak, step, max_step, warmup_steps)
    if shape == "cosine" or step < warmup_steps:
        return cosine
    if shape == "constant":
        return peak
    return peak * max(0.0, (max_step - step) / max(1, max_step - warmup_steps))
