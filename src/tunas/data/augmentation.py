"""What a training view of an image may look like. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

CROP_SCALE = (0.08, 1.0)
"""Area of training crops, as part of the image's (docs/algorithm.md#data; Szegedy et al. 2015)."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width to height of training crops (docs/algorithm.md#data; Szegedy et al. 2015)."""
HFLIP = 0.5
"""Chance that a training view is mirrored (docs/algorithm.md#data)."""
MAX_MAGNITUDE = 30
"""Largest magnitude of RandAugment (Cubuk et al. 2020), in torchvision's 31 bins."""
MAX_SHEAR = 60
"""Most degrees of slanting: upright lines that lie nearly flat show nothing any more."""
ELASTIC_PLACES = 5
"""Places along each side of a view that are moved, each by itself, where a view is stretched."""
MAX_ELASTIC = 0.12
"""Half of the way between two such places, beyond which an image would fold over itself."""
NOT_PLAIN = ("rotate", "shear", "elastic", "randaugment", "random_erasing")
"""What does not happen to an image any more once images are plain."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image, each a function of (seed, epoch, example) alone. The defaults are the
    published ones.

    Args:
        crop_scale: least and greatest area of a crop, as part of the image's; None takes the evaluation crop's.
        crop_ratio: least and greatest width to height of a crop.
        shift: how far the crop's centre is moved from the image's at most, in each direction, as part of the crop's
            side; what sticks out repeats the image's edge. None puts the crop anywhere in the image.
        hflip: chance of mirroring left and right.
        rotate: degrees that the crop is turned by at most, either way; what was outside of it repeats its edge.
        shear: degrees that its upright lines are slanted by at most, either way.
        elastic: how far each of 5 × 5 places of the crop is moved at most, either way along both sides, as part of its
            side; what lies between them is stretched smoothly (Simard et al. 2003), and beyond it its edge is repeated.
        randaugment: magnitude of two operations of RandAugment, 0 to 30; 0 does without.
        random_erasing: chance that a rectangle is blanked (Zhong et al. 2017).
        plain_from: epoch from which on images are no longer turned, slanted, stretched, changed by RandAugment or
            blanked; None for no such epoch.
        views: how many different views of an example there are, epoch e showing the (e mod views)-th; None for a new
            one in every epoch.
        views_seed: of these views, in place of the run's.
    """

    crop_scale: tuple[float, float] | None = CROP_SCALE
    crop_ratio: tuple[float, float] = CROP_RATIO
    shift: float | None = None
    hflip: float = HFLIP
    rotate: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    randaugment: int = 0
    random_erasing: float = 0.0
    plain_from: int | None = None
    views: int | None = None
    views_seed: int = 0

    def drawn_from(self, seed: int, epoch: int) -> tuple[int, int]:
        """(seed, epoch) that the view of a run's epoch is drawn from."""
        return (seed, epoch) if self.views is None else (self.views_seed, epoch % self.views)

    def in_epoch(self, epoch: int) -> Augmentation:
        """What may happen in a run's epoch."""
        if self.plain_from is None or epoch < self.plain_from:
            return self
        nothing: dict[str, Any] = dict.fromkeys(NOT_PLAIN, 0)
        return dataclasses.replace(self, **nothing)


PUBLISHED = Augmentation()
"""Random resized crops of at least 8 % of the area, half of them mirrored (docs/algorithm.md#data)."""
