"""What a network is made of, as plain values (SPEC §1).

Any field may hold a `OneOf`. Nothing here computes; `tunas.nn.layers` says how each layer runs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from tunas.space.choice import FILTERS, OneOf

IMAGE_CHANNELS = 3
ACTIVATIONS = ("relu", "relu6", "swish6", "sigmoid")


def scaled_width(width: float, multiplier: float, base: int = 8) -> int:
    """`width * multiplier` rounded to a positive multiple of `base` (SPEC §1)."""
    return max(base, int(width * multiplier / base + 0.5) * base)


def divisible_width(width: float) -> int:
    """`width` rounded to a multiple of 8 without losing more than a tenth; for squeeze-and-excite only (SPEC §1)."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


@dataclass(frozen=True)
class Times:
    """An expansion given as a multiple of the layer's input width."""

    multiplier: float


@dataclass(frozen=True)
class Conv:
    """Dense convolution, then batch norm, or a bias where `batch_norm` is False; no activation of its own."""

    kernel: int | OneOf = field(metadata={"path": "kernel_size"})
    stride: int = 1
    batch_norm: bool = True


@dataclass(frozen=True)
class Activation:
    """relu, relu6, swish6 (hard-swish) or sigmoid."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.kind!r}; known are {', '.join(ACTIVATIONS)}")


RELU = Activation("relu")
RELU6 = Activation("relu6")
SWISH6 = Activation("swish6")
SIGMOID = Activation("sigmoid")


@dataclass(frozen=True)
class SeparableConv:
    """Depthwise convolution, batch norm, activation, then 1×1 convolution and batch norm."""

    kernel: int | OneOf = field(metadata={"path": "kernel_size"})
    stride: int = 1
    activation: Activation = RELU


@dataclass(frozen=True)
class InvertedBottleneck:
    """1×1 expansion, depthwise convolution, squeeze-and-excite where chosen, 1×1 projection.

    `expansion` is `Times(multiple of the input width)` or an absolute width.
    """

    kernel: int | OneOf = field(metadata={"path": "kernel_size"})
    expansion: Times | int | OneOf = field(metadata={"path": "expansion_filters"})
    se: bool | OneOf = field(default=False, metadata={"path": "use_squeeze_and_excite"})
    stride: int = 1
    activation: Activation = RELU

    def with_stride(self, stride: int) -> InvertedBottleneck:
        return dataclasses.replace(self, stride=stride)


@dataclass(frozen=True)
class Residual:
    """layer(x) + x."""

    layer: Any


@dataclass(frozen=True)
class Zero:
    """All zeros: `Residual(Zero())` is the identity, a skipped layer."""


@dataclass(frozen=True)
class GlobalAveragePool:
    """Mean over height and width, which stay as 1×1."""


@dataclass(frozen=True)
class DetectionEndpoint:
    """Marks the feature map at this place as one to hand out; computes nothing."""


@dataclass(frozen=True)
class Block:
    """Layers that share one output width, `filters`."""

    layers: tuple[Any, ...]
    filters: int | OneOf

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))


@dataclass(frozen=True)
class Tower:
    """A whole network up to its classifier. All widths are multiples of `filters_base`."""

    blocks: tuple[Block, ...]
    filters_base: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))


LAYER_TYPES: tuple[type, ...] = (
    Conv,
    Activation,
    SeparableConv,
    InvertedBottleneck,
    Residual,
    Zero,
    GlobalAveragePool,
    DetectionEndpoint,
)
KEEPS_WIDTH = (Activation, GlobalAveragePool, DetectionEndpoint)
"""Layers whose output is as wide as their input; the output of all others is as wide as their block."""
SKIPPED = Residual(Zero())


def expansion_width(expansion: Times | int, input_width: int, base: int = 8) -> int:
    """Width inside a bottleneck: a multiple of the sampled input width, or the absolute width itself."""
    return scaled_width(input_width, expansion.multiplier, base) if isinstance(expansion, Times) else expansion


def widest_index(oneof: OneOf, input_width: int, base: int = 8) -> int:
    """Index of the widest choice of a `FILTERS` OneOf, for a layer whose input is at most `input_width` wide."""
    widths = [expansion_width(choice, input_width, base) for choice in oneof.choices]
    return widths.index(max(widths))


def widest(filters: int | OneOf) -> int:
    return max(filters.choices) if isinstance(filters, OneOf) else filters


def keeps_width(layer: Any) -> bool:
    """Whether `layer` hands on its input's width (a OneOf does when its choices do)."""
    if isinstance(layer, OneOf):
        return all(keeps_width(choice) for choice in layer.choices)
    if isinstance(layer, Residual):
        return keeps_width(layer.layer)
    return isinstance(layer, KEEPS_WIDTH)


def scale_filters(tower: Tower, multiplier: float) -> Tower:
    """`tower` with every absolute width (filters, absolute expansions) scaled and rounded (SPEC §4)."""

    def scale(value: Any) -> Any:
        if isinstance(value, OneOf):
            return dataclasses.replace(value, choices=tuple(scale(choice) for choice in value.choices))
        return scaled_width(value, multiplier, tower.filters_base) if isinstance(value, int) else value

    def visit(layer: Any) -> Any:
        if isinstance(layer, OneOf):
            return dataclasses.replace(layer, choices=tuple(visit(choice) for choice in layer.choices))
        if isinstance(layer, Residual):
            return Residual(visit(layer.layer))
        if isinstance(layer, InvertedBottleneck):
            return dataclasses.replace(layer, expansion=scale(layer.expansion))
        return layer

    blocks = [Block(tuple(visit(layer) for layer in block.layers), scale(block.filters)) for block in tower.blocks]
    return dataclasses.replace(tower, blocks=tuple(blocks))


def filters_choice(base_width: int, multipliers: tuple[float, ...], base: int = 8) -> OneOf:
    """OneOf over the distinct sorted scalings of `base_width`."""
    return OneOf(tuple(sorted({scaled_width(base_width, m, base) for m in multipliers})), FILTERS)
