"""What a network is made of, as plain values (docs/algorithm.md#search-spaces).

Any field may hold a `OneOf`. Nothing here computes; `tunas.nn.layers` says how each layer runs. The metadata of a field
says what it may hold, and as what it stands in paths.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from tunas.errors import InputError
from tunas.space.choice import FILTERS, OP, OneOf
from tunas.space.registry import (
    FieldRule,
    inner_layer,
    is_layer,
    kind_of,
    register_layer,
    rule_of,
    with_inner_layer,
)

IMAGE_CHANNELS = 3
ACTIVATIONS = ("relu", "relu6", "swish6", "swish", "sigmoid")
GATES = ("sigmoid", "hard_sigmoid")
LARGEST = 1 << 20
"""Beyond any width, kernel size or multiple that could be meant."""


def scaled_width(width: float, multiplier: float, base: int = 8) -> int:
    """`width * multiplier` rounded to a positive multiple of `base` (docs/algorithm.md#search-spaces)."""
    return max(base, int(width * multiplier / base + 0.5) * base)


def divisible_width(width: float) -> int:
    """`width` rounded to a multiple of 8 without losing more than a tenth; for squeeze-and-excite only
    (docs/algorithm.md#search-spaces)."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


@dataclass(frozen=True)
class Times:
    """An expansion given as a multiple of the layer's input width."""

    multiplier: float

    def __str__(self) -> str:
        return f"×{self.multiplier:g}"


def is_count(value: Any) -> bool:
    """Whether `value` is a positive integer that could be meant."""
    return type(value) is int and 0 < value <= LARGEST


def is_width(value: Any) -> bool:
    """Whether `value` is a width, or a usable multiple of one."""
    if not isinstance(value, Times):
        return is_count(value)
    multiple = value.multiplier
    return type(multiple) in (int, float) and math.isfinite(multiple) and 0 < multiple <= LARGEST


KERNEL_SIZE = {"rule": FieldRule(lambda v: is_count(v) and v % 2 == 1, "a kernel size is an odd positive integer", OP)}
"""Metadata of a field that holds a kernel size."""
WIDTH = {"rule": FieldRule(is_width, "a width is Times(positive number) or a positive integer", FILTERS)}
"""Metadata of a field that holds a width inside a layer; `scale_filters` scales it."""
SWITCH = {"rule": FieldRule(lambda v: isinstance(v, bool), "this is True or False", OP)}
"""Metadata of a field that switches something on."""
FIXED_SWITCH = {"rule": FieldRule(lambda v: isinstance(v, bool), "this is True or False", None)}
"""Metadata of a field that switches something on and cannot be chosen."""
IN_TABLES = "in_tables"
"""False in the metadata of a field keeps it out of the table of an architecture."""
OMITTED = {"omitted": True}
"""Metadata of a field that `model_spec.json` leaves out where it has its default."""
SE_WIDTH = {
    "rule": FieldRule(
        lambda v: v is None or is_count(v), "the width of squeeze-and-excite is a positive integer or None", None
    ),
    IN_TABLES: False,
    **OMITTED,
}
"""Metadata of a field that holds the width inside squeeze-and-excite, or None for a share of what it scales."""


@dataclass(frozen=True)
class Conv:
    """Dense convolution, then batch norm, or a bias where `batch_norm` is False; no activation of its own."""

    kernel: int | OneOf = field(metadata={**KERNEL_SIZE, "path": "kernel_size"})
    stride: int = 1
    batch_norm: bool = field(default=True, metadata={**FIXED_SWITCH, IN_TABLES: False})


@dataclass(frozen=True)
class Activation:
    """relu, relu6, swish6 (hard-swish), swish (SiLU) or sigmoid."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.kind!r}; known are {', '.join(ACTIVATIONS)}")

    def __str__(self) -> str:
        return self.kind


RELU = Activation("relu")
RELU6 = Activation("relu6")
SWISH6 = Activation("swish6")
SWISH = Activation("swish")
SIGMOID = Activation("sigmoid")
ACTIVATION = {
    "rule": FieldRule(lambda v: isinstance(v, Activation), "an activation is an Activation such as RELU", None),
    IN_TABLES: False,
}
"""Metadata of a field that holds an activation."""


@dataclass(frozen=True)
class SeparableConv:
    """Depthwise convolution, batch norm, activation, squeeze-and-excite where told, 1×1 convolution, batch norm."""

    kernel: int | OneOf = field(metadata={**KERNEL_SIZE, "path": "kernel_size"})
    stride: int = 1
    activation: Activation = field(default=RELU, metadata=ACTIVATION)
    se: bool | OneOf = field(default=False, metadata={**SWITCH, **OMITTED, "path": "use_squeeze_and_excite"})
    se_width: int | None = field(default=None, metadata=SE_WIDTH)


@dataclass(frozen=True)
class InvertedBottleneck:
    """1×1 expansion, depthwise convolution, squeeze-and-excite where chosen, 1×1 projection.

    `expansion` is `Times(multiple of the input width)` or an absolute width. `se_width` is the width inside
    squeeze-and-excite, a quarter of what it scales where left out.
    """

    kernel: int | OneOf = field(metadata={**KERNEL_SIZE, "path": "kernel_size"})
    expansion: Times | int | OneOf = field(metadata={**WIDTH, "path": "expansion_filters"})
    se: bool | OneOf = field(default=False, metadata={**SWITCH, "path": "use_squeeze_and_excite"})
    stride: int = 1
    activation: Activation = field(default=RELU, metadata=ACTIVATION)
    se_width: int | None = field(default=None, metadata=SE_WIDTH)

    def with_stride(self, stride: int) -> InvertedBottleneck:
        """The same bottleneck with another stride."""
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
class Conventions:
    """How a network that was trained elsewhere computes what its layers leave open.

    Args:
        bn_epsilon: of every batch norm.
        gate: what squeeze-and-excite ends with, `sigmoid` or `hard_sigmoid`.
        se_activation: the one inside squeeze-and-excite.
        same_padding: pad as TensorFlow does.
    """

    bn_epsilon: float
    gate: str = "sigmoid"
    se_activation: str = "relu"
    same_padding: bool = False


@dataclass(frozen=True)
class Tower:
    """A whole network up to its classifier. All widths are multiples of `filters_base`.

    Where there are `conventions`, the network follows them; otherwise TuNAS's own, or what a run is told.
    """

    blocks: tuple[Block, ...]
    filters_base: int = 8
    conventions: Conventions | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))


MODULES = "tunas.nn.layers:"
register_layer(Conv)(MODULES + "ConvLayer")
register_layer(Activation, keeps_width=True)(MODULES + "ActivationLayer")
register_layer(SeparableConv)(MODULES + "SeparableConvLayer")
register_layer(InvertedBottleneck)(MODULES + "InvertedBottleneckLayer")
register_layer(Residual, inner="layer", adds_input=True)(MODULES + "ResidualLayer")
register_layer(Zero)(MODULES + "ZeroLayer")
register_layer(GlobalAveragePool, keeps_width=True, pools=True)(MODULES + "GlobalAveragePoolLayer")
register_layer(DetectionEndpoint, keeps_width=True, marks=True)(MODULES + "DetectionEndpointLayer")

SKIPPED = Residual(Zero())


def expansion_width(expansion: Times | int, input_width: int, base: int = 8) -> int:
    """Width inside a bottleneck: a multiple of the sampled input width, or the absolute width itself."""
    return scaled_width(input_width, expansion.multiplier, base) if isinstance(expansion, Times) else expansion


def widest_index(oneof: OneOf, input_width: int, base: int) -> int:
    """Index of the widest choice of a `FILTERS` OneOf, for a layer whose input is at most `input_width` wide."""
    widths = [expansion_width(choice, input_width, base) for choice in oneof.choices]
    return widths.index(max(widths))


def widest(filters: int | OneOf) -> int:
    """The largest width that the filters of a block can have."""
    return max(filters.choices) if isinstance(filters, OneOf) else filters


def keeps_width(layer: Any) -> bool:
    """Whether `layer` hands on its input's width (a OneOf does when its choices do)."""
    if isinstance(layer, OneOf):
        return all(keeps_width(choice) for choice in layer.choices)
    inner = inner_layer(layer)
    return keeps_width(inner) if inner is not None else is_layer(layer) and kind_of(layer).keeps_width


def scale_filters(tower: Any, multiplier: float) -> Any:
    """`tower` with every absolute width scaled and rounded: filters, absolute expansions, and other fields with `WIDTH`
    as their metadata (docs/algorithm.md#stand-alone-training). Another structure comes back as it is.

    Raises:
        InputError: where the multiplier is not 1 and the structure is no tower.
    """
    if not isinstance(tower, Tower):
        if multiplier != 1:
            raise InputError(f"filters_multiplier scales towers, and this is a {type(tower).__name__}; leave it at 1")
        return tower

    def scale(value: Any) -> Any:
        if isinstance(value, OneOf):
            return dataclasses.replace(value, choices=tuple(scale(choice) for choice in value.choices))
        return scaled_width(value, multiplier, tower.filters_base) if isinstance(value, int) else value

    def visit(layer: Any) -> Any:
        if isinstance(layer, OneOf):
            return dataclasses.replace(layer, choices=tuple(visit(choice) for choice in layer.choices))
        if (inner := inner_layer(layer)) is not None:
            layer = with_inner_layer(layer, visit(inner))
        widths = [field.name for field in dataclasses.fields(layer) if rule_of(field) is WIDTH["rule"]]
        return dataclasses.replace(layer, **{name: scale(getattr(layer, name)) for name in widths})

    blocks = [Block(tuple(visit(layer) for layer in block.layers), scale(block.filters)) for block in tower.blocks]
    return dataclasses.replace(tower, blocks=tuple(blocks))


def filters_choice(base_width: int, multipliers: tuple[float, ...]) -> OneOf:
    """OneOf over the distinct scalings of `base_width`, the narrowest first."""
    return OneOf(tuple(sorted({scaled_width(base_width, multiplier) for multiplier in multipliers})), FILTERS)
