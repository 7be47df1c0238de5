"""What the weights learn from a batch: the task's targets, mixed with another example's or with a teacher's opinion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tunas.recipe.choose import Recipe
from tunas.recipe.teacher import LogitsTeacher, Teacher
from tunas.task.task import Task


class Taught(NamedTuple):
    """Targets of a batch with a teacher's logits `[n, K]` for it."""

    targets: Any
    logits: Tensor


class Keyed(NamedTuple):
    """Targets of a batch with what names its views: epochs and keys, int64 `[n]`."""

    targets: Any
    epochs: Tensor
    keys: Tensor


class Lesson:
    """What search and train learn from a batch, in place of the task's own inputs and targets.

    Args:
        task: what is learned.
        recipe: how images are mixed.
        teacher: what else to learn from.
        temperature: divides teacher's and network's logits.
        weight: share of the teacher in the loss.
    """

    def __init__(
        self, task: Task, recipe: Recipe, teacher: Teacher | None = None, temperature: float = 1.0, weight: float = 0.5
    ):
        self.task, self.recipe, self.teacher = task, recipe, teacher
        self.temperature, self.weight = temperature, weight
        self._mixers = _mixers(recipe, int(task.network_arguments.get("num_classes", 0)))

    def said(self) -> str:
        """What a user should know before the first step: the recipe and its reason, and how a teacher is used."""
        teacher = f"\n{self.teacher.said}" if self.teacher is not None and self.teacher.said else ""
        return f"recipe {self.recipe.name}: {self.recipe.reason}{teacher}"

    def stream(self, split: str, batch_size: int, **how: Any) -> Iterator[Any]:
        """Training batches, as `Task.stream`, with the recipe's augmentation."""
        augment: Any = self.recipe.augmentation or True  # a task without images knows only whether
        batches = self.task.stream(split, batch_size, augment=augment, **how)
        if not isinstance(self.teacher, LogitsTeacher):
            return batches
        return self._named(batches, split, batch_size, how)

    def share_stream(self, split: str, batch_size: int, shares: int, **how: Any) -> Iterator[list[Any]]:
        """Training batches, as `Task.share_stream`, with the recipe's augmentation."""
        augment: Any = self.recipe.augmentation or True
        batches: Any = self.task.share_stream(split, batch_size, shares, augment=augment, **how)
        if not isinstance(self.teacher, LogitsTeacher):
            return batches  # type: ignore[no-any-return]
        return self._named_shares(batches, split, batch_size, shares, how)

    def _named_shares(
        self, batches: Iterator[Any], split: str, batch_size: int, shares: int, how: dict[str, Any]
    ) -> Iterator[list[Any]]:
        assert isinstance(self.teacher, LogitsTeacher)
        names = self.teacher.data.keys_stream(split, batch_size, **how)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for batch, (epochs, keys) in zip(batches, names, strict=True):
                size = len(keys) // shares
                pieces = zip(torch.from_numpy(epochs).split(size), torch.from_numpy(keys).split(size), strict=True)
                yield [(inputs, Keyed(targets, *each)) for (inputs, targets), each in zip(batch, pieces, strict=True)]

    def _named(self, batches: Iterator[Any], split: str, batch_size: int, how: dict[str, Any]) -> Iterator[Any]:
        assert isinstance(self.teacher, LogitsTeacher)
        names = self.teacher.data.keys_stream(split, batch_size, **how)
        with contextlib.closing(batches):  # type: ignore[type-var]
            for (inputs, targets), (epochs, keys) in zip(batches, names, strict=True):
                yield inputs, Keyed(targets, torch.from_numpy(epochs), torch.from_numpy(keys))

    def prepared(self, inputs: Any, targets: Any, seed: int, *, mixes: bool = True) -> tuple[Any, Any]:
        """What the network takes and what `loss` takes, of a batch on its device.

        Args:
            seed: of what is drawn to mix the batch.
            mixes: whether the recipe's mixing takes place.
        """
        inputs = self.task.prepare(inputs)
        names = None
        if isinstance(targets, Keyed):
            names, targets = (targets.epochs, targets.keys), targets.targets
        if self._mixers and mixes:
            inputs, targets = self._mixed(inputs, targets, seed)
        if self.teacher is not None:
            targets = Taught(targets, self.teacher.logits(inputs, names))
        return inputs, targets

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Mean over a batch: the task's loss, and with a teacher the divergence from it (Hinton et al. 2015), times
        the temperature's square, in their shares."""
        if not isinstance(targets, Taught):
            return self.task.loss(outputs, targets)
        own = self.task.loss(outputs, targets.targets)
        theirs = F.log_softmax(targets.logits / self.temperature, 1)
        ours = F.log_softmax(outputs / self.temperature, 1)
        apart = F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * self.temperature**2
        return (1 - self.weight) * own + self.weight * apart

    def _mixed(self, inputs: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator, which is the run's
            torch.manual_seed(seed)
            mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
            return mixer(inputs, targets)  # type: ignore[no-any-return]


def _mixers(recipe: Recipe, num_classes: int) -> list[Any]:
    """What may mix a batch: torchvision's MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019)."""
    from torchvision.transforms import v2

    mixers: list[Any] = []
    if recipe.mixup:
        mixers.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        mixers.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    return mixers
