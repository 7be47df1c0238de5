"""Batches on their way to a device while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from tunas.task.batches import mapped, on_device, tensors

T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R")


def staggered(items: Iterable[T], begin: Callable[[T], P], finish: Callable[[P], R]) -> Iterator[R]:
    """`finish(begin(item))` of every item, in order, where the next item has begun before one is finished.

    Whoever takes the results works on one while the next is on its way; a device that is asked for what it computed has
    the next work queued already.
    """
    waiting: list[P] = []
    for item in items:
        waiting.append(begin(item))
        if len(waiting) == 2:
            yield finish(waiting.pop(0))
    for last in waiting:
        yield finish(last)


def arriving(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Every batch on the device. On CUDA the next one is copied from pinned memory by a stream of its own meanwhile;
    elsewhere a batch is copied when its turn comes, if at all."""
    if device.type != "cuda":
        for batch in batches:
            yield on_device(batch, device)
        return
    stream = torch.cuda.Stream(device)

    def begin(batch: Any) -> tuple[Any, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            copied = mapped(lambda tensor: tensor.pin_memory().to(device, non_blocking=True), batch)
            return copied, stream.record_event()

    def finish(begun: tuple[Any, torch.cuda.Event]) -> Any:
        batch, copied = begun
        computing = torch.cuda.current_stream(device)
        computing.wait_event(copied)
        for tensor in tensors(batch):
            tensor.record_stream(computing)  # or its memory could serve the next copy before it was used
        return batch

    yield from staggered(batches, begin, finish)
