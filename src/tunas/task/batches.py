"""Batches: a tensor, or a tuple, list or dict of such, all with the examples along their first dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tunas.errors import InputError


def mapped(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """The same structure with `function` of every tensor in its place.

    Raises:
        InputError: where it holds something other than tensors.
    """
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: mapped(function, part) for name, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(function, part) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(mapped(function, part) for part in batch)
    raise InputError(f"a batch holds tensors, or tuples, lists and dicts of them, not {type(batch).__name__}")


def tensors(batch: Any) -> Iterator[Tensor]:
    """Every tensor in the batch."""
    found: list[Tensor] = []
    mapped(found.append, batch)
    return iter(found)


def length(batch: Any) -> int:
    """How many examples the batch holds."""
    return len(next(tensors(batch)))


def on_device(batch: Any, device: torch.device) -> Any:
    """The batch on the device; it may still be on its way there while the caller goes on."""
    return mapped(lambda tensor: as_held(tensor, device).to(device, non_blocking=True), batch)


def as_held(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor in a type that the device has: Apple's GPUs have no float64, to which numbers of Python are
    collated."""
    return tensor.float() if device.type == "mps" and tensor.dtype == torch.float64 else tensor


def piece(batch: Any, start: int, stop: int) -> Any:
    """The batch's examples from `start` to before `stop`."""
    return mapped(lambda tensor: tensor[start:stop], batch)


def split(batch: Any, size: int) -> list[Any]:
    """Consecutive pieces of `size` examples each; the last one may be smaller."""
    return [piece(batch, start, start + size) for start in range(0, length(batch), size)]


def parts(batch: Any, count: int) -> list[Any]:
    """At most `count` consecutive pieces of the same size; the last one may be smaller."""
    return split(batch, -(-length(batch) // count))


def as_float(outputs: Any) -> Any:
    """What a network gives in float32, whatever precision autocast computed it in."""
    return mapped(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, outputs)
