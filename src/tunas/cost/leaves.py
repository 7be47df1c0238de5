"""Tables of what each leaf module of a model of one's own amounts to (for towers, see `tunas.cost.features`).

Nothing tells on which choices a leaf depends, so that is found out: networks that differ in one OneOf are counted on
the meta device (`tunas.nn.counting`), and each leaf gets a table over the OneOfs that changed it. Then random networks
are counted and compared with the tables. A leaf that disagrees depends on more than was seen: the walk between the
network that its entry came from and the one that disagrees finds on what, and its table grows. What still disagrees in
the end, or grows too large, is refused with the leaf's name; what is left is exact for every network that was checked.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tunas.cost.features import LayerTable
from tunas.errors import InputError
from tunas.nn.counting import Counts, leaf_counts
from tunas.space import Architecture, Space, active_positions

STARTS = 4
"""Random networks around which each OneOf is varied."""
CHECKED = 200
"""Random networks that the tables are compared with."""
LARGEST_TABLE = 4096
"""Entries of a leaf's table."""
TRIED_GAPS = 50
"""Empty entries of each table that are looked at for a network that fills as many as it can."""
SEED = 0

Indices = tuple[int, ...]


def leaf_tables(space: Space, example: Any, each_step: Callable[[str, int], Any]) -> LeafTables:
    """What every leaf of a space of one's own amounts to, for every architecture.

    Args:
        example: the inputs of one example, first dimension 1.
        each_step: called with what is going on, and how many networks have been counted.

    Raises:
        InputError: where the network cannot be counted, or a leaf depends on more OneOfs than a table can hold, naming
            it.
    """
    tables = LeafTables(space, example, each_step)
    rng = np.random.default_rng(SEED)
    for start in [(0,) * space.num_choices, *(space.sample(rng).indices for _ in range(STARTS - 1))]:
        tables.vary(start)
    tables.fill()
    for row in space.sample(rng, CHECKED).tolist() if space.num_choices else []:
        tables.check(tuple(row))
    return tables


