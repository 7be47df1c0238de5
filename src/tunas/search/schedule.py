"""Every ramp and decay, as functions of the step (SPEC §3). A step is counted from 0; step `max_step` is the end."""

from __future__ import annotations

import math

from tunas.errors import InputError

LEARNING_RATE_BATCH = 256
"""Learning rates are given for this batch size and grow in proportion to it (SPEC §3)."""
PEAK_LEARNING_RATE = 0.165
"""Peak learning rate of the weights, per 256 images (SPEC §3.3)."""
LEARNING_RATE_WARMUP_FRACTION = 0.025
"""Part of the steps over which the weights' learning rate rises (SPEC §3.3)."""
RL_LEARNING_RATE = 3e-4
"""The controller's first learning rate, per 256 images (SPEC §3.7)."""
RL_LEARNING_RATE_GROWTH = 10.0
"""How many times larger the controller's learning rate is at the end (SPEC §3.7)."""
RL_DELAY_FRACTION = 0.25
"""Part of the steps before the controller starts to learn (SPEC §3.7)."""
OP_WARMUP_FRACTION = 0.25
FILTERS_WARMUP_FRACTION = 0.25
"""Parts of the steps over which the probabilities of enabling all ops and the widest filters fall (SPEC §3.2)."""


def steps_of(fraction: float, max_step: int) -> int:
    """`fraction` of `max_step` in whole steps, rounded down.

    Raises:
        InputError: where the fraction is not between 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise InputError(f"a fraction of the steps must be between 0 and 1, not {fraction}")
    return int(fraction * max_step)


def scaled_learning_rate(per_256: float, batch_size: int) -> float:
    """A learning rate given for 256 images, for `batch_size` of them (SPEC §3)."""
    return per_256 * batch_size / LEARNING_RATE_BATCH


def cosine_decay_with_linear_warmup(peak: float, step: int, max_step: int, warmup_steps: int = 0) -> float:
    """The weights' learning rate: linear from 0 to `peak` over `warmup_steps`, then half a cosine to 0 at `max_step`
    (SPEC §3.3).

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


def warmup_probability(step: int, warmup_steps: int) -> float:
    """Probability of enabling a whole OneOf: linear from 1 at step 0 to 0 at `warmup_steps`; 0 without a warmup (SPEC
    §3.2)."""
    return max(0.0, 1.0 - step / warmup_steps) if warmup_steps > 0 else 0.0


def rl_learning_rate(
    initial: float, step: int, max_step: int, delay_steps: int = 0, growth: float = RL_LEARNING_RATE_GROWTH
) -> float:
    """The controller's learning rate: 0 before `delay_steps`, then `initial`, growing exponentially to `growth` times
    that at `max_step` (SPEC §3.7).

    Raises:
        InputError: where the delay is longer than the whole.
    """
    if delay_steps > max_step:
        raise InputError(f"a delay of {delay_steps} steps does not fit into {max_step} steps")
    if step < delay_steps:
        return 0.0
    if delay_steps == max_step:
        return initial
    return initial * growth ** ((step - delay_steps) / (max_step - delay_steps))


def check_warmups(op_fraction: float, filters_fraction: float, delay_fraction: float) -> None:
    """Refuses warmups that are still going on when the controller starts to learn (SPEC §3).

    Raises:
        InputError: naming the warmup.
    """
    for name, fraction in (("op", op_fraction), ("filters", filters_fraction)):
        steps_of(fraction, 0)
        if fraction > delay_fraction:
            raise InputError(
                f"the {name} warmup takes {fraction:.3g} of the steps, but the controller starts to learn after "
                f"{delay_fraction:.3g}; "
                "a warmup must not outlast this delay"
            )
    steps_of(delay_fraction, 0)
