"""Sliceable primitives: the only place that knows about widths.

Every primitive owns the weight of its widest form. Called with a narrower input, or asked for a narrower output, it
computes with the leading slice of that weight, so a call costs what the narrow operation costs. Called at full width
it is the ordinary torch module that it inherits from, and a stand-alone network is built from the same classes.

Gradients. By default a slice is an ordinary autograd slice. After `share_gradients` (see `SuperNet.flatten`) every
parameter has a permanent `.grad`, and a slice becomes a leaf tensor whose own `.grad` is the same slice of it, so that
backward adds into place: no full-size gradient is allocated, zero-filled or added up for each slice. Where a kernel's
gradient is a product of matrices it is never a tensor of its own (see `product.py`), and `torch.autograd.grad` does not
give it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.cuda_depthwise import depthwise_at_once
from tunas.nn.depthwise import depthwise_conv, reach
from tunas.nn.product import adds_in_place, pointwise
from tunas.nn.used_kernels import kernel_used

BN_EPSILON = 1e-3
"""docs/algorithm.md#search-spaces."""
BN_MOMENTUM = 0.01
"""Keras' 0.99 in torch's sense (docs/algorithm.md#search-spaces)."""
EMBEDDING_STD = 0.02
ROWS_OF_A_PRODUCT = 2**14
"""Places of all images together."""
TRUNCATED_NORMAL_STD = 0.87962566103423978
"""Standard deviation of a unit normal truncated at ±2, which truncated he-normal initialisation divides by."""


def shape_of(x: Tensor) -> torch.Size | tuple[int, ...]:
    """`x.shape` in plain integers, also while torch traces: widths are the architecture's, not the input's."""
    if not torch.jit.is_tracing():
        return x.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(map(int, x.shape))


class Sliceable(nn.Module):
    """A module that computes with leading slices of its parameters, which `_leading` hands out."""

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
        return self._leaf(name, sizes, tuple(slice(size) for size in sizes)) if leaf is None else leaf

    def _leaf(self, name: str, key: tuple[int, ...], region: tuple[slice, ...]) -> Tensor:
        """Keeps a part of a parameter as a leaf whose gradient is the same part of the parameter's."""
        parameter: Tensor = getattr(self, name)
        leaf = parameter.detach()[region].requires_grad_(parameter.requires_grad)
        if parameter.grad is not None:
            leaf.grad = parameter.grad[region]
        assert self._leaves is not None
        return self._leaves.setdefault((name, key), leaf)  # another thread may have been faster


def _same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero-pads as TensorFlow's 'SAME' does: as little as needed, the odd pixel at the bottom and right."""
    pads: list[int] = []
    for size in shape_of(x)[:1:-1]:
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


