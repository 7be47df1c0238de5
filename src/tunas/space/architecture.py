"""A search space by name, and one architecture in it as a value."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from tunas.errors import InputError
from tunas.space import layers
from tunas.space.checks import check_structure, check_tower, width_of
from tunas.space.choice import FILTERS, ChoicePoint, OneOf, choice_points, fields_of, numbered, rebuild, resolved
from tunas.space.describe import structure_tree, tower_table
from tunas.space.serialize import know_types

if TYPE_CHECKING:
    import numpy as np

SEPARATOR = ":"


class Space:
    """A structure with choices in it, under a name.

    Args:
        name: what `--ssd` calls it.
        structure: a Tower, or with `network` any frozen structure; OneOfs may stand anywhere in it.
        default_target: cost that a search aims for where none is given, in the unit of the packaged cost model.
        network: what builds the torch module of a structure that is no Tower, called with the structure, once with
            choices and once without.
        example: returns the inputs of one example (first dimension 1), by which a network that is no tower's is counted
            and measured: a tensor, or a tuple, list or dict of such.

    Raises:
        InputError: where the structure cannot be searched, or the tower cannot be a network, naming the place.
    """

    def __init__(
        self,
        name: str,
        structure: Any,
        default_target: float | None = None,
        *,
        network: Callable[[Any], Any] | None = None,
        example: Callable[[], Any] | None = None,
    ):
        self.name = name
        if isinstance(structure, layers.Tower):
            check_tower(name, structure)
        else:
            check_structure(name, structure)
            know_types(structure)
        self.structure = numbered(structure)
        self.default_target = default_target
        self.network = network
        self.example = example
        self.points: tuple[ChoicePoint, ...] = choice_points(self.structure)
        self.sizes: tuple[int, ...] = tuple(point.size for point in self.points)

    @property
    def tower(self) -> layers.Tower:
        """The structure, of a space of towers.

        Raises:
            InputError: where it is another one.
        """
        if not isinstance(self.structure, layers.Tower):
            raise InputError(f"{self.name} is a {type(self.structure).__name__}, not a Tower")
        return self.structure

    def __repr__(self) -> str:
        return f"Space({self.name!r}, {self.num_choices} OneOfs, {self.count():.3g} index strings)"

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Space) and (self.name, self.structure) == (other.name, other.structure)
        )

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def num_choices(self) -> int:
        """How many OneOfs there are, which is how many indices an architecture has."""
        return len(self.points)

    def count(self) -> int:
        """How many index strings there are."""
        return math.prod(self.sizes)

    def count_distinct(self) -> int:
        """How many different networks there are: indices that are not in use and places of skipped layers do not count.

        Two networks are the same when every block has the same width and the same layers in the same order once
        skipped ones, `Residual(Zero())`, are left out. Two structures that are no towers are the same when they are
        equal; choices that are written differently count as different.
        """
        if not isinstance(self.structure, layers.Tower):
            return _count_values(self.structure)
        total = 1
        for block in self.tower.blocks:
            widths = len(set(block.filters.choices)) if isinstance(block.filters, OneOf) else 1
            total *= widths * _count_sequences([_variants(layer) for layer in block.layers])
        return total

    @overload
    def sample(self, rng: np.random.Generator) -> Architecture: ...
    @overload
    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray: ...
    def sample(self, rng: np.random.Generator, n: int | None = None) -> Architecture | np.ndarray:
        """Uniform over index strings: one `Architecture`, or with `n` an int64 array `[n, num_choices]`."""
        indices = rng.integers(0, self.sizes, size=(1 if n is None else n, self.num_choices))
        return Architecture(self, tuple(indices[0].tolist())) if n is None else indices

    def architecture(self, indices: str | Sequence[int]) -> Architecture:
        """The architecture of a colon-separated string or a sequence of integers.

        Raises:
            InputError: saying how many indices were expected, or which one is out of range and at which path.
        """
        parts = (indices.split(SEPARATOR) if indices.strip() else []) if isinstance(indices, str) else indices
        numbers = [_integer(part) for part in parts]
        if len(numbers) != self.num_choices:
            way = "" if numbers else "; the flag for them is --indices=0:1:…"
            raise InputError(f"{self.name} takes {self.num_choices} indices, but {len(numbers)} were given{way}")
        for position, (number, point) in enumerate(zip(numbers, self.points, strict=True)):
            if not 0 <= number < point.size:
                raise InputError(
                    f"index {number} at position {position} ({point.path}) of {self.name} is out of range: "
                    f"there are {point.size} choices, 0 to {point.size - 1}"
                )
        return Architecture(self, tuple(numbers))

    @functools.cached_property
    def widest_indices(self) -> dict[int, int]:
        """Position of every `FILTERS` OneOf -> index of its widest choice (what filter warmup enables)."""
        if not isinstance(self.structure, layers.Tower):
            return {
                position: max(range(point.size), key=lambda index: width_of(point.oneof.choices[index]))
                for position, point in enumerate(self.points)
                if point.oneof.tag == FILTERS
            }
        found: dict[int, int] = {}
        base = self.tower.filters_base
        width = layers.IMAGE_CHANNELS
        for block in self.tower.blocks:
            block_width = layers.widest(block.filters)
            for layer in block.layers:
                for point in _oneofs(layer):
                    if point.tag == FILTERS:
                        assert point.position is not None
                        found[point.position] = layers.widest_index(point, width, base)
                width = width if layers.keeps_width(layer) else block_width
            if isinstance(block.filters, OneOf):
                assert block.filters.position is not None
                found[block.filters.position] = layers.widest_index(block.filters, width, base)
        return found


@dataclass(frozen=True)
class Architecture:
    """One architecture of a space: a value, hashable, compared by what it is.

    Args:
        space: where the indices belong.
        indices: one integer per OneOf, in index order. Use `Space.architecture`, which checks them.
    """

    space: Space
    indices: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The indices as a colon-separated string, as in the released CSV files."""
        return SEPARATOR.join(map(str, self.indices))

    @property
    def structure(self) -> Any:
        """The structure with every choice made: no OneOf is left in it."""
        return resolved(self.space.structure, self.indices)

    @property
    def tower(self) -> layers.Tower:
        """The structure with every choice made, of a space of towers.

        Raises:
            InputError: where the space has another structure.
        """
        return resolved(self.space.tower, self.indices)

    def pruned(self) -> Architecture:
        """The same network with 0 in place of every index that is not in use."""
        active = active_positions(self.space, self.indices)
        return Architecture(
            self.space, tuple(index if on else 0 for index, on in zip(self.indices, active, strict=True))
        )

    def __repr__(self) -> str:
        return f"Architecture({self.space.name!r}, {self.text!r})"

    def __str__(self) -> str:
        title = self.space.name + (f"  {self.text}" if self.indices else "")
        if isinstance(self.space.structure, layers.Tower):
            return tower_table(title, self.tower)
        return structure_tree(title, self.structure)


