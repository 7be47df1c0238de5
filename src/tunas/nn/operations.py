"""What layers compute, as numbers: the vocabulary in which each layer says what its costs are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IN_PASSING = ("activation", "add", "zeros")


@dataclass(frozen=True)
class Operation:
    """One step of a fixed network on a batch of one square image.

    Args:
        kind: of a convolution whatever it is called (`conv`, `depthwise`, `expand`, `se_reduce`, …). Without parameters
            are `pool`, and what a runtime does in passing: `activation`, `add` (a layer's input to its output, the last
            of the layer's operations) and `zeros`.
        inputs, outputs: channels.
        kernel, groups: of the convolution.
        input_size, output_size: pixels along one side.
        bias, norm: whether a bias or a batch norm (scale and shift) belongs to it.
        activation: name of the activation that follows, if any.
    """

    kind: str
    inputs: int
    outputs: int
    kernel: int
    groups: int
    input_size: int
    output_size: int
    bias: bool = False
    norm: bool = False
    activation: str = ""

    @classmethod
    def conv(
        cls,
        kind: str,
        inputs: int,
        outputs: int,
        kernel: Any,
        stride: int,
        size: int,
        *,
        groups: int = 1,
        bias: bool = False,
        norm: bool = False,
        activation: str = "",
    ) -> Operation:
        """A convolution that pads by half its kernel size."""
        return cls(kind, inputs, outputs, kernel, groups, size, -(-size // stride), bias, norm, activation)

    @classmethod
    def pool(cls, channels: int, size: int) -> Operation:
        """The mean over all pixels."""
        return cls("pool", channels, channels, 0, channels, size, 1)

    @classmethod
    def in_passing(cls, kind: str, channels: int, size: int, activation: str = "") -> Operation:
        """`activation`, `add` or `zeros`, on `channels` of `size` pixels a side."""
        return cls(kind, channels, channels, 0, channels, size, size, activation=activation)

    @property
    def is_in_passing(self) -> bool:
        """Whether a runtime does it beside another operation."""
        return self.kind in IN_PASSING

    @property
    def parameters(self) -> int:
        """Trainable numbers: kernel, bias, and scale and shift of the batch norm."""
        return self.kernel**2 * self.inputs // self.groups * self.outputs + self.outputs * (self.bias + 2 * self.norm)

    @property
    def weights(self) -> int:
        """Numbers of the kernel alone."""
        return self.parameters - self.outputs * (self.bias + 2 * self.norm)

    @property
    def shipped_biases(self) -> int:
        """Biases once the batch norm is folded into the convolution: one per output channel, or none."""
        return self.outputs if self.bias or self.norm else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution."""
        return self.kernel**2 * self.inputs // self.groups * self.outputs * self.output_size**2
