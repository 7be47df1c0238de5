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
SMALL_BATCH = 256
SMALL_STEPS_PER_EPOCH = 128
"""The same on small data, whose rate is larger and whose runs are short: 15 epochs of 10,000 images are
292 steps of 512, whose loss explodes at eight times the rate of a batch of 64 (benchmarks/README.md#small-data)."""
WEIGHT_DECAY = 4e-5
WEIGHT_DECAY_BF16 = 3e-5
"""docs/algorithm.md#weight-training."""
FINE_TUNING = 0.1
"""Of a recipe's learning rate, for weights that have learned before."""
MOMENTUM = 0.9
"""Of RMSProp (docs/algorithm.md#weight-training)."""


def auto_batch_size(train_size: int, *, most: int = BATCH, steps: int = STEPS_PER_EPOCH) -> int:
    """4096, or the power of two, at least 64, that leaves 16 steps per epoch of a smaller dataset."""
    return min(most, max(64, 2 ** int(math.log2(max(1, train_size / steps)))))


def small_batch_size(train_size: int) -> int:
    """256, or the power of two, at least 64, that leaves 128 steps per epoch of a dataset below 32,768 examples."""
    return auto_batch_size(train_size, most=SMALL_BATCH, steps=SMALL_STEPS_PER_EPOCH)
