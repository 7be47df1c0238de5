"""Small towers with skippable bottlenecks, for cost models."""

from collections.abc import Sequence

from tunas import OneOf
from tunas.space import (
    FILTERS,
    OP,
    RELU,
    Block,
    Conv,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    Times,
    Tower,
    Zero,
)


def small_tower(
    *stages: Sequence[int],
    kernels: Sequence[int] = (3, 5, 7),
    expansions: Sequence[float] = (2.0, 4.0),
    se: bool | OneOf = False,
    skippable: int = 2,
    stem: int = 8,
    head: int = 64,
) -> Tower:
    """A stem, a block for each of `stages` (the widths to choose from), and a head.

    A block is a strided bottleneck and `skippable` more that can be skipped; each chooses its kernel and its expansion.
    """
    bottleneck = InvertedBottleneck(OneOf(kernels, OP), OneOf([Times(m) for m in expansions], FILTERS), se, stride=2)
    layers = [bottleneck, *[Residual(OneOf((bottleneck.with_stride(1), Zero()), OP))] * skippable]
    blocks = [Block(layers, OneOf(widths, FILTERS)) for widths in stages]
    return Tower([Block([Conv(3, stride=2), RELU], stem), *blocks, Block([Conv(1), RELU, GlobalAveragePool()], head)])
