"""Epochs in steps. Imports no torch."""

from __future__ import annotations

from tunas.errors import InputError


def steps_in(epochs: float, train_size: int, batch: int) -> int:
    """How many whole batches there are in so many passes over `train_size` examples.

    Raises:
        InputError: where there is none.
    """
    steps = int(train_size * epochs // batch)
    if steps < 1:
        raise InputError(
            f"{epochs} epochs of {train_size} examples are less than one batch of {batch}; use more epochs or smaller "
            f"batches"
        )
    return steps
