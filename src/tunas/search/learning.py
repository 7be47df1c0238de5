"""One step of the controller."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunas.run.session import generator
from tunas.search.controller import Samples
from tunas.search.objective import Outcome


def learn(
    state: Any, step: int, samples: Samples, quality: np.ndarray, rate: float, warmups: tuple[float, float]
) -> tuple[Outcome, dict[str, float]]:
    """The controller's update from the qualities `[N]` of the sampled architectures; their rewards, and what to log.

    Args:
        state: a `tunas.search.loop.Search`, or a simulated one.
        warmups: probabilities with which operations and filters are all enabled in this step.
    """
    plan, controller = state.plan, state.controller
    outcome = state.objective.reward(quality, samples.indices)
    cost_gradient = None
    if plan.num_cost_samples:
        random = generator(state.config.seed, "cost", step)
        cost_gradient = controller.cost_gradient(random, plan.num_cost_samples, state.objective.cost_reward, *warmups)
    learned_from = quality if plan.num_cost_samples else outcome.reward
    entropy = state.config.rl_entropy_regularization
    return outcome, controller.update(samples, learned_from, rate, entropy, cost_gradient)
