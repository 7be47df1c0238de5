"""What an exported network takes: what a camera gives, or something closer to the network's own input."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tunas.data.images import MEAN, STD

Input = Literal["bytes", "unit", "normalized"]
BYTE = 255.0


class Camera(nn.Module):
    """A network together with the normalisation of its images.

    Args:
        network: gives logits of normalised images `[N, 3, S, S]`.
        takes: `bytes` (uint8 `[N, S, S, 3]`), `unit` (float32 `[N, 3, S, S]`, 0 to 1) or `normalized`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, takes: Input):
        super().__init__()
        self.network = network
        self.takes = takes
        per_byte = 1 / BYTE if takes == "bytes" else 1.0
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        self.register_buffer("scale", per_byte / std, persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.takes == "normalized":
            return self.network(images)
        if self.takes == "bytes":
            images = images.permute(0, 3, 1, 2).float()
        return self.network(images * self.scale - self.shift)


def as_taken(images: Tensor, takes: Input) -> np.ndarray:
    """uint8 images `[N, 3, S, S]` as the array that a `Camera` takes."""
    if takes == "bytes":
        return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    unit = images.float() / BYTE
    if takes == "normalized":
        unit = (unit - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return unit.contiguous().numpy()
