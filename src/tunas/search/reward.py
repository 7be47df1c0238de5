"""What a search maximises: quality against cost (docs/algorithm.md#reward; Bender et al. 2020, section 4; `mnas`: Tan
et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.errors import InputError

EXPONENT = -0.10
"""β of all three rewards (docs/algorithm.md#reward)."""


@dataclass(frozen=True, eq=False)
class Reward:
    """Rewards of N architectures and what they are made of; float64 arrays `[N]`.

    Args:
        reward: what the controller maximises.
        cost_ratio: cost over target.
        cost_adjustment: what the cost did to the quality: added to it by `abs`, multiplied with it by `mnas` and
            `mnas_hard`.
    """

    reward: np.ndarray
    cost_ratio: np.ndarray
    cost_adjustment: np.ndarray


def abs_reward(quality: Any, cost: Any, target: float, exponent: float = EXPONENT) -> Reward:
    """quality + exponent · |cost / target − 1|, the reward of the TuNAS paper: its maximum lies on the target.

    Args:
        quality: accuracies, 0 to 1, `[N]`.
        cost: costs in the unit of `target`, `[N]`.
        target: the cost to land on.
        exponent: β; not above 0.

    Raises:
        InputError: where the target is not a positive number or the exponent is positive.
    """
    ratio = _cost_ratio(cost, target, exponent)
    adjustment = exponent * np.abs(ratio - 1)
    return Reward(np.asarray(quality, np.float64) + adjustment, ratio, adjustment)


def mnas_reward(quality: Any, cost: Any, target: float, exponent: float = EXPONENT) -> Reward:
    """quality · (cost / target)^exponent, the soft reward of MnasNet. Arguments and errors as for `abs_reward`; costs
    must be positive."""
    ratio = _positive_cost_ratio(cost, target, exponent)
    adjustment = ratio**exponent
    return Reward(np.asarray(quality, np.float64) * adjustment, ratio, adjustment)


def mnas_hard_reward(quality: Any, cost: Any, target: float, exponent: float = EXPONENT) -> Reward:
    """quality · min((cost / target)^exponent, 1): below the target, cost does not matter. Otherwise as
    `mnas_reward`."""
    ratio = _positive_cost_ratio(cost, target, exponent)
    adjustment = np.minimum(ratio**exponent, 1.0)
    return Reward(np.asarray(quality, np.float64) * adjustment, ratio, adjustment)


REWARD_FUNCTIONS: dict[str, Callable[..., Reward]] = {
    "abs": abs_reward,
    "mnas": mnas_reward,
    "mnas_hard": mnas_hard_reward,
}


def reward_function(name: str) -> Callable[..., Reward]:
    """The reward of that name: a function of (quality, cost, target, exponent).

    Raises:
        InputError: where there is none.
    """
    if name not in REWARD_FUNCTIONS:
        raise InputError(f"unknown reward {name!r}; known are {', '.join(REWARD_FUNCTIONS)}")
    return REWARD_FUNCTIONS[name]


def _cost_ratio(cost: Any, target: float, exponent: float) -> np.ndarray:
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"the cost target must be a positive number, not {target}")
    if not (math.isfinite(exponent) and exponent <= 0):
        raise InputError(
            f"the reward's exponent must be 0 or below, so that cost counts against an architecture, not {exponent}"
        )
    return np.asarray(cost, np.float64) / target


def _positive_cost_ratio(cost: Any, target: float, exponent: float) -> np.ndarray:
    ratio = _cost_ratio(cost, target, exponent)
    if not (ratio > 0).all():
        raise InputError(
            f"the mnas rewards need positive costs, but one is {float(np.min(ratio) * target):g}; use the abs reward"
        )
    return ratio
