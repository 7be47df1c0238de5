"""Published settings of how weights are learned, and the batch size where none is given. Imports no torch."""

from __future__ import annotations

import math

EPOCHS = 90
"""Of a search and of a training on the training split (docs/algorithm.md#weight-training)."""
EVAL_EVERY = 1.0
"""Epochs between two measurements of the held-out quality, where nothing else is said."""
BATCH = 4096
STEPS_PER_EPOCH = 16
"""Where no batch size is given, it is made small enough for this many steps per epoch; ImageNet keeps the published
4096."""
WEIGHT_DECAY = 4e-5
WEIGHT_DECAY_BF16 = 3e-5
"""docs/algorithm.md#weight-training."""
FINE_TUNING = 0.1
"""Of a recipe's learning rate, for weights that have learned before."""
MOMENTUM = 0.9
"""Of RMSProp (docs/algorithm.md#weight-training)."""


def auto_batch_size(train_size: int) -> int:
    """4096, or the power of two, at least 64, that leaves 16 steps per epoch of a smaller dataset."""
    return min(BATCH, max(64, 2 ** int(math.log2(max(1, train_size / STEPS_PER_EPOCH)))))
