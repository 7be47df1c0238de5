"""What the replicas of one target tell about the others (docs/algorithm.md#several-targets).

K controllers draw from K distributions. What was drawn from all of them is a sample of their mean, and weighted by how
much more often a controller draws it than they do on average, a sample of that controller's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunas.search.distribution import Distribution, Samples

BASELINE_REPLICAS = 10
"""Rewards that a baseline remembers at the least where targets share the replicas, or there is one replica. The reward
of a single replica is no baseline for itself: nothing would be left of what it says."""


def baseline_momentum(momentum: float, targets: int, replicas: int) -> float:
    """The momentum of each target's baseline, where `targets` share `replicas`."""
    if targets == 1 and replicas > 1:
        return momentum
    return max(momentum, 1 - replicas / targets / BASELINE_REPLICAS)


def architecture_weights(controllers: Sequence[Distribution], samples: Samples) -> np.ndarray:
    """`[targets, N, 1]`: the probability of each architecture over its mean probability under all controllers.

    The weighted mean over everything that was drawn has the controller's own expectation, without bias, and a weight is
    at most the number of targets (the balance heuristic of Veach and Guibas 1995). The more the distributions differ,
    the less is left but a controller's own architectures.
    """
    log_probs = np.stack([controller.choice_log_probs(samples).sum(axis=1) for controller in controllers])
    odds = np.exp(log_probs - log_probs.max(axis=0))
    return (odds / odds.mean(axis=0))[:, :, None]


def choice_weights(controllers: Sequence[Distribution], samples: Samples) -> np.ndarray:
    """`[targets, N, C]`: the probability of each choice, by itself, over its mean probability under all controllers.

    Where the quality of an architecture is a sum over its choices, what a choice adds does not depend on the rest, so
    the rest need not be likely for this controller. The distributions over one OneOf stay alike much longer than those
    over architectures. A bias is left where qualities are no sum.
    """
    probabilities = np.exp(np.stack([controller.choice_log_probs(samples) for controller in controllers]))
    return probabilities / probabilities.mean(axis=0)
