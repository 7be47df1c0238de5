"""The likeliest architectures of a search within the tolerance, and the best of them with the shared weights.

Late in a short search the controller has seen each choice a few hundred times, amid others that changed as often: among
what it likes most, it does not know the order. One look at each on the same held-out examples tells more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.search.distribution import Distribution
from tunas.search.objective import is_within
from tunas.search.scoring import qualities_of
from tunas.space import Architecture

if TYPE_CHECKING:
    from tunas.search.aims import Aim

DRAWN = 16_384
"""Architectures drawn at each temperature."""
FLATTER = (1.0, 2.0, 4.0)
"""Temperatures, relative to the search's, at which architectures are drawn: late in a search its own distribution
hardly leaves the most likely one."""
FINALISTS = 8
"""One of so many candidates, the best, is measured on the whole held-out part."""


@dataclass(frozen=True)
class Candidate:
    """An architecture that a search chose from.

    Args:
        cost: predicted.
        quality: with the shared weights, on `examples` held-out ones.
    """

    architecture: Architecture
    cost: float
    quality: float
    examples: int

    def document(self, quality_name: str) -> dict[str, Any]:
        """As JSON values."""
        quality = {f"shared_weights_{quality_name}": self.quality, "examples": self.examples}
        return {"indices": self.architecture.text, "cost": self.cost, **quality}


def chosen(search: Any, aim: Aim, winner: Architecture, tolerance: float) -> list[Candidate]:
    """The best architecture with the shared weights as they are, first, and all that it was chosen from.

    `choose_from` of them are measured on the same examples, as many as a step of the search measures on; the best
    eighth of these on all held-out ones.

    Args:
        search: a `tunas.search.step.Search` after its last step, in every process.
        aim: whose controller names the candidates.
        winner: the likeliest architecture; a candidate too if it is within the tolerance, or nothing is.
        tolerance: relative to the target.
    """
    objective, config, plan = aim.objective, search.config, search.plan
    target = objective.target
    assert target is not None
    named = likeliest(aim.controller, winner, objective.model, target, tolerance, config.choose_from, config.seed)
    costs = objective.model.estimate(np.array([each.indices for each in named])).tolist()
    within = [number for number, cost in enumerate(costs) if is_within(cost, target, tolerance)] or [0]
    batch = plan.valid_share * plan.replicas
    first = qualities_of(search, [named[number] for number in within], batches=1)
    found = [
        Candidate(named[number], costs[number], quality, batch)
        for number, quality in zip(within, first.tolist(), strict=True)
    ]
    found.sort(key=lambda candidate: -candidate.quality)
    finalists = found[: max(1, len(found) // FINALISTS)]
    batches = max(1, search.task.size("valid") // batch)
    whole = qualities_of(search, [each.architecture for each in finalists], batches)
    last = [
        Candidate(each.architecture, each.cost, quality, batches * batch)
        for each, quality in zip(finalists, whole.tolist(), strict=True)
    ]
    last.sort(key=lambda candidate: -candidate.quality)
    return last + found[len(finalists) :]


def likeliest(
    controller: Distribution, winner: Architecture, model: Any, target: float, tolerance: float, count: int, seed: int
) -> list[Architecture]:
    """Up to `count` different networks within `tolerance` · `target` of the target, the likeliest first; the search's
    own result is the first of them.

    Args:
        controller: as the search left it.
        winner: the search's result.
        model: cost model with `estimate`.
    """
    rows = np.concatenate([_drawn(controller, factor, seed) for factor in FLATTER])
    costs = model.estimate(rows)
    rows = rows[np.abs(costs - target) <= tolerance * target]
    found = {winner.pruned().indices: winner}
    for row in rows[np.argsort(-controller.log_prob(rows), kind="stable")].tolist():
        if len(found) >= count:
            break
        architecture = Architecture(controller.space, tuple(row)).pruned()
        found.setdefault(architecture.indices, architecture)
    return list(found.values())


def _drawn(controller: Distribution, factor: float, seed: int) -> np.ndarray:
    """`[N, C]`: different architectures of the controller at `factor` times its temperature."""
    flatter = Distribution(controller.space, controller.temperature * factor)
    flatter.logits = controller.logits
    return np.unique(flatter.sample(np.random.default_rng([seed, int(factor)]), DRAWN).indices, axis=0)
