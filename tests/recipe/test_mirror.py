"""Mirroring is left alone where mirrored images are no longer recognised."""

from __future__ import annotations

import numpy as np

from tunas.data import DataConfig, open_data
from tunas.recipe.mirror import MirrorProbe, probe_mirroring, probed


def patches(rng, count, both_sides):
    """Two classes of noise: a bright patch in the upper or in the lower half; the first one's always at the left, or on
    either side."""
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 60, (count, 3, 16, 16)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        column = 2 if not both_sides or rng.random() < 0.5 else 10
        image[:, 2 + 8 * label : 6 + 8 * label, column : column + 4] += 120
    return images, labels


def test_classes_that_look_the_same_in_a_mirror_may_be_mirrored():
    images, labels = patches(np.random.default_rng(0), 300, both_sides=True)
    found = probe_mirroring(images, labels)
    assert found.plain > 0.95 and found.mirrors and "does no harm" in found.sentence


def test_classes_that_are_told_apart_by_their_side_may_not():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    images = rng.integers(0, 60, (300, 3, 16, 16)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 6:10, 2 + 8 * label : 6 + 8 * label] += 120
    found = probe_mirroring(images, labels)
    assert found.plain > 0.95 and found.mirrored < 0.05 and not found.mirrors and "would harm" in found.sentence


def test_digits_may_not_be_mirrored_and_the_probe_finds_the_same_each_time():
    data = open_data(DataConfig())
    found = probed(data)
    assert not found.mirrors and found.plain > 0.9 and found.mirrored < 0.7
    assert probed(data) == found


def test_where_nothing_is_recognised_mirroring_does_no_harm():
    assert MirrorProbe(0.1, 0.1, 300).mirrors and MirrorProbe(0.12, 0.1, 300).mirrors
