"""Costs that need no device and are exact for any architecture: parameters, multiply-accumulates, and in float32 and
INT8 the peak activation memory and the bytes of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

import numpy as np

from tunas.cost.features import Quantity, bias_and_terms, layer_tables, peak_elements, without_constant_axes
from tunas.cost.model import CostModel, CostTerm
from tunas.errors import InputError
from tunas.nn.operations import Operation
from tunas.space import Architecture, Space

FLOAT32_BYTES, INT8_BYTES = 4, 1
"""What a weight, or an activation, takes."""
INT8_CHANNEL_BYTES = 4
"""What the scale takes that the weights of each output channel have in INT8; the bias beside it is an int32."""


def parameters(space: Space, num_classes: int = 1000) -> CostModel:
    """Trainable parameters of the stand-alone network, as `tunas.nn.profile.count_parameters` counts them."""
    return _sum_of(
        space, lambda placed: sum(op.parameters for op in placed.operations), "parameters", None, num_classes
    )


def macs(space: Space, image_size: int = 224, num_classes: int = 1000) -> CostModel:
    """Multiply-accumulates of the stand-alone network for one image, as `tunas.nn.profile.count_macs` counts them."""
    return _sum_of(space, lambda placed: sum(op.macs for op in placed.operations), "MACs", image_size, num_classes)


def peak_memory(
    space: Space, image_size: int = 224, num_classes: int = 1000, number_bytes: int = FLOAT32_BYTES
) -> PeakCost:
    """Peak activation memory in bytes for one image, by `tunas.cost.features.peak_elements`.

    Args:
        number_bytes: what each number takes.
    """
    return PeakCost(space, image_size, num_classes, number_bytes)


def flash(space: Space, num_classes: int = 1000) -> CostModel:
    """Bytes of the weights as they ship in float32: batch norms are folded into the convolutions' biases."""
    return _sum_of(space, lambda placed: sum(map(_float32_bytes, placed.operations)), "bytes", None, num_classes)


def flash_int8(space: Space, num_classes: int = 1000) -> CostModel:
    """Bytes of the weights as they ship in INT8: one for each weight, and for each output channel four for its scale
    and four for its bias (docs/algorithm.md#int8)."""
    return _sum_of(space, lambda placed: sum(map(_int8_bytes, placed.operations)), "bytes", None, num_classes)


def _float32_bytes(operation: Operation) -> int:
    return FLOAT32_BYTES * (operation.weights + operation.shipped_biases)


def _int8_bytes(operation: Operation) -> int:
    scales = INT8_CHANNEL_BYTES * operation.outputs if operation.weights else 0
    return INT8_BYTES * operation.weights + scales + FLOAT32_BYTES * operation.shipped_biases


NAMED: dict[str, Callable[[Space, int, int], CostModel | PeakCost]] = {
    "params": lambda space, image_size, num_classes: parameters(space, num_classes),
    "macs": lambda space, image_size, num_classes: macs(space, image_size, num_classes),
    "peak_memory": lambda space, image_size, num_classes: peak_memory(space, image_size, num_classes),
    "peak_memory-int8": lambda space, image_size, num_classes: peak_memory(space, image_size, num_classes, INT8_BYTES),
    "flash": lambda space, image_size, num_classes: flash(space, num_classes),
    "flash-int8": lambda space, image_size, num_classes: flash_int8(space, num_classes),
}
"""What `--cost_model` and `--constraint` call them: `tunas.cost.catalog.DEVICE_FREE`."""


def named_cost(name: str, space: Space, image_size: int = 224, num_classes: int = 1000) -> CostModel | PeakCost:
    """The cost of that name, of a space.

    Raises:
        InputError: where there is none.
    """
    if name not in NAMED:
        raise InputError(f"unknown cost {name!r}; known are {', '.join(NAMED)}")
    return NAMED[name](space, image_size, num_classes)


class PeakCost:
    """The largest of a few sums of table look-ups, one per layer: what a quantity that does not add up costs.

    Has the reading side of `CostModel`: `space`, `unit`, `device`, `provenance` and `estimate`.

    Args:
        space: whose architectures it prices.
        image_size: pixels a side.
        num_classes: outputs of the classifier.
        number_bytes: what each number takes that is alive.
    """

    unit = "bytes"
    device = "any device"

    def __init__(self, space: Space, image_size: int, num_classes: int, number_bytes: int):
        self.space = space
        self.provenance: Mapping[str, Any] = _provenance(image_size, num_classes)
        grouped: dict[int, list[CostTerm]] = {}
        for table in layer_tables(space, lambda placed: peak_elements(placed) * number_bytes, image_size, num_classes):
            positions, values = without_constant_axes(table.positions, table.values)
            grouped.setdefault(table.layer, []).append(CostTerm(positions, values, table.path))
        # A layer whose worst case is below another's best case is never the peak.
        floor = max(sum(term.values.min() for term in terms) for terms in grouped.values())
        self.layers = [
            CostModel(space, 0.0, terms, self.unit)
            for terms in grouped.values()
            if sum(term.values.max() for term in terms) >= floor
        ]

    def __repr__(self) -> str:
        return f"PeakCost({self.space.name!r}, {len(self.layers)} layers, unit={self.unit!r})"

    @overload
    def estimate(self, architectures: Architecture) -> float: ...
    @overload
    def estimate(self, architectures: np.ndarray) -> np.ndarray: ...
    def estimate(self, architectures: Architecture | np.ndarray) -> float | np.ndarray:
        """Cost in `unit`: one architecture -> float; an int array `[N, num_choices]` -> float64 array `[N]`.

        `ALL` (-1) in place of an OP index averages each layer's table, and then the largest layer counts.

        Raises:
            InputError: as for `CostModel.estimate`.
        """
        if isinstance(architectures, Architecture):
            return max(layer.estimate(architectures) for layer in self.layers)
        costs = self.layers[0].estimate(architectures)
        for layer in self.layers[1:]:
            np.maximum(costs, layer.estimate(architectures), out=costs)
        return costs


def _sum_of(space: Space, quantity: Quantity, unit: str, image_size: int | None, num_classes: int) -> CostModel:
    """The cost model of a quantity that adds up over layers; of one that depends on no image size where it is None."""
    bias, terms = bias_and_terms(layer_tables(space, quantity, image_size or 224, num_classes))
    return CostModel(space, bias, terms, unit, device="any device", provenance=_provenance(image_size, num_classes))


def _provenance(image_size: int | None, num_classes: int) -> dict[str, Any]:
    """Where the numbers come from; an image size only where they depend on it."""
    size = {} if image_size is None else {"image_size": image_size}
    return {"source": "counted by tunas.cost.additive", **size, "num_classes": num_classes}
