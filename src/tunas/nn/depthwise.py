"""Depthwise convolutions on a processor, faster than the library's where it is slow: gradients of kernels, tiny maps.

oneDNN computes the gradient of a depthwise kernel of 5×5 or 7×7, and of any kernel on a tiny map, 3 to 40 times slower
than everything else of the layer. That gradient is a depthwise convolution itself, of the inputs with the outputs'
gradients as kernels, for which the library is fast.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS_TOGETHER = 2**18
"""Inputs of as many images as this are convolved at once, their images as channels beside each other."""
NUMBERS_OF_A_SMALL_IMAGE = 2**14
"""More are convolved image by image, as they lie in memory."""
SMALL_MAP = 2
"""The library is slow with 3×3 kernels up to this size."""


def reach(kernel: int, size: int) -> int:
    """How many of the taps on each side of a kernel's middle one meet anything on a map of `size`×`size` padded by
    half the kernel."""
    return min(kernel // 2, size - 1)


def is_slow_in_the_library(x: Tensor, weight: Tensor) -> bool:
    """Whether `depthwise_conv` has a faster gradient of the kernel than torch has."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.requires_grad
        and torch.is_grad_enabled()
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and (weight.shape[-1] > 3 or max(x.shape[2:]) <= SMALL_MAP)
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def depthwise_conv(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """`F.conv2d(x, weight, None, stride, padding, 1, channels)` of `[N, C, H, W]` and `[C, 1, k, k]`."""
    if is_slow_in_the_library(x, weight):
        return _DepthwiseConv.apply(x, weight, stride, padding)
    return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                *(gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], x.shape[1]),
                [True, False, False],
            )[0]
        if ctx.needs_input_grad[1]:
            of_weight = kernel_gradient(x, gradient, weight.shape[-1], stride, padding)
        return of_x, of_weight, None, None


def kernel_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient `[C, 1, kernel, kernel]` of a depthwise kernel.

    Args:
        x: the inputs `[N, C, H, W]`, channels_last.
        gradient: of the outputs `[N, C, H', W']`.
    """
    numbers = math.prod(x.shape[1:])
    together = max(1, NUMBERS_TOGETHER // numbers) if numbers <= NUMBERS_OF_A_SMALL_IMAGE else 1
    total: Tensor | None = None
    for some, of_some in zip(x.split(together), gradient.split(together), strict=True):
        part = _of_images(some, of_some, kernel, stride, padding)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.permute(2, 0, 1).unsqueeze(1)


def _of_images(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient `[kernel, kernel, C]` of a few images, each of whose channels is a channel of one image."""
    images, channels = x.shape[:2]
    beside = images * channels
    inputs = x.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1).unsqueeze(0)
    kernels = gradient.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1).unsqueeze(1)
    found: Any = torch.mkldnn_convolution(inputs, kernels, None, [padding] * 2, [1, 1], [stride] * 2, beside)
    taps = found[0, :, :kernel, :kernel].permute(1, 2, 0)  # a stride may leave rows that no tap has
    return taps.unflatten(2, (images, channels)).sum(2) if images > 1 else taps
