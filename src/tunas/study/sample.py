"""Random architectures within a range of costs, by rejection (docs/algorithm.md#released-data)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.errors import InputError, check_positive
from tunas.search.objective import default_cost_model
from tunas.space import Architecture, Space, get_space

ALIKE = 0.02
"""How far, relative to it, random architectures may be from the cost of what they are compared with."""
WINDOW = {84.0: (83.0, 85.0), 57.0: (57.0, 59.0)}
"""Target -> range of costs of the released random architectures (docs/algorithm.md#released-data)."""
BATCH = 4096
"""Architectures drawn at a time."""
MAX_DRAWS = 20_000_000
"""Architectures drawn at most; where a twentieth of them holds none within the range, the search for one ends."""


def sample_within(config: Any) -> tuple[list[tuple[Architecture, float]], Any]:
    """((architecture, cost) pairs, cost model) as a `SampleConfig` asks.

    Raises:
        InputError: where the bounds exclude each other or no architecture lies in the range.
    """
    for field in ("num_samples", "image_size", "num_classes"):
        check_positive(field, getattr(config, field))
    space = get_space(config.ssd)
    name = config.cost_model or default_cost_model(space)
    model = load_cost_model(name, space, image_size=config.image_size, num_classes=config.num_classes)
    usual = WINDOW[space.default_target or 84.0] if name == "pixel1" else (-np.inf, np.inf)
    low = usual[0] if config.min_cost is None else config.min_cost
    high = usual[1] if config.max_cost is None else config.max_cost
    if low > high and (config.min_cost is None or config.max_cost is None):
        left_out, bound = ("min_cost", low) if config.min_cost is None else ("max_cost", high)
        given, value = ("max_cost", high) if config.min_cost is None else ("min_cost", low)
        raise InputError(
            f"{given} {value:g} and the default {left_out}, {bound:g}, exclude each other; give --{left_out} too"
        )
    return random_architectures(space, model, low, high, config.num_samples, config.seed), model


def random_alike(space: Space, model: Any, cost: float, window: float, count: int, seed: int) -> list[Architecture]:
    """`count` random architectures that cost within a part `window` of `cost`, the same for the same seed.

    Raises:
        InputError: where there are none, with the range that random ones cover.
    """
    if not count:
        return []
    found = random_architectures(space, model, cost * (1 - window), cost * (1 + window), count, seed)
    return [architecture for architecture, _ in found]


def random_architectures(
    space: Space, model: Any, low: float, high: float, count: int, seed: int
) -> list[tuple[Architecture, float]]:
    """`count` architectures with their costs, uniform among those that cost from `low` to `high`.

    Raises:
        InputError: where the range is empty, or holds none of very many random architectures, with the range that these
        cover.
    """
    if low > high:
        raise InputError(f"min_cost {low:g} is above max_cost {high:g}")
    rng = np.random.default_rng(seed)
    found: list[tuple[Architecture, float]] = []
    drawn, cheapest, dearest = 0, np.inf, -np.inf
    while len(found) < count:
        indices = space.sample(rng, BATCH)
        costs = model.estimate(indices)
        drawn += len(indices)
        inside = np.flatnonzero((costs >= low) & (costs <= high))[: count - len(found)]
        found += [(Architecture(space, tuple(indices[row].tolist())), float(costs[row])) for row in inside]
        cheapest, dearest = min(cheapest, costs.min()), max(dearest, costs.max())
        if (not found and drawn >= MAX_DRAWS // 20) or drawn >= MAX_DRAWS:
            raise InputError(
                f"found {len(found)} of {count} architectures of {space.name} that cost {low:g} to {high:g} "
                f"{model.unit} among {drawn:,} random ones, which cost {cheapest:.4g} to {dearest:.4g}"
            )
    print(f"drew {drawn:,} architectures to find {count}", file=sys.stderr)
    return found
