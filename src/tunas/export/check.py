"""What an artifact computes in its runtime, held against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunas.errors import InputError
from tunas.runtime.registry import FLOAT32, Arrays, Session
from tunas.task.batches import mapped, piece, tensors

LOGITS_TOLERANCE = 1e-4
"""How far logits of a float32 artifact may be from PyTorch's, relative to the largest logit where that is above 1."""
ROUNDING = 1e-9
"""What a difference of two qualities may exceed the allowed one by: 27 of 100 minus 26 of 100 is not above 0.01."""
BATCH = 64
"""Examples that run at a time where the artifact takes any number of them."""


@dataclass(frozen=True)
class Reference:
    """PyTorch's own outputs `[N, …]` on examples.

    Args:
        inputs: one tensor `[N, …]` per input: uint8 images `[N, 3, S, S]`, or what a task gives its network.
        targets: of the examples.
        outputs: logits `[N, classes]`, or what the network of a task gives.
        quality: makes accuracy, or the quality of the task, of (outputs, targets) of all examples.
    """

    inputs: tuple[Tensor, ...]
    targets: Any
    outputs: Tensor
    quality: Callable[[Tensor, Any], float]

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def classifies(self) -> bool:
        """Whether a target is the number of a class, and the outputs one logit for each class."""
        return (
            isinstance(self.targets, Tensor)
            and not self.targets.is_floating_point()
            and self.outputs.dim() > 1
            and self.targets.shape == self.outputs.shape[:1] + self.outputs.shape[2:]
        )


@dataclass(frozen=True)
class Check:
    """An artifact on the examples of a `Reference`.

    Args:
        examples: how many.
        quality, torch_quality: of the artifact and of PyTorch; of images the top-1 accuracy, 0 to 1.
        agreement: part of the examples (of an image's pixels, where each has a class) for which both name the same
            class; None where there are no classes.
        difference: largest between two outputs.
        scale: largest output of PyTorch's, or 1.
    """

    examples: int
    quality: float
    torch_quality: float
    agreement: float | None
    difference: float
    scale: float

    def complaint(self, precision: str, max_drop: float, unit: str = "images", name: str = "accuracy") -> str | None:
        """What is wrong with the artifact, as the end of a sentence; None where nothing is.

        Args:
            unit: what the examples are.
            name: of the quality.
        """
        if precision == FLOAT32 and not self.difference <= LOGITS_TOLERANCE * self.scale:
            return f"its logits differ from PyTorch's by up to {self.difference:.2g}, more than {LOGITS_TOLERANCE:g}"
        drop = self.torch_quality - self.quality
        if drop <= max_drop + ROUNDING:
            return None
        if name == "accuracy":
            return (
                f"it classifies {self.quality:.2%} of {self.examples} {unit} right, {100 * drop:.2f} points less than "
                f"PyTorch; --max_accuracy_drop={max_drop:g} allows {100 * max_drop:g}"
            )
        return (
            f"its {name} on {self.examples} {unit} is {self.quality:.4g}, {drop:.2g} less than PyTorch's; "
            f"--max_accuracy_drop={max_drop:g} allows {max_drop:g}"
        )


def reference_of(
    batches: Iterable[tuple[tuple[Tensor, ...], Any]],
    network: Callable[[tuple[Tensor, ...]], Any],
    quality: Callable[[Tensor, Any], float],
    count: int,
) -> Reference:
    """PyTorch on the first `count` examples of the batches (inputs, targets).

    Raises:
        InputError: where the network gives something other than one tensor.
    """
    inputs: list[tuple[Tensor, ...]] = []
    targets, outputs, left = [], [], count
    with torch.no_grad():
        for some, wanted in batches:
            inputs.append(tuple(tensor[:left].contiguous() for tensor in some))
            targets.append(piece(wanted, 0, left))
            outputs.append(network(inputs[-1]))
            if not isinstance(outputs[-1], Tensor):
                raise InputError(f"an exported network gives one tensor, and this one a {type(outputs[-1]).__name__}")
            left -= len(outputs[-1])
            if left <= 0:
                break
    parts = [list(tensors(batch)) for batch in targets]
    joined = iter([torch.cat(column) for column in zip(*parts, strict=True)])
    together = mapped(lambda tensor: next(joined), targets[0])
    return Reference(tuple(map(torch.cat, zip(*inputs, strict=True))), together, torch.cat(outputs), quality)


def checked(
    session: Session,
    against: Reference,
    taken: Callable[[tuple[Tensor, ...]], Arrays],
    dynamic_batch: bool,
    done: Callable[[int], object],
) -> Check:
    """Runs an artifact on every example of a reference.

    Args:
        taken: makes what it takes of the reference's inputs.
        dynamic_batch: whether it takes any number of examples at once.
        done: is given how many examples have just been run.
    """
    found, batch = [], BATCH if dynamic_batch else 1
    for start in range(0, len(against), batch):
        found.append(session(*taken(tuple(tensor[start : start + batch] for tensor in against.inputs))))
        done(len(found[-1]))
    outputs = torch.from_numpy(np.concatenate(found))
    same = (outputs.argmax(1) == against.outputs.argmax(1)) if against.classifies else None
    return Check(
        len(outputs),
        against.quality(outputs, against.targets),
        against.quality(against.outputs, against.targets),
        None if same is None else float(same.float().mean()),
        float((outputs - against.outputs).abs().max()),
        max(1.0, float(against.outputs.abs().max())),
    )
