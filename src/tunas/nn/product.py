"""1×1 convolutions on a processor as products of matrices, the gradient of whose weights is added to the shared one.

Autograd makes a tensor of every gradient and adds it to the shared buffer afterwards, which is a tenth of a supernet's
step on small images. A product of matrices can add its result to what is there already.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Factors:
    """The gradient of a 1×1 kernel as the two matrices whose product it is.

    Attributes:
        kernel: `[O, I, 1, 1]`, with a `.grad`.
        of_outputs: `[P, O]`, the gradients at every place of every image.
        inputs: `[P, I]`.
    """

    kernel: Tensor
    of_outputs: Tensor
    inputs: Tensor

    def add(self) -> None:
        """Adds their product to the kernel's `.grad`."""
        assert self.kernel.grad is not None
        self.kernel.grad.flatten(1).addmm_(self.of_outputs.t(), self.inputs)


class _Kept(threading.local):
    """What the backward passes of this thread keep instead of adding it."""

    factors: list[Factors] | None = None


_kept = _Kept()


@contextlib.contextmanager
def kept_factors() -> Iterator[list[Factors]]:
    """Within the context, backward passes of this thread add no products: they are listed, to be added later."""
    outer, found = _kept.factors, list[Factors]()
    _kept.factors = found
    try:
        yield found
    finally:
        _kept.factors = outer


def adds_in_place(x: Tensor, kernel: Tensor) -> bool:
    """Whether `pointwise` can take them: a kernel with a gradient to add to, in plain numbers on a processor."""
    return (
        kernel.grad is not None
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == kernel.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def pointwise(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """The 1×1 convolution of `[N, I, H, W]` by `[O, I, 1, 1]`, in channels_last.

    `backward` adds the kernel's gradient to its `.grad` by itself; `torch.autograd.grad` does not give it.
    """
    return _Pointwise.apply(x, kernel, bias)


class _Pointwise(torch.autograd.Function):
    """`pointwise`: its backward pass hands the kernel's gradient to `Factors` instead of to autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        rows, matrix = _rows(x), kernel.flatten(1).t()
        ctx.save_for_backward(rows)
        ctx.kernel = kernel  # itself: what recomputation saves is another tensor, without the shared gradient
        ctx.has_bias, ctx.size = bias is not None, x.shape[2:]
        size = (x.shape[0], kernel.shape[0], *x.shape[2:])
        y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        if bias is None:
            torch.mm(rows, matrix, out=_rows(y))
        else:
            torch.addmm(bias, rows, matrix, out=_rows(y))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (inputs,), kernel = ctx.saved_tensors, ctx.kernel
        of_outputs = _rows(gradient)
        of_x = None
        if ctx.needs_input_grad[0]:
            images = torch.mm(of_outputs, kernel.flatten(1)).view(gradient.shape[0], *ctx.size, -1)
            of_x = images.permute(0, 3, 1, 2)
        factors = Factors(kernel, of_outputs, inputs)
        if _kept.factors is None:
            factors.add()
        else:
            _kept.factors.append(factors)
        return of_x, None, of_outputs.sum(0) if ctx.has_bias else None


def _rows(x: Tensor) -> Tensor:
    """`[N, C, H, W]` as `[N·H·W, C]`, the same memory where `x` lies channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
