"""What is counted over a whole split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The part of the examples, 0 to 1, whose likeliest class is their label; classes along the second dimension."""
    return (logits.argmax(1) == labels).float().mean()


def mean(sums: Tensor, examples: int) -> float:
    """The sum over all examples, divided by their number."""
    return float(sums) / examples


@dataclass(frozen=True)
class Metric:
    """A figure of a whole split from sums over its batches, the same however the split is divided.

    Args:
        count: (outputs, targets) of a batch -> a tensor of any shape, to be summed over all batches and processes.
        result: (those sums, in float64 on the host; number of examples) -> the figure.
    """

    count: Callable[[Any, Any], Tensor]
    result: Callable[[Tensor, int], float] = mean
