"""Batch norm needs more than one value for each channel."""

from __future__ import annotations

from collections.abc import Iterable

from tunas.nn.profile import operations_of
from tunas.space import Architecture, Tower


def has_norm_on_one_pixel(architectures: Iterable[Architecture], image_size: int) -> bool:
    """Whether a batch norm of one of these networks works on a map of 1×1 pixels.

    A batch of one image then has a single value for each channel, and a single value has no variance.
    """
    return any(
        operation.norm and operation.output_size == 1
        for architecture in architectures
        if isinstance(architecture.space.structure, Tower)  # another one's maps are its own
        for operation in operations_of(architecture, image_size=image_size)
    )
