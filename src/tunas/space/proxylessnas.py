"""The ProxylessNAS spaces and the reference architectures of the same tower (docs/algorithm.md#search-spaces; Bender et
al. 2020, Cai et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunas.space.choice import FILTERS, OP, OneOf
from tunas.space.layers import (
    RELU,
    Block,
    Conv,
    DetectionEndpoint,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
    filters_choice,
)

SEARCH_WIDTHS = (32, 16, 32, 40, 80, 96, 192, 320, 1280)
ENLARGED_BASE_WIDTHS = (16, 16, 16, 32, 64, 128, 256, 512, 1024)
WIDTH_MULTIPLIERS = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0)
STAGE_STRIDES = (2, 2, 2, 1, 2)
"""Strides of the first bottleneck of blocks 3 to 7."""

MOBILENET_V2_WIDTHS = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
MOBILENET_V2_OPS = "0 3 3 6 6 3 3 3 6 3 3 3 3 3 3 3 6 3 3 3 6 3"
MNASNET_B1_WIDTHS = (32, 16, 24, 40, 80, 96, 192, 320, 1280)
MNASNET_B1_OPS = "0 0 0 0 6 1 1 1 6 4 4 4 6 3 3 6 6 4 4 4 4 3"
PROXYLESSNAS_MOBILE_OPS = "0 1 0 6 6 2 0 1 1 5 1 1 1 4 1 1 1 5 5 2 2 5"


def _tower(sepconv: Any, bottlenecks: Sequence[Any], widths: Sequence[int | OneOf]) -> Tower:
    """The tower of ProxylessNAS around its first separable convolution and its 21 bottleneck layers, in order."""
    rest = iter(bottlenecks)
    layers: list[tuple[Any, ...]] = [(Conv(3, stride=2), RELU), (sepconv, DetectionEndpoint())]
    for stage in range(len(STAGE_STRIDES)):
        stage_layers = (next(rest), *(Residual(next(rest)) for _ in range(3)))
        is_endpoint = stage != 2  # the fourth stage runs at the same resolution and hands out the map instead
        layers.append((*stage_layers, DetectionEndpoint()) if is_endpoint else stage_layers)
    layers.append((next(rest), DetectionEndpoint()))
    layers.append((Conv(1), RELU, GlobalAveragePool()))
    return Tower(tuple(Block(block, width) for block, width in zip(layers, widths, strict=True)))


def _search_tower(widths: Sequence[int | OneOf]) -> Tower:
    """The tower of a ProxylessNAS space with the given widths."""

    def bottleneck(stride: int, *, skippable: bool) -> OneOf:
        conv = InvertedBottleneck(
            kernel=OneOf((3, 5, 7), OP),
            expansion=OneOf((Times(3.0), Times(6.0)), FILTERS),
            stride=stride,
            activation=RELU,
        )
        return OneOf((conv, Zero()) if skippable else (conv,), OP)

    bottlenecks = []
    for stride in STAGE_STRIDES:
        bottlenecks += [bottleneck(stride, skippable=False), *(bottleneck(1, skippable=True) for _ in range(3))]
    bottlenecks.append(bottleneck(1, skippable=False))
    sepconv = OneOf(tuple(SeparableConv(kernel, activation=RELU) for kernel in (3, 5, 7)), OP)
    return _tower(sepconv, bottlenecks, widths)


def proxylessnas_search() -> Tower:
    """73 OneOfs, 2.16e21 index strings; "ProxylessNAS" in the paper."""
    return _search_tower([OneOf((width,), FILTERS) for width in SEARCH_WIDTHS])


def proxylessnas_enlarged_search() -> Tower:
    """73 OneOfs, 1.39e28 index strings; "ProxylessNAS-Enlarged" in the paper."""
    return _search_tower([filters_choice(width, WIDTH_MULTIPLIERS) for width in ENLARGED_BASE_WIDTHS])


def _reference(operations: str, widths: Sequence[int]) -> Tower:
    """A fixed tower from operation numbers: 0–2 are ×3 with kernels 3, 5, 7; 3–5 the same with ×6; 6 is Zero."""
    sepconv, *numbers = (int(number) for number in operations.split())
    strides = [stride for first in STAGE_STRIDES for stride in (first, 1, 1, 1)] + [1]

    def layer(number: int, stride: int) -> Any:
        if number == 6:
            return Zero()
        return InvertedBottleneck(
            kernel=(3, 5, 7)[number % 3], expansion=Times((3.0, 6.0)[number // 3]), stride=stride, activation=RELU
        )

    bottlenecks = [layer(number, stride) for number, stride in zip(numbers, strides, strict=True)]
    return _tower(SeparableConv((3, 5, 7)[sepconv], activation=RELU), bottlenecks, widths)


def mobilenet_v2() -> Tower:
    """MobileNetV2 (Sandler et al. 2018)."""
    return _reference(MOBILENET_V2_OPS, MOBILENET_V2_WIDTHS)


def mnasnet_b1() -> Tower:
    """MnasNet-B1 (Tan et al. 2019)."""
    return _reference(MNASNET_B1_OPS, MNASNET_B1_WIDTHS)


def proxylessnas_mobile() -> Tower:
    """ProxylessNAS-Mobile (Cai et al. 2019)."""
    return _reference(PROXYLESSNAS_MOBILE_OPS, SEARCH_WIDTHS)