class LeafTables:
    """The tables while they are being made.

    Attributes:
        positions: of each leaf, the OneOfs that it depends on, ascending.
        entries: of each leaf, the choices of these -> (its counts, a network that they were counted in).
    """

    def __init__(self, space: Space, example: Any, each_step: Callable[[str, int], Any]):
        self.space, self.example, self.each_step = space, example, each_step
        self.positions: dict[str, tuple[int, ...]] = {}
        self.entries: dict[str, dict[Indices, tuple[Counts, Indices]]] = {}
        self._gaps: dict[str, dict[Indices, None]] = {}
        self._counted: dict[Indices, dict[str, Counts]] = {}
        self._doing = "looking for what each layer depends on"

    def counts(self, indices: Indices) -> dict[str, Counts]:
        """Leaf -> counts, of one network; networks that are the same are counted once."""
        pruned = Architecture(self.space, indices).pruned()
        if pruned.indices not in self._counted:
            self._counted[pruned.indices] = leaf_counts(pruned, self.example)
            for leaf in self._counted[pruned.indices]:
                self.positions.setdefault(leaf, ())
                self.entries.setdefault(leaf, {})
            self.each_step(self._doing, len(self._counted))
        return self._counted[pruned.indices]

    def vary(self, start: Indices) -> None:
        """Notes which leaves change where one OneOf of a network takes another choice."""
        before = self.counts(start)
        for position, active in enumerate(active_positions(self.space, start)):
            for choice in range(self.space.sizes[position]) if active else ():
                changed = self.counts(_with(start, position, choice))
                for leaf in before.keys() | changed.keys():
                    if before.get(leaf) != changed.get(leaf):
                        self._depends(leaf, position)

    def _depends(self, leaf: str, position: int) -> None:
        """Notes that a leaf depends on a OneOf; its table then has an axis more."""
        if position in self.positions[leaf]:
            return
        self.positions[leaf] = tuple(sorted((*self.positions[leaf], position)))
        size = math.prod(self.space.sizes[p] for p in self.positions[leaf])
        if size > LARGEST_TABLE:
            paths = ", ".join(self.space.points[p].path for p in self.positions[leaf])
            raise InputError(
                f"the costs of {self.space.name} cannot be put into tables: {leaf} depends on {paths}, which have "
                f"{size:,} combinations, and {LARGEST_TABLE:,} are the most; give a function of your own instead"
            )
        known, self.entries[leaf] = self.entries[leaf], {}
        for counts, network in known.values():
            self._enter(leaf, counts, network)

    def _enter(self, leaf: str, counts: Counts, network: Indices) -> None:
        """Fills the entry of a leaf's table that a network picks, unless it is there already."""
        key = tuple(network[position] for position in self.positions[leaf])
        self.entries[leaf].setdefault(key, (counts, network))
        self._gaps.get(leaf, {}).pop(key, None)

    def fill(self) -> None:
        """Counts networks until every table is full; each network fills an entry of as many tables as it can."""
        self._doing = "filling tables"
        for network, found in list(self._counted.items()):
            for leaf in self.positions:
                self._enter(leaf, found.get(leaf, {}), network)
        for leaf, positions in self.positions.items():
            sizes = [range(self.space.sizes[position]) for position in positions]
            keys = itertools.product(*sizes)
            self._gaps[leaf] = dict.fromkeys(key for key in keys if key not in self.entries[leaf])
        while gaps := next((leaf for leaf, gaps in self._gaps.items() if gaps), None):
            network = self._network_for(gaps)
            found = self.counts(network)
            for leaf in self.positions:
                self._enter(leaf, found.get(leaf, {}), network)

    def _network_for(self, leaf: str) -> Indices:
        """A network that fills a gap of `leaf`, and of others as far as they agree."""
        taken: dict[int, int] = {}
        for other in (leaf, *self._gaps):
            positions = self.positions[other]
            some = itertools.islice(self._gaps[other], TRIED_GAPS)
            gap = next((key for key in some if _agrees(taken, positions, key)), None)
            if gap is not None:
                taken.update(zip(positions, gap, strict=True))
        return tuple(taken.get(position, 0) for position in range(self.space.num_choices))

    def check(self, network: Indices) -> None:
        """Compares a network with the tables, and lets those grow that disagree."""
        self._doing = "checking the tables"
        found = self.counts(network)
        for leaf in list(self.positions):
            while self._entry(leaf, network)[0] != found.get(leaf, {}):
                self._depends(leaf, self._what_else(leaf, network))
                self._enter(leaf, found.get(leaf, {}), network)
                self.fill()

    def _entry(self, leaf: str, network: Indices) -> tuple[Counts, Indices]:
        """What a leaf's table says of a network, and the network that it was counted in."""
        return self.entries[leaf].get(tuple(network[p] for p in self.positions[leaf]), ({}, network))

    def _what_else(self, leaf: str, network: Indices) -> int:
        """A OneOf that `leaf` depends on and that its table does not have, where the table is wrong about `network`."""
        counts, here = self._entry(leaf, network)
        for position in reversed(range(len(here))):  # parents first
            if here[position] != network[position]:
                here = _with(here, position, network[position])
                if self.counts(here).get(leaf, {}) != counts:
                    if position in self.positions[leaf]:
                        break
                    return position
        raise InputError(
            f"the costs of {self.space.name} cannot be put into tables: {leaf} comes out different for the same "
            f"architecture {':'.join(map(str, network))}; give a function of your own instead"
        )

    def tables(self, quantity: Callable[[Counts], Any]) -> list[LayerTable]:
        """One table a leaf, of a number or an array of always the same shape."""
        found = []
        for number, (leaf, positions) in enumerate(self.positions.items()):
            amounts = {key: np.asarray(quantity(counts), np.float64) for key, (counts, _) in self.entries[leaf].items()}
            shape = next(iter(amounts.values())).shape
            values = np.zeros((*(self.space.sizes[position] for position in positions), *shape))
            for key, amount in amounts.items():
                values[key] = amount
            found.append(LayerTable(leaf, number, positions, values))
        return found

    def names(self) -> tuple[str, ...]:
        """Every quantity that some leaf has."""
        names = (name for of_leaf in self.entries.values() for counts, _ in of_leaf.values() for name in counts)
        return tuple(dict.fromkeys(names))


def _agrees(taken: dict[int, int], positions: tuple[int, ...], key: Indices) -> bool:
    return all(taken.get(position, choice) == choice for position, choice in zip(positions, key, strict=True))


def _with(indices: Indices, position: int, choice: int) -> Indices:
    return (*indices[:position], choice, *indices[position + 1 :])
