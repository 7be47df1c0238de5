"""The likeliest architectures of a search within the tolerance, of which the best in a brief training is taken."""

from __future__ import annotations

import numpy as np

from tunas.search.controller import Controller
from tunas.space import Architecture

DRAWN = 16_384
FLATTER = (1.0, 2.0, 4.0)
"""Temperatures, relative to the search's, at which architectures are drawn: late in a search its own distribution
hardly leaves the most likely one."""


def likeliest(
    controller: Controller, winner: Architecture, model: object, target: float, tolerance: float, count: int, seed: int
) -> list[Architecture]:
    """Up to `count` different networks within `tolerance` · `target` of the target, the likeliest first; the search's
    own result is the first of them.

    Args:
        controller: as the search left it.
        winner: the search's result.
        model: cost model with `estimate`.
    """
    rows = np.concatenate([_drawn(controller, factor, seed) for factor in FLATTER])
    costs = model.estimate(rows)  # type: ignore[attr-defined]
    rows = rows[np.abs(costs - target) <= tolerance * target]
    found = {winner.pruned().indices: winner}
    for row in rows[np.argsort(-controller.log_prob(rows), kind="stable")].tolist():
        if len(found) >= count:
            break
        architecture = Architecture(controller.space, tuple(row)).pruned()
        found.setdefault(architecture.indices, architecture)
    return list(found.values())


def _drawn(controller: Controller, factor: float, seed: int) -> np.ndarray:
    flatter = Controller(controller.space, temperature=controller.temperature * factor)
    flatter.logits = controller.logits
    return np.unique(flatter.sample(np.random.default_rng([seed, int(factor)]), DRAWN).indices, axis=0)
