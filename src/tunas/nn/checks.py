"""Whether code of one's own keeps what it promises: to be called from its tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from tunas.errors import InputError
from tunas.nn.counting import operation_macs
from tunas.nn.layers import build_layer, layer_operations
from tunas.nn.options import NetworkOptions
from tunas.space import Block, Conv, Space, Tower
from tunas.space.choice import choice_points, numbered, resolved
from tunas.space.layers import keeps_width
from tunas.space.registry import is_layer, kind_of

MOST_VARIANTS = 100


def check_layer(layer: Any, inputs: int = 16, outputs: int = 24, size: int = 14, base: int = 8) -> None:
    """Checks a registered layer: what its module's `operations` say against what the module is and does.

    For each architecture of the layer (100 at most): the parameters, the multiply-accumulates, and the width and
    resolution of what it hands on, run on the meta device; and that the module can be built with its choices.

    Args:
        layer: a description, such as `GhostConv(OneOf([3, 5], OP))`.
        inputs, outputs: widths of its input and of its block.
        size: pixels along one side of its input.
        base: what widths are multiples of.

    Raises:
        InputError: saying which figure differs for which layer.
    """
    if not is_layer(layer):
        raise InputError(f"{type(layer).__name__} is no registered layer; see tunas.register_layer")
    outputs = inputs if keeps_width(layer) or kind_of(layer).adds_input else outputs
    _check_place(layer, outputs)
    options = NetworkOptions(filters_base=base)
    layer = numbered(layer)
    with torch.device("meta"):
        build_layer(layer, inputs, outputs, options)
        for variant in _variants(layer):
            _check_variant(variant, inputs, outputs, size, base, options)


def _check_place(layer: Any, width: int) -> None:
    """That the layer can stand in a tower."""
    Space("check_layer", Tower((Block((Conv(1), layer), 8 * -(-width // 8)),)))


def _variants(layer: Any) -> Iterator[Any]:
    """The layer with every choice made, each choice of each OneOf at least once."""
    points = choice_points(layer)
    yield resolved(layer, [0] * len(points))
    for position, point in list(enumerate(points))[:MOST_VARIANTS]:
        for choice in range(1, point.size):
            yield resolved(layer, [choice if other == position else 0 for other in range(len(points))])


def _check_variant(layer: Any, inputs: int, outputs: int, size: int, base: int, options: NetworkOptions) -> None:
    """Compares what a layer without choices says of itself with its module."""
    module = build_layer(layer, inputs, outputs, options).eval()
    operations = layer_operations(layer, inputs, outputs, size, base)
    if not all(dataclasses.is_dataclass(operation) for operation in operations):
        raise InputError(f"operations of {layer} must give a list of tunas.nn.operations.Operation")
    said, found = sum(op.parameters for op in operations), sum(p.numel() for p in module.parameters())
    if said != found:
        raise InputError(f"the operations of {layer} say {said:,} parameters, its module has {found:,}")
    x = torch.empty(1, inputs, size, size, device="meta")
    macs, output = operation_macs(module, x)
    if (said := sum(op.macs for op in operations)) != macs:
        raise InputError(f"the operations of {layer} say {said:,} multiply-accumulates, its module takes {macs:,}")
    last = operations[-1].output_size if operations else size
    expected = (1, outputs, last, last)
    if output is not None and tuple(output.shape) != expected:
        raise InputError(
            f"the module of {layer} gives {list(output.shape)}, where the tower and its operations expect "
            f"{list(expected)}"
        )
