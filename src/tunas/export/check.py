"""What an artifact computes in its runtime, held against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunas.data.images import normalize
from tunas.export.camera import Input, as_taken
from tunas.export.source import Source
from tunas.runtime.registry import FLOAT32, Session

LOGITS_TOLERANCE = 1e-4
"""Of a float32 artifact, relative to the largest logit where that is above 1."""
BATCH = 64


@dataclass(frozen=True)
class Reference:
    """PyTorch's own logits `[N, classes]` on images `[N, 3, S, S]` uint8, with their labels `[N]`."""

    images: Tensor
    labels: Tensor
    logits: Tensor

    @property
    def accuracy(self) -> float:
        return float((self.logits.argmax(1) == self.labels).float().mean())


@dataclass(frozen=True)
class Check:
    """An artifact on the images of a `Reference`.

    Args:
        images: how many.
        accuracy, torch_accuracy: top-1, 0 to 1, of the artifact and of PyTorch.
        agreement: part of the images for which both name the same class.
        difference: largest between two logits.
        scale: largest logit of PyTorch's, or 1.
    """

    images: int
    accuracy: float
    torch_accuracy: float
    agreement: float
    difference: float
    scale: float

    def complaint(self, precision: str, max_drop: float) -> str | None:
        """What is wrong with the artifact, as the end of a sentence; None where nothing is."""
        if precision == FLOAT32 and not self.difference <= LOGITS_TOLERANCE * self.scale:
            return f"its logits differ from PyTorch's by up to {self.difference:.2g}, more than {LOGITS_TOLERANCE:g}"
        drop = self.torch_accuracy - self.accuracy
        if drop > max_drop:
            return (
                f"it classifies {self.accuracy:.2%} of {self.images} images right, {100 * drop:.2f} points less than "
                f"PyTorch; --max_accuracy_drop={max_drop:g} allows {100 * max_drop:g}"
            )
        return None


def reference(source: Source, count: int | None) -> Reference:
    """PyTorch on the first `count` images of the split that the training was evaluated on, or on all of them."""
    images, labels, logits = [], [], []
    left = count if count is not None else source.data.size(source.eval_split)
    with torch.no_grad():
        for some_images, some_labels in source.data.once(source.eval_split, BATCH):
            images.append(some_images[:left].contiguous())
            labels.append(some_labels[:left])
            logits.append(source.network(normalize(images[-1])))
            left -= len(labels[-1])
            if left <= 0:
                break
    return Reference(torch.cat(images), torch.cat(labels), torch.cat(logits))


def checked(
    session: Session,
    against: Reference,
    takes: Input,
    dynamic_batch: bool = False,
    done: Callable[[int], object] = lambda images: None,
) -> Check:
    """Runs an artifact on every image of a reference.

    Args:
        done: is given how many images have just been run.
    """
    found = []
    for images in against.images.split(BATCH if dynamic_batch else 1):
        found.append(session(as_taken(images, takes)))
        done(len(images))
    logits = torch.from_numpy(np.concatenate(found))
    chosen = logits.argmax(1)
    return Check(
        len(chosen),
        float((chosen == against.labels).float().mean()),
        against.accuracy,
        float((chosen == against.logits.argmax(1)).float().mean()),
        float((logits - against.logits).abs().max()),
        max(1.0, float(against.logits.abs().max())),
    )
