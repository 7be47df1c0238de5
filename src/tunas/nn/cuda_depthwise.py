"""Depthwise convolution on CUDA without cuDNN.

In channels_last cuDNN compiles a kernel for every number of channels and of images that it meets: 0.3 s each in float32
and 0.6 to 2.5 s in bfloat16 on an H100 (cuDNN 9), forward and backward. A network of one architecture has some twenty
of them; a supernet has hundreds, and a short search ends before the compiler does. torch's own kernel is there at once.
It is 3 to 6 times slower than cuDNN's for 3×3 and 5×5, and no slower for 7×7 (benchmarks/README.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 1e10
"""Pixels that a search learns from, over all steps: with more, what cuDNN saves pays for what it compiles."""


def is_long(images: float, image_size: int) -> bool:
    """Whether cuDNN's kernels pay for a supernet that learns from so many images."""
    return images * image_size**2 > LONG


def depthwise_at_once(x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:
    """`F.conv2d` of one filter per channel: `[N, C, H, W]` by `[C, 1, k, k]`, differentiable once."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return _AtOnce.apply(x, weight, stride, padding)


class _AtOnce(torch.autograd.Function):
    """cuDNN is left out of both passes: which kernel runs backward is chosen when backward runs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Any, padding: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = list(stride), list(padding)
        with torch.backends.cudnn.flags(enabled=False), torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], False]
        with torch.backends.cudnn.flags(enabled=False):
            of_input, of_weight, _ = torch.ops.aten.convolution_backward(
                gradient.contiguous(), x.contiguous(), weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0],
                len(weight), wanted,
            )  # fmt: skip
        return of_input, of_weight, None, None
