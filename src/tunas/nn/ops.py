"""Sliceable primitives: the only place that knows about widths.

Every primitive owns the weight of its widest form. Called with a narrower input, or asked for a narrower output, it
computes with the leading slice of that weight, so a call costs what the narrow operation costs. Called at full width
it is the ordinary torch module that it inherits from, and a stand-alone network is built from the same classes.

Gradients. By default a slice is an ordinary autograd slice. After `share_gradients` (see `SuperNet.flatten`) every
parameter has a permanent `.grad`, and a slice becomes a leaf tensor whose own `.grad` is the same slice of it, so that
backward adds into place: no full-size gradient is allocated, zero-filled or added up for each slice.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRUNCATED_NORMAL_STD = 0.87962566103423978
"""Standard deviation of a unit normal truncated at ±2, which truncated he-normal initialisation divides by."""


class UsedKernels:
    """The convolution kernels of a forward pass, or slices of them, which L2 counts.

    Attributes:
        kernels: in the order of use.
        shares: of the mixture that each took part with: 1, or under op warmup the product of the 1/n of every enabled
            OneOf around it (SPEC §2).
    """

    def __init__(self) -> None:
        self.kernels: list[Tensor] = []
        self.shares: list[float] = []
        self._share = 1.0

    def add(self, kernel: Tensor) -> None:
        self.kernels.append(kernel)
        self.shares.append(self._share)

    @contextlib.contextmanager
    def mixed(self, choices: int) -> Iterator[None]:
        """Within the context, kernels belong to one of `choices` that all run."""
        outer, self._share = self._share, self._share / choices
        try:
            yield
        finally:
            self._share = outer


class _Recording(threading.local):
    """What the forward pass of this thread notes its kernels in."""

    used: UsedKernels | None = None


_recording = _Recording()


def shape_of(x: Tensor) -> torch.Size | tuple[int, ...]:
    """`x.shape` in plain integers, also while torch traces: widths are the architecture's, not the input's."""
    if not torch.jit.is_tracing():
        return x.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(map(int, x.shape))


@contextlib.contextmanager
def recording_kernels() -> Iterator[UsedKernels]:
    """Within the context, every convolution of this thread notes the (slice of the) kernel that it used."""
    outer, used = _recording.used, UsedKernels()
    _recording.used = used
    try:
        yield used
    finally:
        _recording.used = outer


def mixture(choices: int) -> contextlib.AbstractContextManager[None]:
    """The context in which all of `choices` run and their mean is taken."""
    return contextlib.nullcontext() if _recording.used is None else _recording.used.mixed(choices)


class _Sliceable(nn.Module):
    """Mixin that hands out leading slices of parameters."""

    _leaves: dict[tuple[str, tuple[int, ...]], Tensor] | None = None

    def share_gradients(self, on: bool = True) -> None:
        """Whether slices accumulate in place into the parameters' existing `.grad`."""
        self._leaves = {} if on else None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has parameters of its own, which the leaves would not be slices of."""
        return {name: value for name, value in self.__dict__.items() if name != "_leaves"}

    def _leading(self, name: str, *sizes: int) -> Tensor:
        parameter: Tensor = getattr(self, name)
        if shape_of(parameter)[: len(sizes)] == sizes:
            return parameter
        if self._leaves is None:
            return parameter[tuple(slice(size) for size in sizes)]
        leaf = self._leaves.get((name, sizes))
        if leaf is None:
            region = tuple(slice(size) for size in sizes)
            leaf = parameter.detach()[region].requires_grad_(parameter.requires_grad)
            if parameter.grad is not None:
                leaf.grad = parameter.grad[region]
            self._leaves[name, sizes] = leaf
        return leaf


def _kernel_used(kernel: Tensor) -> None:
    if _recording.used is not None:
        _recording.used.add(kernel)


def _same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero-pads as TensorFlow's 'SAME' does: as little as needed, the odd pixel at the bottom and right."""
    pads: list[int] = []
    for size in shape_of(x)[:1:-1]:
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class Conv2d(_Sliceable, nn.Conv2d):
    """Dense convolution from the first `x.shape[1]` input channels to the first `width` output channels."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False, same: bool = False
    ):
        super().__init__(inputs, outputs, kernel, stride, 0 if same else kernel // 2, bias=bias)
        self.same = same

    def reset_parameters(self) -> None:
        """Truncated he-normal over fan-in; biases zero (SPEC §1)."""
        fan_in = self.in_channels * self.kernel_size[0] * self.kernel_size[1]
        _truncated_normal_(self.weight, math.sqrt(2.0 / fan_in))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        width = width or self.out_channels
        weight = self._leading("weight", width, shape_of(x)[1])
        bias = None if self.bias is None else self._leading("bias", width)
        _kernel_used(weight)
        if self.kernel_size == (1, 1) == shape_of(x)[2:] and not torch.jit.is_tracing():
            return F.linear(x.flatten(1), weight.flatten(1), bias)[
                :, :, None, None
            ]  # 2 to 3 times faster on CPU; needs no copy of a slice
        if self.same:
            x = _same_padded(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class DepthwiseConv2d(_Sliceable, nn.Conv2d):
    """One k×k filter per channel, for the first `x.shape[1]` channels."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, *, same: bool = False):
        super().__init__(channels, channels, kernel, stride, 0 if same else kernel // 2, groups=channels, bias=False)
        self.same = same

    def reset_parameters(self) -> None:
        """He-normal over k·k (SPEC §1)."""
        _truncated_normal_(self.weight, math.sqrt(2.0 / (self.kernel_size[0] * self.kernel_size[1])))

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        channels = shape_of(x)[1]
        weight = self._leading("weight", channels)
        _kernel_used(weight)
        if self.same:
            x = _same_padded(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, None, self.stride, self.padding, 1, channels)


class BatchNorm2d(_Sliceable, nn.BatchNorm2d):
    """Batch norm over the first `x.shape[1]` channels.

    With `stateless` it has no running statistics: those of the batch at hand serve in training and in evaluation.
    """

    def __init__(self, channels: int, epsilon: float, momentum: float, *, stateless: bool):
        super().__init__(channels, epsilon, momentum, track_running_stats=not stateless)

    def forward(self, x: Tensor) -> Tensor:
        if self.track_running_stats:
            return super().forward(x)
        channels = shape_of(x)[1]
        weight, bias = self._leading("weight", channels), self._leading("bias", channels)
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)


def _truncated_normal_(weight: Tensor, std: float) -> None:
    if not weight.is_meta:
        std /= TRUNCATED_NORMAL_STD
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def activation(kind: str, x: Tensor, *, inplace: bool = False) -> Tensor:
    """relu, relu6, swish6 or sigmoid of `x`; `inplace` only where `x` is nobody else's."""
    if kind == "relu":
        return F.relu(x, inplace)
    if kind == "relu6":
        return F.relu6(x, inplace)
    if kind == "swish6":
        return F.hardswish(x)
    return torch.sigmoid(x)
