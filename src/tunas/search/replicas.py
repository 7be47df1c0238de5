"""Several replicas of a step at the same time, with a result that does not depend on how many.

A processor's threads are better used by one replica each than by all of them on every small operation of one. Every
replica's gradients are tensors of their own, added to the shared ones in the order of the replicas, whichever is ready
first.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tunas.nn.product import Factors, kept_factors
from tunas.nn.used_kernels import UsedKernels

T = TypeVar("T")
R = TypeVar("R")

LARGE_REPLICA = 2**20
"""Numbers: about 7 images of 224 pixels, or 341 of 32."""


class Lanes:
    """Threads, each of which works on one replica at a time.

    Args:
        count: how many; one works in the thread that asks.
        threads: of torch, that each may use.
    """

    def __init__(self, count: int, threads: int = 1):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            self._pool = ThreadPoolExecutor(
                count, "tunas-replica", initializer=torch.set_num_threads, initargs=(threads,)
            )

    def map(self, work: Callable[[T], R], items: Iterable[T], sizes: Sequence[float] = ()) -> list[R]:
        """`work` of every item, in their order.

        Args:
            sizes: how much there is to do for each; the largest are begun first then, so that no lane is left with a
                large one at the end.

        Raises:
            Exception: what `work` raised for the first of the items for which it did; those that were not begun are
                left out then.
        """
        if self._pool is None:
            return [work(item) for item in items]
        if not sizes:
            return list(self._pool.map(work, items))
        waiting = list(items)
        order = sorted(range(len(waiting)), key=lambda number: -sizes[number])
        begun = {number: self._pool.submit(work, waiting[number]) for number in order}
        try:
            return [begun[number].result() for number in range(len(waiting))]
        except BaseException:
            for future in begun.values():
                future.cancel()
            raise

    def in_one(self, work: Callable[[], R]) -> R:
        """`work`, in one lane and its threads: many short operations, after each of which all threads would meet."""
        return work() if self._pool is None else self._pool.submit(work).result()


def lanes_for(replicas: int, device: torch.device, *, wanted: int | None, alike: bool, numbers: int = 0) -> Lanes:
    """As many lanes as pay: on a processor one for each of its threads, elsewhere one.

    Large replicas go one after the other, each in all threads: their operations are long enough for these, and several
    at once would need the memory of several.

    Args:
        replicas: of this process in a step.
        wanted: a number of lanes to take instead.
        alike: whether a replica computes the same in any thread, drawing no random numbers.
        numbers: that the inputs of a replica consist of.
    """
    threads = torch.get_num_threads()
    most = wanted or (threads if numbers <= LARGE_REPLICA else 1)
    count = min(replicas, most) if device.type == "cpu" and alike else 1
    return Lanes(count, max(1, threads // count))


class InOrder:
    """Adds replicas' gradients to the shared ones as replica 0, 1, 2, … whichever of them comes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, Gradients] = {}
        self._next = 0
        self._is_adding = False

    def add(self, number: int, gradients: Gradients) -> None:
        """Adds those of replica `number`, and of all whose turn it is then, or leaves them to a thread that is adding
        already, so that none waits for another."""
        with self._lock:
            self._waiting[number] = gradients
            if self._is_adding:
                return
            self._is_adding = True
        while (ready := self._following()) is not None:
            ready.add()

    def _following(self) -> Gradients | None:
        with self._lock:
            ready = self._waiting.pop(self._next, None)
            if ready is None:
                self._is_adding = False
            else:
                self._next += 1
            return ready


@dataclass(frozen=True)
class Gradients:
    """What a backward pass found.

    Attributes:
        tensors: (weight, gradient) of weights, or slices of them, that the loss depends on.
        factors: of those kernels whose gradients are products of matrices.
    """

    tensors: list[tuple[Tensor, Tensor]]
    factors: list[Factors] = field(default_factory=list)

    @torch.no_grad()
    def add(self) -> None:
        """Adds them to the `.grad` that each weight has."""
        for weight, gradient in self.tensors:
            assert weight.grad is not None
            weight.grad.add_(gradient)
        for each in self.factors:
            each.add()


def gradients_of(loss: Tensor, *, in_turn: bool = False) -> Gradients:
    """Of every weight, or slice of one, that the loss depends on; `.grad` is left alone.

    Args:
        in_turn: it is this loss's turn to be added: products of matrices are, as they are computed, and not found.
    """
    weights = weights_behind(loss)
    keeping: contextlib.AbstractContextManager[list[Factors]]
    keeping = contextlib.nullcontext([]) if in_turn else kept_factors()
    with keeping as factors:
        found = torch.autograd.grad(loss, weights, allow_unused=True)
    tensors = [(weight, one) for weight, one in zip(weights, found, strict=True) if one is not None]
    return Gradients(tensors, factors)


def weights_behind(loss: Tensor) -> list[Tensor]:
    """The leaves of the graph of a loss, in an order that the graph alone decides."""
    found: list[Tensor] = []
    seen: set[Any] = {loss.grad_fn}
    left = [loss.grad_fn]
    while left:
        node: Any = left.pop()
        variable = getattr(node, "variable", None)
        if variable is not None and variable.is_leaf:
            found.append(variable)
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                left.append(following)
    return found


@torch.no_grad()
def decay_weights(used: Sequence[UsedKernels], decay: float, replicas: int) -> Tensor:
    """Adds the gradient of the L2 of the kernels that replicas used, each of them once for all that used it.

    Args:
        used: of every replica of this process.
        decay: weight of ½‖w‖² in the loss.
        replicas: of all processes, whose mean is taken.

    Returns:
        `[len(used)]`: each one's part of the loss.
    """
    place: dict[int, int] = {}
    kernels: list[Tensor] = []
    for kernel in itertools.chain.from_iterable(of_one.kernels for of_one in used):
        if id(kernel) not in place:
            place[id(kernel)] = len(kernels)
            kernels.append(kernel)
    shares = np.zeros((len(used), len(kernels)), np.float32)
    for row, of_one in zip(shares, used, strict=True):
        np.add.at(row, [place[id(kernel)] for kernel in of_one.kernels], of_one.shares)
    for kernel, share in zip(kernels, shares.sum(axis=0, dtype=np.float64).tolist(), strict=True):
        assert kernel.grad is not None
        kernel.grad.add_(kernel, alpha=share * decay / replicas)
    squares = torch.stack(torch._foreach_norm(kernels)).square()
    return 0.5 * decay * (torch.from_numpy(shares).to(squares.device) @ squares)