def _integer(part: Any) -> int:
    """One index, given as text or as a number that is an integer by type (numpy's too)."""
    if isinstance(part, str):
        if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", part):
            return int(part)
    elif hasattr(part, "__index__") and not isinstance(part, bool):
        with contextlib.suppress(TypeError):  # an array of several numbers
            return operator.index(part)
    raise InputError(f"indices are integers separated by colons, such as 0:2:1; {part!r} is not an integer")


def active_positions(space: Space, indices: Sequence[int]) -> list[bool]:
    """For each OneOf, whether the choices taken around it lead to it."""
    active = [True] * space.num_choices
    for position in reversed(range(space.num_choices)):  # a parent comes after its children
        point = space.points[position]
        if point.parent is not None:
            active[position] = active[point.parent] and indices[point.parent] == point.parent_choice
    return active


def _count_values(node: Any) -> int:
    """How many values a structure can resolve to, where a choice's are taken to be different from the others'."""
    if isinstance(node, OneOf):
        return sum(_count_values(choice) for choice in dict.fromkeys(node.choices))
    return math.prod(_count_values(part) for _, part in fields_of(node))


def _oneofs(node: Any) -> Iterable[OneOf]:
    """The OneOfs of a structure, in index order."""
    for _, part in fields_of(node):
        yield from _oneofs(part)
    if isinstance(node, OneOf):
        yield node


def _variants(node: Any) -> set[Any]:
    """Every value that a structure can resolve to."""
    if isinstance(node, OneOf):
        return set().union(*(_variants(choice) for choice in node.choices))
    parts = [sorted(_variants(part), key=repr) for _, part in fields_of(node)]
    return {_with_parts(node, values) for values in itertools.product(*parts)} if parts else {node}


def _with_parts(node: Any, parts: Iterable[Any]) -> Any:
    """`node` with other parts in the order of `fields_of`."""
    values = iter(parts)
    return rebuild(node, lambda _: next(values))


def _count_sequences(options: list[set[Any]]) -> int:
    """How many different layer sequences a list of option sets can give, where `SKIPPED` leaves nothing behind.

    Reads every sequence from left to right and remembers the set of layers that could have produced it so far,
    so that a sequence which several places can produce counts once.
    """
    skippable = [layers.SKIPPED in option for option in options]
    symbols: dict[tuple[int, ...], int] = {}  # which layers offer a symbol -> how many such symbols there are
    for symbol in set().union(*options) - {layers.SKIPPED}:
        places = tuple(place for place, option in enumerate(options) if symbol in option)
        symbols[places] = symbols.get(places, 0) + 1

    def closure(starts: Iterable[int]) -> frozenset[int]:
        """The places that may come next: the starts, and what follows them once layers are skipped."""
        reached = set()
        for start in starts:
            reached.add(start)
            while start < len(options) and skippable[start]:
                start += 1
                reached.add(start)
        return frozenset(reached)

    @functools.cache
    def count_from(state: frozenset[int]) -> int:
        """How many sequences can still follow where the next layer is at one of the places of `state`."""
        total = int(len(options) in state)
        for places, number in symbols.items():
            if ends := [place + 1 for place in places if place in state]:
                total += number * count_from(closure(ends))
        return total

    return count_from(closure([0]))
