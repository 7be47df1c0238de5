"""Tables of what each layer of a space amounts to, for every choice that it depends on (docs/algorithm.md#cost-models).

A layer's work depends on the width of its block, on the width of what feeds it, and on its own choices. This module
walks a space once and lays that out as one table per layer alternative: the alternatives of a choice between layers
have a table each, so that their own choices are not multiplied with each other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.cost.model import CostTerm
from tunas.nn.layers import layer_operations
from tunas.nn.operations import Operation
from tunas.space import OneOf, Space
from tunas.space.choice import choice_points, chosen, resolved
from tunas.space.layers import IMAGE_CHANNELS, keeps_width
from tunas.space.registry import inner_layer, kind_of, with_inner_layer

HEAD = "head"
"""Path and description of the classifier, which every network ends with."""
CACHE_MEGABYTES = (0.25, 1, 2, 4, 8, 16)
"""Sizes of float32 tensors at which caches and allocators change their speed."""
GATE_MEGABYTES = (0.25, 1, 4)
"""Sizes of the float32 weights of one convolution of a squeeze-and-excite from which reading them is what takes the
time: each is used once for an image, and the widest hold as much as a core's own cache."""
CHANNEL_BLOCKS = (16, 32)
"""Channels that kernels compute together; in INT8 two or four times as many as in float32. Where a layer's channels are
no multiple, the last block is filled up, or computed by slower code."""
FINE_MARK = "->"
"""Stands in the names of quantities that are split by kernel size and resolution."""


@dataclass(frozen=True)
class Placed:
    """A fixed layer where it stands in a network.

    Args:
        layer: the description without choices, or `HEAD`.
        inputs, outputs: channels.
        size: pixels along one side of its input.
        operations: what it computes.
    """

    layer: Any
    inputs: int
    outputs: int
    size: int
    operations: tuple[Operation, ...]

    @property
    def output_size(self) -> int:
        """Pixels along one side of its output."""
        return self.operations[-1].output_size if self.operations else self.size


@dataclass(frozen=True, eq=False)
class LayerTable:
    """A quantity of one alternative of one layer.

    Args:
        path: such as `blocks/2/layers/0`, with `/choices/1` for an alternative of a choice between layers.
        layer: number of the layer in the network; alternatives of the same layer share it.
        positions: the OneOfs that it depends on.
        values: one axis per position and then the quantity's own axes; zero where another alternative is chosen.
    """

    path: str
    layer: int
    positions: tuple[int, ...]
    values: np.ndarray


Quantity = Callable[[Placed], Any]
"""A number, or an array of always the same shape, of a layer in its place."""


