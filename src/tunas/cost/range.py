"""What the architectures of a space cost at least and at most, without pricing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.cost.additive import PeakCost
from tunas.cost.model import CostModel

LARGEST_TABLE = 4_000_000
"""Entries of a table in the course of the elimination; where one would be larger, the range is a bound."""


@dataclass(frozen=True)
class CostRange:
    """The least and the greatest cost of a space.

    Args:
        low, high: in the model's unit.
        exact: whether some architecture has the cost; otherwise none is outside.
    """

    low: float
    high: float
    exact: bool


def cost_range(model: Any) -> CostRange | None:
    """The range of a cost model; None for one of a kind that is not known here."""
    if isinstance(model, CostModel):
        low, high = _least(model, 1.0), _least(model, -1.0)
        return CostRange(low[0], -high[0], low[1] and high[1])
    if isinstance(model, PeakCost):
        ranges = [cost_range(layer) for layer in model.layers]
        known = [each for each in ranges if each is not None]
        highest = max(known, key=lambda each: each.high)
        return CostRange(max(each.low for each in known), highest.high, False)
    return None


def _least(model: CostModel, sign: float) -> tuple[float, bool]:
    """The least value of `sign` times the cost, and whether it is exact.

    OneOfs are minimised over one after the other, always the one whose tables together are the smallest.
    """
    sizes = model.space.sizes
    constant = sign * model.bias
    tables = [(term.positions, sign * term.values) for term in model.terms]
    exact = True
    while open_positions := {position for positions, _ in tables for position in positions}:
        position = min(open_positions, key=lambda candidate: _joint_size(tables, candidate, sizes))
        touching = [table for table in tables if position in table[0]]
        tables = [table for table in tables if position not in table[0]]
        if _joint_size(touching, position, sizes) > LARGEST_TABLE:
            exact = False
            constant += sum(float(values.min()) for _, values in touching)
            continue
        positions, joint = _sum_of(touching, sizes)
        tables.append((tuple(p for p in positions if p != position), joint.min(axis=positions.index(position))))
    return constant + sum(float(values) for _, values in tables), exact


def _joint_size(tables: Sequence[tuple[tuple[int, ...], np.ndarray]], position: int, sizes: Sequence[int]) -> int:
    """Entries of the sum of all tables that depend on a OneOf."""
    return math.prod(sizes[p] for p in {p for positions, _ in tables if position in positions for p in positions})


def _sum_of(tables: Sequence[tuple[tuple[int, ...], np.ndarray]], sizes: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """(positions, table): the sum of tables over all their positions."""
    positions = sorted({position for of_one, _ in tables for position in of_one})
    total = np.zeros([sizes[position] for position in positions])
    for of_one, values in tables:
        order = np.argsort(of_one)
        shape = [sizes[position] if position in of_one else 1 for position in positions]
        total = total + values.transpose(order).reshape(shape)
    return positions, total
