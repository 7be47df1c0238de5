"""The embedded dataset: scikit-learn's 1797 handwritten digits of 8×8 pixels (UCI ML, Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tunas.data.order import permutation

TEST_SIZE = 360
VALID_SIZE = 360
_SPLIT_SEED = 20200
"""Fixes which digits are held out; independent of any run's seed."""


def digit_images(image_size: int) -> tuple[Tensor, Tensor]:
    """uint8 `[1797, S, S, 3]` and int64 labels `[1797]`: training digits first, then the held-out part, then the test
    set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.array(permutation(len(digits.target), _SPLIT_SEED, 0, 0))
    gray = torch.from_numpy(digits.images[order]).float().mul_(255 / 16).unsqueeze(1)  # values 0..16
    resized = torch.nn.functional.interpolate(gray, size=(image_size, image_size), mode="bicubic", antialias=True)
    pixels = resized.round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(digits.target[order]).long()
