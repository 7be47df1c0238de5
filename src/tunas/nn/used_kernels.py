"""Which convolution kernels a forward pass used, for L2."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch import Tensor


class UsedKernels:
    """The convolution kernels of a forward pass, or slices of them, which L2 counts.

    Attributes:
        kernels: in the order of use.
        shares: each kernel's part in a mixture: 1, or under op warmup the product of the 1/n of every enabled OneOf
            around it (docs/algorithm.md#weight-training).
    """

    def __init__(self) -> None:
        self.kernels: list[Tensor] = []
        self.shares: list[float] = []
        self._share = 1.0

    def add(self, kernel: Tensor) -> None:
        """Notes a kernel, with its part in the mixtures around it."""
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


def kernel_used(kernel: Tensor) -> None:
    """Notes that a forward pass used a kernel, which L2 then counts."""
    if _recording.used is not None:
        _recording.used.add(kernel)
