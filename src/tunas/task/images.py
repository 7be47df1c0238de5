"""The default task: one label for each image."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunas.data.config import DataConfig
from tunas.data.identity import COMPARED, Identity, check_same_classes, check_same_dataset, identity_of
from tunas.data.images import evaluation_recipe, normalize
from tunas.data.loader import Data
from tunas.data.opening import open_data, write_description
from tunas.task.config import LABEL_SMOOTHING
from tunas.task.datasets import Batch
from tunas.task.metric import Metric, accuracy
from tunas.task.task import Task

CHANNELS = 3
TOP = 5
"""Likeliest classes among which `top5_accuracy` looks for the label."""


class ImageClassification(Task):
    """The labelled images that `config` points at: cross-entropy, accuracy.

    Args:
        config: where the images are, and how they are read.
        run_dir: directory of the run, in which caches lie where no other place is given.
        label_smoothing: share of the probability spread over all classes in the labels that are learned from.
        weights_dir: where weights are only evaluated, the directory that they lie in; the classes must be those of its
            run.

    Raises:
        InputError: where there is nothing that can be read as a dataset.
    """

    is_proven = True
    unit = "images"
    quality_name = "accuracy"
    compared = COMPARED
    draws_nothing = True

    def __init__(
        self,
        config: DataConfig,
        *,
        run_dir: Path | None = None,
        label_smoothing: float = LABEL_SMOOTHING,
        weights_dir: Path | None = None,
    ):
        self.config = config
        self.label_smoothing = label_smoothing
        run = None if weights_dir is None else identity_in(weights_dir)
        self.data: Data = open_data(config, run_dir=run_dir, describe=False, run=run)
        if run is not None and run.class_names:
            hint = "" if config.dataset_dir else "; without --dataset_dir the dataset is the embedded digits"
            check_same_classes(self.data.identity, run, weights_dir, hint)
        self.name = self.data.name
        self.guessing_loss = math.log(self.data.num_classes)
        self.network_arguments = {"num_classes": self.data.num_classes}
        size = self.data.image_size
        self.cost_arguments: dict[str, Any] = {
            "image_size": size,
            "num_classes": self.data.num_classes,
            "example": lambda: torch.zeros(1, CHANNELS, size, size),  # by which models of one's own are counted
        }
        self.evaluation_view = evaluation_recipe(self.data.image_size, cropped=self.name != "digits")
        self.metrics = {
            "accuracy": Metric(lambda logits, labels: _among_top(logits, labels)[:, 0].sum()),
            "top5_accuracy": Metric(lambda logits, labels: _among_top(logits, labels).any(1).sum()),
            "loss": Metric(lambda logits, labels: F.cross_entropy(logits, labels, reduction="sum")),
        }

    def size(self, split: str) -> int:
        return self.data.size(split)

    def ready(self, split: str) -> None:
        self.data.ready(split)

    def stream(self, split: str, batch_size: int, **how: Any) -> Iterator[Batch]:  # type: ignore[override]
        return self.data.stream(split, batch_size, **how)

    def share_stream(self, split: str, batch_size: int, shares: int, **how: Any) -> Iterator[list[Batch]]:  # type: ignore[override]
        batches: Any = self.data.stream(split, batch_size, **how)
        with contextlib.closing(batches):
            for images, labels in batches:
                size = len(labels) // shares
                yield list(zip(images.split(size), labels.split(size), strict=True))

    def once(self, split: str, batch_size: int, *, shard: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        return self.data.once(split, batch_size, shard=shard)

    def prepare(self, inputs: Tensor) -> Tensor:
        return normalize(inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def quality(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return accuracy(outputs, targets)

    def facts(self) -> dict[str, Any]:
        return {"dataset": self.name, "image_size": self.data.image_size, "num_classes": self.data.num_classes}

    def identity(self) -> dict[str, Any]:
        return self.data.identity.params()

    def check_same(self, params: Mapping[str, Any], where: Path) -> None:
        if (run := identity_of(params)) is not None:
            check_same_dataset(self.data.identity, run, where)

    def evaluated_split(self, wanted: str) -> str:
        return "test" if self.data.alone else wanted

    def describe(self, directory: Path) -> None:
        write_description(self.data, self.config, directory)

    def left_out(self) -> str | None:
        return self.data.bad_images.report()


def identity_in(directory: Path) -> Identity:
    """What the run in a directory was trained on; nothing known where there is no run."""
    try:
        params = json.loads((directory / "params.json").read_text())
    except (OSError, ValueError):
        params = {}
    return (identity_of(params) if isinstance(params, dict) else None) or Identity((), None, 0)


def _among_top(logits: Tensor, labels: Tensor) -> Tensor:
    """bool `[N, at most 5]`: where the label is among the likeliest classes."""
    top: Tensor = logits.topk(min(TOP, logits.shape[1])).indices
    return torch.eq(top, labels[:, None])
