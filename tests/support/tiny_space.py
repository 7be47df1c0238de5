"""A space small enough that a step takes milliseconds, for runs in processes of their own:
`--ssd=tests/support/tiny_space.py:tiny`."""

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


def tiny() -> Tower:
    bottleneck = InvertedBottleneck(
        OneOf([3, 5], OP), OneOf([Times(1), Times(2)], FILTERS), OneOf([False, True], OP), 2, RELU
    )
    return Tower(
        [
            Block([Conv(3, 2), RELU], 8),
            Block([bottleneck, Residual(OneOf([bottleneck.with_stride(1), Zero()], OP))], OneOf([8, 16], FILTERS)),
            Block([Conv(1), RELU, GlobalAveragePool()], 16),
        ]
    )
