"""The ramps of the controller and of the warmups, as functions of the step (docs/algorithm.md#warmups). A step is
counted from 0; step `max_step` is the end."""

from __future__ import annotations

import math

from tunas.errors import InputError
from tunas.recipe.schedule import steps_of

RL_LEARNING_RATE = 3e-4
"""The controller's first learning rate, per 256 examples (docs/algorithm.md#controller)."""
RL_LEARNING_RATE_GROWTH = 10.0
"""How many times larger the controller's learning rate is at the end (docs/algorithm.md#controller)."""
RL_DELAY_FRACTION = 0.25
"""Part of the steps before the controller starts to learn (docs/algorithm.md#controller)."""
MEMORIES = 2.0
"""Length of the part of the delay that measures accuracies, in memories of the controller's longer average."""
OP_WARMUP_FRACTION = 0.25
FILTERS_WARMUP_FRACTION = 0.25
"""Parts of the steps over which the probabilities of enabling all ops and the widest filters fall
(docs/algorithm.md#warmups)."""


def warmup_probability(step: int, warmup_steps: int) -> float:
    """Probability of enabling a whole OneOf: linear from 1 at step 0 to 0 at `warmup_steps`; 0 without a warmup
    (docs/algorithm.md#warmups)."""
    return max(0.0, 1.0 - step / warmup_steps) if warmup_steps > 0 else 0.0


def unmeasured_steps(delay_steps: int, momentum: float, beta2: float) -> int:
    """How many steps of the controller's delay can go by before accuracies have to be measured for its averages.

    Both averages take their bias towards the start out, so that a shorter past only makes them noisier. Twice the
    memory of the longer one leaves 86 % of the weight of an endless past (docs/algorithm.md#controller).
    """
    return max(0, delay_steps - math.ceil(MEMORIES / (1 - max(momentum, beta2))))


def rl_learning_rate(
    initial: float, step: int, max_step: int, delay_steps: int, growth: float = RL_LEARNING_RATE_GROWTH
) -> float:
    """The controller's learning rate: 0 before `delay_steps`, then `initial`, growing exponentially to `growth` times
    that at `max_step` (docs/algorithm.md#controller).

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
    """Refuses warmups that are still going on when the controller starts to learn (docs/algorithm.md#warmups).

    Raises:
        InputError: naming the warmup.
    """
    for name, fraction in (("op", op_fraction), ("filters", filters_fraction)):
        steps_of(fraction, 0)
        if fraction > delay_fraction:
            raise InputError(
                f"the {name} warmup takes {fraction:.3g} of the steps, but the controller starts to learn after "
                f"{delay_fraction:.3g}; a warmup must not outlast this delay"
            )
    steps_of(delay_fraction, 0)
