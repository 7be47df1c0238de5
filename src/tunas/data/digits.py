"""The embedded dataset: scikit-learn's 1797 handwritten digits of 8×8 pixels (UCI ML, Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tunas.data.order import permutation

TEST_SIZE = 360
VALID_SIZE = 360
FILE = "datasets/data/digits.csv.gz"
"""Of scikit-learn: a row for each digit, 64 pixels of 0 to 16 and the label."""
_SPLIT_SEED = 20200
"""Fixes which digits are held out; independent of any run's seed."""


def digit_images(image_size: int) -> tuple[Tensor, Tensor]:
    """uint8 `[1797, S, S, 3]` and int64 labels `[1797]`: training digits first, then the held-out part, then the test
    set."""
    images, labels = _stored()
    order = np.array(permutation(len(labels), _SPLIT_SEED, 0, 0))
    gray = torch.from_numpy(images[order]).float().mul_(255 / 16).unsqueeze(1)  # values 0..16
    resized = torch.nn.functional.interpolate(gray, size=(image_size, image_size), mode="bicubic", antialias=True)
    pixels = resized.round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous(), torch.from_numpy(labels[order]).long()


def _stored() -> tuple[np.ndarray, np.ndarray]:
    """float64 images `[1797, 8, 8]` and labels `[1797]`, as scikit-learn has them: from its file, where that lies where
    it is expected, because importing it takes longer than a short training."""
    found = importlib.util.find_spec("sklearn")
    for directory in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(directory) / FILE).is_file():
            rows = np.loadtxt(path, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target
