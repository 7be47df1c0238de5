"""Pixels: from a file's bytes to uint8 crops, and from uint8 to the network's input."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of 0..1 pixels (SPEC §5)."""


def normalize(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The network's input: (pixel / 255 - mean) / std per channel, computed in float32 on the device that the images are on.

    Args:
        images: uint8 `[n, 3, S, S]`, on any device.
        dtype: of the result.

    Returns:
        `dtype` `[n, 3, S, S]` in channels_last memory format.
    """
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    shift = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1) / std
    images = images.contiguous(memory_format=torch.channels_last)
    return (images * (1 / (255 * std))).sub_(shift).to(dtype, memory_format=torch.channels_last)
