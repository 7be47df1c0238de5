"""One step of a controller."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunas.search.config import SearchConfig
from tunas.search.controller import Samples
from tunas.search.objective import Outcome
from tunas.search.plan import SearchPlan


def learn(
    aim: Any,
    plan: SearchPlan,
    config: SearchConfig,
    random: np.random.Generator,
    samples: Samples,
    quality: np.ndarray,
    rate: float,
    warmups: tuple[float, float],
) -> tuple[Outcome, dict[str, float]]:
    """The controller's update from the qualities `[N]` of the sampled architectures; their rewards, and what to log.

    Args:
        aim: a `tunas.search.aims.Aim`.
        random: draws the architectures that are only priced.
        warmups: probabilities with which operations and filters are all enabled in this step.
    """
    controller, objective = aim.controller, aim.objective
    outcome = objective.reward(quality, samples.indices)
    cost_gradient = None
    if plan.num_cost_samples:
        cost_gradient = controller.cost_gradient(random, plan.num_cost_samples, objective.cost_reward, *warmups)
    learned_from = quality if plan.num_cost_samples else outcome.reward
    return outcome, controller.update(samples, learned_from, rate, config.rl_entropy_regularization, cost_gradient)
