"""Whether mirrored images are still images of their class: a classifier of plain pixels is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tunas.data import Data

FITTED = 3_000
ASKED = 1_000
"""Images that the classifier is fitted to, and asked about, at most."""
SIDE = 16
"""Pixels a side that it sees."""
PART_ASKED = 0.3
ALLOWED = 2.0
"""Standard errors by which mirrored images may be recognised less often."""
_SEED = 20201


@dataclass(frozen=True)
class MirrorProbe:
    """What the probe found.

    Args:
        plain: accuracy on images that the classifier was not fitted to.
        mirrored: accuracy on the same images, mirrored.
        images: how many.
    """

    plain: float
    mirrored: float
    images: int

    @property
    def mirrors(self) -> bool:
        """Whether mirroring does no harm: as many mirrored images are recognised, within what chance allows."""
        error = math.sqrt(max(self.plain * (1 - self.plain), 0.25 / self.images) / self.images)
        return self.mirrored >= self.plain - ALLOWED * error

    @property
    def sentence(self) -> str:
        verb = "mirroring does no harm" if self.mirrors else "mirroring would harm"
        return (
            f"{verb}: a classifier of pixels recognises {self.plain:.1%} of {self.images} images that it was not "
            f"fitted to, and {self.mirrored:.1%} of them mirrored"
        )


def probed(data: Data) -> MirrorProbe:
    """The probe on a fixed choice of training images, so that it finds the same whenever it is asked."""
    size = data.size("train")
    places = np.random.default_rng(_SEED).permutation(size)[: FITTED + ASKED]
    images, labels = next(data.given("train", iter([(np.zeros_like(places), places)])))
    return probe_mirroring(images.numpy(), labels.numpy())


def probe_mirroring(images: np.ndarray, labels: np.ndarray) -> MirrorProbe:
    """Fits a support vector machine to some of the images and asks it about the others, plain and mirrored.

    Args:
        images: uint8 `[n, 3, S, S]`; beyond `FITTED` + `ASKED` they are not looked at.
        labels: `[n]`.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    order = np.random.default_rng(_SEED).permutation(len(images))
    asked = order[: min(ASKED, max(1, round(PART_ASKED * len(order))))]
    fitted = order[len(asked) : len(asked) + FITTED]
    if len(np.unique(labels[fitted])) < 2:
        return MirrorProbe(1.0, 1.0, len(asked))
    machine = make_pipeline(StandardScaler(), SVC(C=10.0))
    machine.fit(_features(images[fitted]), labels[fitted])
    plain, mirrored = (
        float(np.mean(machine.predict(_features(views)) == labels[asked]))
        for views in (images[asked], images[asked][..., ::-1])
    )
    return MirrorProbe(plain, mirrored, len(asked))


def _features(images: np.ndarray) -> np.ndarray:
    """float32 `[n, 3 · 16 · 16]`: means of the images over 16 × 16 fields."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    pooled = adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(images)).float(), SIDE)
    return pooled.flatten(1).numpy()