def layer_tables(space: Space, quantity: Quantity, image_size: int = 224, num_classes: int = 1000) -> list[LayerTable]:
    """`quantity` of every layer of the space, the classifier last; exact for every architecture.

    The quantity of a whole network, where it is a sum, is the sum over tables of the entry that the architecture picks.

    Args:
        quantity: called once per different layer, width and resolution.
        image_size: pixels a side.
        num_classes: outputs of the classifier.
    """
    measured = functools.cache(quantity)
    return [
        _filled(space, place, lambda placed: np.asarray(measured(placed), np.float64))
        for place in _places(space, image_size, num_classes)
    ]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where an alternative of a layer stands.

    Args:
        path, layer, positions: of its table.
        guards: position -> index, of the choices that lead to the alternative.
        placed: the layer in its place, by the indices of an architecture at `positions`.
    """

    path: str
    layer: int
    guards: Mapping[int, int]
    positions: tuple[int, ...]
    placed: Callable[[Mapping[int, int]], Placed]


def _places(space: Space, image_size: int, num_classes: int) -> Iterator[_Place]:
    """Every alternative of every layer, in network order, and the classifier."""
    base = space.tower.filters_base
    width: int | OneOf = IMAGE_CHANNELS
    size = image_size  # the same for every architecture: choices between layers of different strides are refused
    layer_number = 0
    for number, block in enumerate(space.tower.blocks):
        for place, layer in enumerate(block.layers):
            for suffix, guards, alternative in _alternatives(layer):
                placed = functools.partial(_placed, alternative, width, block.filters, size, base)
                around = (_position_of(block.filters), _position_of(width))
                positions = _unique(*around, tuple(guards), _positions_in(alternative))
                yield _Place(f"blocks/{number}/layers/{place}{suffix}", layer_number, guards, positions, placed)
            size = placed(dict.fromkeys(positions, 0)).output_size
            width = width if keeps_width(layer) else block.filters
            layer_number += 1
    yield _Place(HEAD, layer_number, {}, _position_of(width), functools.partial(_placed_head, width, num_classes, size))


def _placed(
    layer: Any, width: int | OneOf, filters: int | OneOf, size: int, base: int, indices: Mapping[int, int]
) -> Placed:
    inputs = chosen(width, indices)
    outputs = inputs if keeps_width(layer) else chosen(filters, indices)
    return _placed_fixed(resolved(layer, indices), inputs, outputs, size, base)


@functools.lru_cache(maxsize=100_000)
def _placed_fixed(layer: Any, inputs: int, outputs: int, size: int, base: int) -> Placed:
    return Placed(layer, inputs, outputs, size, tuple(layer_operations(layer, inputs, outputs, size, base)))


def _placed_head(width: int | OneOf, num_classes: int, size: int, indices: Mapping[int, int]) -> Placed:
    inputs = chosen(width, indices)
    classifier = Operation.conv("classifier", inputs, num_classes, 1, 1, size, bias=True)
    return Placed(HEAD, inputs, num_classes, size, (classifier,))


def _alternatives(
    layer: Any, suffix: str = "", guards: Mapping[int, int] | None = None
) -> Iterator[tuple[str, dict[int, int], Any]]:
    """(path suffix, position -> index that leads there, layer) for every alternative of a layer; only fields still hold
    choices."""
    guards = dict(guards or {})
    if isinstance(layer, OneOf):
        assert layer.position is not None
        for index, choice in enumerate(layer.choices):
            yield from _alternatives(choice, f"{suffix}/choices/{index}", {**guards, layer.position: index})
    elif (around := inner_layer(layer)) is not None:
        for inner_suffix, inner_guards, inner in _alternatives(around, f"{suffix}/{kind_of(layer).inner}", guards):
            yield inner_suffix, inner_guards, with_inner_layer(layer, inner)
    else:
        yield suffix, guards, layer


def without_constant_axes(positions: tuple[int, ...], values: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """The table without the axes (of `positions`) along which nothing changes."""
    kept = list(positions)
    for position in positions:
        axis = kept.index(position)
        first = values.take([0], axis)
        if (values == first).all():
            values = first.squeeze(axis)
            kept.remove(position)
    return tuple(kept), values


def bias_and_terms(tables: Iterable[LayerTable]) -> tuple[float, list[CostTerm]]:
    """The sum of tables of numbers as a cost model has it: what is the same for every architecture, and the rest."""
    bias = 0.0
    terms = []
    for table in tables:
        positions, values = without_constant_axes(table.positions, table.values)
        if positions:
            terms.append(CostTerm(positions, values, table.path))
        else:
            bias += float(values)
    return bias, terms


def _filled(space: Space, place: _Place, quantity: Callable[[Placed], np.ndarray]) -> LayerTable:
    """The table of an alternative, entry by entry."""
    sizes = [range(space.sizes[p]) if p not in place.guards else (place.guards[p],) for p in place.positions]
    values: np.ndarray | None = None
    for combination in itertools.product(*sizes):
        amount = quantity(place.placed(dict(zip(place.positions, combination, strict=True))))
        if values is None:
            values = np.zeros((*(space.sizes[position] for position in place.positions), *amount.shape))
        values[combination] = amount
    assert values is not None
    return LayerTable(place.path, place.layer, place.positions, values)


def _position_of(value: int | OneOf) -> tuple[int, ...]:
    if not isinstance(value, OneOf):
        return ()
    assert value.position is not None
    return (value.position,)


def _positions_in(layer: Any) -> tuple[int, ...]:
    positions = [point.oneof.position for point in choice_points(layer)]
    return tuple(position for position in positions if position is not None)


def _unique(*groups: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(itertools.chain(*groups)))


def peak_elements(placed: Placed) -> int:
    """Most numbers that are alive at once while the layer runs on one image.

    Counted as an inference runtime plans its memory: a convolution with its batch norm and activation is one
    operation, every operation has its inputs and its output in memory at the same time, and nothing else is kept but
    what a later operation reads: the input of a residual layer, and what squeeze-and-excite will scale.
    """
    entering = placed.inputs * placed.size**2
    if placed.operations and placed.operations[0].kind == "zeros":
        return placed.outputs * placed.size**2
    is_residual = bool(placed.operations) and placed.operations[-1].kind == "add"
    peak = current = entering
    for number, operation in enumerate(placed.operations):
        if operation.is_in_passing:
            continue
        kept = entering if is_residual and number else 0
        result = operation.outputs * operation.output_size**2
        if operation.kind == "se_reduce":
            peak = max(peak, kept + current + operation.inputs + result)
        elif operation.kind == "se_expand":
            peak = max(peak, kept + current + operation.inputs + result, kept + 2 * current + result)
        else:
            peak = max(peak, kept + current + result)
            current = result
    if is_residual:
        peak = max(peak, entering + 2 * current)
    if placed.layer == HEAD:
        peak = max(peak, current + placed.outputs)
    return peak


def physical_quantities(placed: Placed) -> dict[str, float]:
    """What a layer's time is made of, by name: multiply-accumulates by kind of operation, numbers moved, and calls.

    A name that holds a kernel size, stride and resolution is a finer version of one that does not.
    """
    found: dict[str, float] = {}

    def add(name: str, amount: float) -> None:
        found[name] = found.get(name, 0.0) + amount

    for operation in placed.operations:
        if operation.is_in_passing:
            if operation.kind == "activation":
                add(f"activated {operation.activation}", operation.outputs * operation.output_size**2)
            elif operation.kind == "add":
                add("added", operation.outputs * operation.output_size**2)
            continue
        kind = _work_kind(operation)
        read, written = operation.inputs * operation.input_size**2, operation.outputs * operation.output_size**2
        add(f"macs {kind}", operation.macs)
        add(f"moved {kind}", read + written)
        add("weights", operation.parameters)
        for block in CHANNEL_BLOCKS if kind != "pool" else ():
            full = operation.macs * _filled_up(operation.outputs, block)
            grouped = operation.groups > 1
            add(f"macs {kind} in blocks of {block}", full if grouped else full * _filled_up(operation.inputs, block))
            add(f"no blocks of {block} {kind}", (operation.outputs % block > 0) + (operation.inputs % block > 0))
        for threshold in CACHE_MEGABYTES:
            large = sum(numbers for numbers in (read, written) if numbers * 4 > threshold * 2**20)
            add(f"moved beyond {threshold} MB", large)
        add("calls", 1)
        add(f"calls {kind}", 1)
        for threshold in GATE_MEGABYTES if kind == "gate" else ():
            add(f"gate weights beyond {threshold} MB", max(0.0, operation.parameters - threshold * 2**20 / 4))
        if operation.norm:
            add("normalised", written)
        if operation.activation:
            add(f"activated {operation.activation}", written)
        if operation.kind == "se_expand":
            add("gated", operation.outputs * placed.output_size**2)
        fine = f"{kind} k{operation.kernel} {operation.input_size}{FINE_MARK}{operation.output_size}"
        add(f"macs {fine}", operation.macs)
        add(f"moved {fine}", read + written)
        add(f"calls {fine}", 1)
    return found


def _filled_up(channels: int, block: int) -> float:
    """How many times as many channels there are in whole blocks."""
    return -(-channels // block) * block / channels


def _work_kind(operation: Operation) -> str:
    """The kind of loop that computes an operation."""
    if operation.kind == "pool":
        return "pool"
    if operation.kind in ("se_reduce", "se_expand"):
        return "gate"  # which INT8 runtimes may leave in float32 (OpenVINO's costs four times the classifier a weight)
    if operation.groups > 1:
        return "depthwise"
    if operation.output_size == 1:
        return "vector"
    return "pointwise" if operation.kernel == 1 else "dense"
