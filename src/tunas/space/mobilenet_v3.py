"""The MobileNetV3-like space and the reference architectures of its family (docs/algorithm.md#search-spaces; Bender et
al. 2020, Howard et al. 2019)."""

from __future__ import annotations

from typing import Any

from tunas.space.choice import FILTERS, OP, OneOf
from tunas.space.layers import (
    RELU,
    SWISH6,
    Activation,
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
from tunas.space.proxylessnas import WIDTH_MULTIPLIERS

SEARCH_BASE_WIDTHS = (16, 16, 32, 64, 128, 256, 512, 1024)
ENDPOINT = DetectionEndpoint()
POOL = GlobalAveragePool()


def mobilenet_v3_like_search() -> Tower:
    """86 OneOfs, 8.48e42 index strings; "MobileNetV3-Like" in the paper."""

    def stage(stride: int, activation: Activation, *, endpoint: bool) -> tuple[Any, ...]:
        first = InvertedBottleneck(
            kernel=OneOf((3, 5, 7), OP),
            expansion=OneOf(tuple(Times(float(multiple)) for multiple in range(1, 7)), FILTERS),
            se=OneOf((False, True), OP),
            stride=stride,
            activation=activation,
        )
        skippable = Residual(OneOf((first.with_stride(1), Zero()), OP))
        return (first, skippable, skippable, skippable, *((ENDPOINT,) if endpoint else ()))

    stem = Residual(OneOf((SeparableConv(OneOf((3, 5, 7), OP), activation=RELU), Zero()), OP))
    layers: list[tuple[Any, ...]] = [
        (Conv(OneOf((3, 5), OP), stride=2), SWISH6, stem, ENDPOINT),
        stage(2, RELU, endpoint=True),
        stage(2, RELU, endpoint=True),
        stage(2, SWISH6, endpoint=False),
        stage(1, SWISH6, endpoint=True),
        stage(2, SWISH6, endpoint=True),
        (Conv(1), SWISH6, POOL),
        (Conv(1, batch_norm=False), SWISH6),
    ]
    widths = [filters_choice(width, WIDTH_MULTIPLIERS) for width in SEARCH_BASE_WIDTHS]
    return Tower(tuple(Block(block, width) for block, width in zip(layers, widths, strict=True)))


def mobilenet_v3_large() -> Tower:
    """MobileNetV3-Large (Howard et al. 2019)."""

    def bneck(
        kernel: int, expansion: int, activation: Activation, se: bool = False, stride: int = 1
    ) -> InvertedBottleneck:
        return InvertedBottleneck(kernel, expansion, se, stride, activation)

    def again(kernel: int, expansion: int, activation: Activation, se: bool = False) -> Residual:
        return Residual(bneck(kernel, expansion, activation, se))

    return Tower(
        (
            Block((Conv(3, stride=2), SWISH6, Residual(SeparableConv(3, activation=RELU)), ENDPOINT), 16),
            Block((bneck(3, 64, RELU, stride=2), again(3, 72, RELU), ENDPOINT), 24),
            Block((bneck(5, 72, RELU, se=True, stride=2), *[again(5, 120, RELU, se=True)] * 2, ENDPOINT), 40),
            Block((bneck(3, 240, SWISH6, stride=2), again(3, 200, SWISH6), *[again(3, 184, SWISH6)] * 2), 80),
            Block((bneck(3, 480, SWISH6, se=True), again(3, 672, SWISH6, se=True), ENDPOINT), 112),
            Block((bneck(5, 672, SWISH6, se=True, stride=2), *[again(5, 960, SWISH6, se=True)] * 2, ENDPOINT), 160),
            Block((Conv(1), SWISH6, POOL), 960),
            Block((Conv(1, batch_norm=False), SWISH6), 1280),
        )
    )


def _multi(stages: list[tuple[int, int, list[tuple[int, int]]]]) -> Tower:
    """A multi-hardware model from (width, stride, [(kernel, absolute expansion), …]) per stage."""
    blocks = [Block((Conv(3, stride=2), RELU, ENDPOINT), 32)]
    for number, (width, stride, bottlenecks) in enumerate(stages):
        (kernel, expansion), *rest = bottlenecks
        layers: list[Any] = [InvertedBottleneck(kernel, expansion, stride=stride)]
        layers += [Residual(InvertedBottleneck(kernel, expansion)) for kernel, expansion in rest]
        ends_resolution = number + 1 == len(stages) or stages[number + 1][1] == 2
        blocks.append(Block((*layers, ENDPOINT) if ends_resolution else tuple(layers), width))
    blocks.append(Block((Conv(1), RELU, POOL), 960))
    blocks.append(Block((Conv(1, batch_norm=False), RELU), 1280))
    return Tower(tuple(blocks), filters_base=32)


def mobilenet_multi_avg() -> Tower:
    """MobileNet-Multi-AVG (Chu et al. 2020): one model for many kinds of hardware."""
    return _multi(
        [
            (32, 2, [(3, 96), (3, 64)]),
            (64, 2, [(5, 160), (3, 192), (3, 128), (3, 192)]),
            (128, 2, [(5, 384), (3, 384), (3, 384), (3, 384)]),
            (160, 1, [(3, 768), (3, 640)]),
            (192, 2, [(3, 960), (5, 768), (5, 768), (5, 768)]),
        ]
    )


def mobilenet_multi_max() -> Tower:
    """MobileNet-Multi-MAX (Chu et al. 2020): one model for many kinds of hardware."""
    return _multi(
        [
            (32, 2, [(3, 96)]),
            (64, 2, [(5, 192), (3, 128), (3, 128)]),
            (128, 2, [(5, 384), (3, 512), (3, 384), (3, 384)]),
            (128, 1, [(3, 768), (3, 384)]),
            (160, 2, [(3, 768), (5, 640), (3, 800), (5, 640)]),
        ]
    )