def _is_faster_as_product(x: Tensor) -> bool:
    """Whether a 1×1 convolution of `x` is best a product of matrices: 1.2 to 3 times as fast on a processor while the
    maps are small, because it needs neither a copy of a slice in another layout nor code made for its shape."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():  # an exported batch may have any size
        return False
    images, _, height, width = x.shape
    return images * height * width <= ROWS_OF_A_PRODUCT and x.is_contiguous(memory_format=torch.channels_last)


class Conv2d(Sliceable, nn.Conv2d):
    """Dense convolution from the first `x.shape[1]` input channels to the first `width` output channels."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False, same: bool = False
    ):
        super().__init__(inputs, outputs, kernel, stride, 0 if same else kernel // 2, bias=bias)
        self.same = same

    def reset_parameters(self) -> None:
        """Truncated he-normal over fan-in; biases zero (docs/algorithm.md#search-spaces)."""
        fan_in = self.in_channels * self.kernel_size[0] * self.kernel_size[1]
        _truncated_normal_(self.weight, math.sqrt(2.0 / fan_in))
        _zeros_(self.bias)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        width = width or self.out_channels
        weight = self._leading("weight", width, shape_of(x)[1])
        bias = None if self.bias is None else self._leading("bias", width)
        kernel_used(weight)
        if self.kernel_size == (1, 1) and not torch.jit.is_tracing():
            is_one_place = shape_of(x)[2:] == (1, 1)
            if is_one_place or (self.stride == (1, 1) and _is_faster_as_product(x)):
                if self._leaves is not None and adds_in_place(x, weight):
                    return pointwise(x, weight, bias)
                if is_one_place:
                    return F.linear(x.flatten(1), weight.flatten(1), bias)[:, :, None, None]
                return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        if self.same:
            x = _same_padded(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class DepthwiseConv2d(Sliceable, nn.Conv2d):
    """One k×k filter per channel, for the first `x.shape[1]` channels.

    Attributes:
        at_once: on CUDA, with a kernel that need not be compiled first (nn/cuda_depthwise.py).
    """

    at_once = False

    def __init__(self, channels: int, kernel: int, stride: int = 1, *, same: bool = False):
        super().__init__(channels, channels, kernel, stride, 0 if same else kernel // 2, groups=channels, bias=False)
        self.same = same

    def reset_parameters(self) -> None:
        """He-normal over k·k (docs/algorithm.md#search-spaces)."""
        _truncated_normal_(self.weight, math.sqrt(2.0 / (self.kernel_size[0] * self.kernel_size[1])))

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        channels = shape_of(x)[1]
        weight = self._leading("weight", channels)
        kernel_used(weight)
        if self.at_once:
            return depthwise_at_once(self._padded(x), weight, self.stride, self.padding)
        if x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return F.conv2d(self._padded(x), weight, None, self.stride, self.padding, 1, channels)
        size = max(x.shape[2:])
        if self.same or size > self.kernel_size[0] // 2:
            return depthwise_conv(self._padded(x), weight, self.stride[0], int(self.padding[0]))
        reached = reach(self.kernel_size[0], size)
        middle = self._middle(weight, reached)
        if reached == 0:
            return x * middle.reshape(1, -1, 1, 1).to(x.dtype)
        return depthwise_conv(x, middle, self.stride[0], reached)

    def _padded(self, x: Tensor) -> Tensor:
        return _same_padded(x, self.kernel_size[0], self.stride[0]) if self.same else x

    def _middle(self, weight: Tensor, reached: int) -> Tensor:
        """The taps of a (slice of the) kernel that a map meets which is smaller than the kernel reaches."""
        channels, start = weight.shape[0], self.kernel_size[0] // 2 - reached
        inside = slice(start, start + 2 * reached + 1)
        region = (slice(channels), slice(1), inside, inside)
        if self._leaves is None:
            return weight[region]
        key = (channels, start)
        leaf = self._leaves.get(("weight", key))
        return self._leaf("weight", key, region) if leaf is None else leaf


class _BatchNorm(Sliceable):
    """Batch norm over the first `x.shape[1]` channels.

    With `stateless` it has no running statistics: those of the batch at hand serve in training and in evaluation.
    """

    eps: float

    def __init__(
        self, channels: int, epsilon: float = BN_EPSILON, momentum: float = BN_MOMENTUM, *, stateless: bool = False
    ):
        super().__init__(channels, epsilon, momentum, track_running_stats=not stateless)

    def forward(self, x: Tensor) -> Tensor:
        if self.track_running_stats:
            return super().forward(x)
        channels = shape_of(x)[1]
        weight, bias = self._leading("weight", channels), self._leading("bias", channels)
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch norm of `[N, C, H, W]`; see `_BatchNorm`."""


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch norm of `[N, C]` or `[N, C, L]`; see `_BatchNorm`."""


class Conv1d(Sliceable, nn.Conv1d):
    """Dense convolution `[N, C, L]` from the first `x.shape[1]` input channels to the first `width` output channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, bias: bool = False):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=bias)

    def reset_parameters(self) -> None:
        """Truncated he-normal over fan-in; biases zero, as for `Conv2d`."""
        _truncated_normal_(self.weight, math.sqrt(2.0 / (self.in_channels * self.kernel_size[0])))
        _zeros_(self.bias)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        width = _at_most(width, self.out_channels, "outputs")
        weight = self._leading("weight", width, _at_most(shape_of(x)[1], self.in_channels, "inputs"))
        bias = None if self.bias is None else self._leading("bias", width)
        kernel_used(weight)
        return F.conv1d(x, weight, bias, self.stride, self.padding)


class Linear(Sliceable, nn.Linear):
    """From the first `x.shape[-1]` inputs to the first `width` outputs, `[…, inputs]` to `[…, width]`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True):
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Truncated normal of variance 1 / inputs; biases zero."""
        _truncated_normal_(self.weight, math.sqrt(1.0 / self.in_features))
        _zeros_(self.bias)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        width = _at_most(width, self.out_features, "outputs")
        weight = self._leading("weight", width, _at_most(shape_of(x)[-1], self.in_features, "inputs"))
        bias = None if self.bias is None else self._leading("bias", width)
        kernel_used(weight)
        return F.linear(x, weight, bias)


class Embedding(Sliceable, nn.Embedding):
    """The first `width` numbers of each of the `ids`' vectors, `[…]` to `[…, width]`."""

    def __init__(self, count: int, width: int):
        super().__init__(count, width)

    def reset_parameters(self) -> None:
        """Truncated normal of standard deviation 0.02 (Devlin et al. 2019)."""
        _truncated_normal_(self.weight, EMBEDDING_STD)

    def forward(self, ids: Tensor, width: int | None = None) -> Tensor:
        width = _at_most(width, self.embedding_dim, "outputs")
        return F.embedding(ids, self._leading("weight", self.num_embeddings, width))


class LayerNorm(Sliceable, nn.LayerNorm):
    """Layer norm over the last dimension, of the first `x.shape[-1]` channels."""

    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__(channels, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        channels = _at_most(shape_of(x)[-1], self.normalized_shape[0], "inputs")
        weight, bias = self._leading("weight", channels), self._leading("bias", channels)
        return F.layer_norm(x, (channels,), weight, bias, self.eps)


class GroupNorm(Sliceable, nn.GroupNorm):
    """Group norm of the first `x.shape[1]` channels. Groups keep their size: a narrower input has fewer of them."""

    def __init__(self, groups: int, channels: int, epsilon: float = 1e-5):
        super().__init__(groups, channels, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        channels, size = _at_most(shape_of(x)[1], self.num_channels, "inputs"), self.num_channels // self.num_groups
        if channels % size:
            raise InputError(f"a group norm in groups of {size} channels cannot take {channels} of them")
        weight, bias = self._leading("weight", channels), self._leading("bias", channels)
        return F.group_norm(x, channels // size, weight, bias, self.eps)


class MultiheadAttention(Sliceable):
    """Self-attention `[N, L, C]` over the first `heads` heads, from the first `x.shape[-1]` channels to `width`.

    Heads keep their size, so that fewer of them are a leading slice: the rows of `in_weight` are head after head, each
    with its queries, keys and values.

    Args:
        channels: of the input, and of the output.
        heads, head_size: how many heads, and the numbers that each one compares.
        bias: of both projections.
    """

    def __init__(self, channels: int, heads: int, head_size: int, *, bias: bool = True):
        super().__init__()
        self.channels, self.heads, self.head_size = channels, heads, head_size
        rows = 3 * heads * head_size
        self.in_weight = nn.Parameter(torch.empty(rows, channels))
        self.out_weight = nn.Parameter(torch.empty(channels, heads * head_size))
        self.in_bias = nn.Parameter(torch.empty(rows)) if bias else None
        self.out_bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of variance 1 / inputs; biases zero, as for `Linear`."""
        for weight, bias in ((self.in_weight, self.in_bias), (self.out_weight, self.out_bias)):
            _truncated_normal_(weight, math.sqrt(1.0 / weight.shape[1]))
            _zeros_(bias)

    def forward(
        self,
        x: Tensor,
        heads: int | None = None,
        width: int | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """As `torch.nn.functional.scaled_dot_product_attention`, between a projection and another one.

        Args:
            heads, width: all of them where left out.
            mask: added to the scores, or where boolean, True takes part.
            causal: each place sees itself and what is before it.
        """
        heads = _at_most(heads, self.heads, "heads")
        width = _at_most(width, self.channels, "outputs")
        inside = heads * self.head_size
        weight = self._leading("in_weight", 3 * inside, _at_most(shape_of(x)[-1], self.channels, "inputs"))
        bias = None if self.in_bias is None else self._leading("in_bias", 3 * inside)
        split = F.linear(x, weight, bias).unflatten(-1, (heads, 3, self.head_size))
        queries, keys, values = (part.transpose(-2, -3) for part in split.unbind(-2))
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
        out_weight = self._leading("out_weight", width, inside)
        out_bias = None if self.out_bias is None else self._leading("out_bias", width)
        kernel_used(weight)
        kernel_used(out_weight)
        return F.linear(mixed.transpose(-2, -3).flatten(-2), out_weight, out_bias)


def _at_most(size: int | None, widest: int, what: str) -> int:
    """`size`, or the widest where none is given.

    Raises:
        InputError: where there is nothing so wide.
    """
    if size is None:
        return widest
    if not 0 < size <= widest:
        raise InputError(f"a layer built for at most {widest} {what} cannot take {size}")
    return size


def _zeros_(bias: Tensor | None) -> None:
    if bias is not None and not bias.is_meta:
        nn.init.zeros_(bias)


def _truncated_normal_(weight: Tensor, std: float) -> None:
    if not weight.is_meta:
        std /= TRUNCATED_NORMAL_STD
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def activation(kind: str, x: Tensor, *, inplace: bool = False) -> Tensor:
    """relu, relu6, swish6, swish or sigmoid of `x`; `inplace` only where `x` is nobody else's."""
    if kind == "relu":
        return F.relu(x, inplace)
    if kind == "relu6":
        return F.relu6(x, inplace)
    if kind == "swish6":
        return F.hardswish(x)
    if kind == "swish":
        return F.silu(x, inplace)
    return torch.sigmoid(x)
