"""Costs of models of one's own: counted leaf by leaf, or given as a function."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, overload

import numpy as np

from tunas.cost.features import bias_and_terms
from tunas.cost.leaves import LeafTables, leaf_tables
from tunas.cost.model import CostModel
from tunas.errors import InputError
from tunas.nn.counting import WEIGHTS, macs_of, shapes
from tunas.space import ALL, Architecture, Space
from tunas.space.layers import IMAGE_CHANNELS

UNITS = {"params": "parameters", "macs": "MACs"}
MOST_MIXTURES = 24
"""Networks that a network with several choices at once is priced as the mean of, at most."""


def counted_cost(name: str, space: Space, example: Any) -> CostModel:
    """`params` or `macs` of a space of one's own, exact for every architecture.

    Args:
        example: the inputs of one example, first dimension 1.

    Raises:
        InputError: where the name is another one, or the network cannot be counted.
    """
    if name not in UNITS:
        raise InputError(
            f"{name} is known of towers only, and {space.name} is a model of one's own; known of it are "
            f"{', '.join(UNITS)}, files that `tunas fit` wrote, and functions"
        )
    found = counted_leaves(space, example)
    amounts = found.tables(lambda counts: counts.get(WEIGHTS, 0) if name == "params" else macs_of(counts))
    bias, terms = bias_and_terms(amounts)
    source = {"source": "counted by tunas.cost.leaves", "example": shapes(example)}
    return CostModel(space, bias, terms, UNITS[name], device="any device", provenance=source)


_found: dict[Any, LeafTables] = {}


def counted_leaves(space: Space, example: Any) -> LeafTables:
    """The leaf tables, made once for a space and the shapes of an example; a terminal shows how far the counting is."""
    key = (space, space.network, shapes(example))
    if key not in _found:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"counting {space.name}", total=None)

            def show(what: str, networks: int) -> None:
                progress.update(task, description=f"counting {space.name}: {what}, {networks} networks")

            _found[key] = leaf_tables(space, example, show)
    return _found[key]


def example_of(space: Space, example: Any, image_size: int | None) -> Any:
    """The inputs by which a space of one's own is counted and measured: the given ones, its own, or an image.

    Args:
        example: the inputs of one example, a function that returns them, or None.
        image_size: pixels a side of an image, where neither `example` nor the space has inputs; None where there is
            none.

    Raises:
        InputError: where there are none.
    """
    if example is not None:
        return example() if callable(example) else example
    if space.example is not None:
        return space.example()
    if image_size is not None:
        import torch

        return torch.zeros(1, IMAGE_CHANNELS, image_size, image_size)
    raise InputError(
        f"counting or measuring {space.name} takes an example of its inputs: tunas.register_space(…, example=function "
        f"that returns them), or --image_size where they are images"
    )


class FunctionCost:
    """A cost that a function of the user's tells.

    Has the reading side of `CostModel`: `space`, `unit`, `device`, `provenance` and `estimate`.

    Args:
        space: whose architectures it prices.
        function: int array `[N, num_choices]` -> float array `[N]`. Its attribute `unit`, if any, names the unit.
        name: of the function, for messages.
    """

    device = ""

    def __init__(self, space: Space, function: Callable[[np.ndarray], Any], name: str = ""):
        self.space, self.function = space, function
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self.unit: str = getattr(function, "unit", "")
        self.provenance: Mapping[str, Any] = {"source": self.name}

    def __repr__(self) -> str:
        return f"FunctionCost({self.space.name!r}, {self.name}, unit={self.unit!r})"

    @overload
    def estimate(self, architectures: Architecture) -> float: ...
    @overload
    def estimate(self, architectures: np.ndarray) -> np.ndarray: ...
    def estimate(self, architectures: Architecture | np.ndarray) -> float | np.ndarray:
        """Cost: one architecture -> float; an int array `[N, num_choices]` -> float64 array `[N]`.

        A row with `ALL` (-1) costs the mean of up to 24 networks, in which every OneOf that is open takes each of its
        choices equally often.

        Raises:
            InputError: where the function gives something other than N finite numbers.
        """
        if isinstance(architectures, Architecture):
            return float(self.estimate(np.array([architectures.indices], np.int64).reshape(1, -1))[0])
        rows = np.asarray(architectures, np.int64)
        mixed = (rows == ALL).any(axis=1)
        costs = np.empty(len(rows))
        if not mixed.all():
            costs[~mixed] = self._called(rows[~mixed])
        for row in np.flatnonzero(mixed):
            costs[row] = self._called(self._resolved(rows[row])).mean()
        return costs

    def _resolved(self, row: np.ndarray) -> np.ndarray:
        """Networks `[up to 24, num_choices]` in which a mixture's open choices take every value equally often."""
        open_positions = np.flatnonzero(row == ALL)
        sizes = [self.space.sizes[position] for position in open_positions]
        number = min(functools.reduce(math.lcm, sizes), MOST_MIXTURES)
        networks = np.tile(row, (number, 1))
        for position, size in zip(open_positions, sizes, strict=True):
            networks[:, position] = np.arange(number) % size
        return networks

    def _called(self, rows: np.ndarray) -> np.ndarray:
        """What the function gives for architectures without `ALL`."""
        costs = np.asarray(self.function(rows))
        if costs.shape != (len(rows),) or costs.dtype.kind not in "iuf":
            raise InputError(
                f"the cost function {self.name} must give {len(rows)} numbers for {len(rows)} architectures, not "
                f"{costs.dtype} of shape {list(costs.shape)}"
            )
        if not np.isfinite(costs).all():
            row = int(np.flatnonzero(~np.isfinite(costs))[0])
            text = ":".join(map(str, rows[row].tolist()))
            raise InputError(f"the cost function {self.name} gives {costs[row]} for architecture {text}")
        return costs.astype(np.float64)
