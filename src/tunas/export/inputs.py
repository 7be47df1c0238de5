"""What an exported network takes, and what lies beside its files: images as a camera gives them, or what a task of
one's own prepares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tunas.data.images import EVALUATION_CROP, MEAN, STD, normalize
from tunas.data.loader import Data
from tunas.errors import InputError
from tunas.export.camera import Camera, Input, as_taken
from tunas.export.check import BATCH, Reference, reference_of
from tunas.export.directory import LABELS, PROGRAM, labels_bytes
from tunas.export.standalone import predict_program
from tunas.nn.flat import flat_network
from tunas.runtime import Runtime
from tunas.runtime.registry import Arrays
from tunas.task.metric import accuracy
from tunas.task.task import Task

PREPARED = "prepared"
"""What files take that are given what a task prepares."""
WHOLE = ("digits",)
"""Datasets whose images are shown whole, not their central part."""

Taken = Callable[[tuple[Tensor, ...]], Arrays]
"""Makes what an artifact takes of examples: one array per input of theirs."""


class Inputs(Protocol):
    """What an export asks of the inputs of a network: `ImageInputs` and `TaskInputs` answer."""

    @property
    def train_split(self) -> str:
        """What ranges of activations are taken from."""
        ...

    @property
    def eval_split(self) -> str:
        """What files are checked on."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What files call their inputs."""
        ...

    @property
    def unit(self) -> str:
        """What an example is called, in the plural."""
        ...

    @property
    def quality_name(self) -> str:
        """What counts in the check."""
        ...

    @property
    def cost_arguments(self) -> dict[str, Any]:
        """What pricing a space takes beside its name."""
        ...

    def taken(self, runtime: Runtime) -> Taken:
        """What makes examples those that the files of a runtime take."""
        ...

    def wrapped(self, network: Any, runtime: Runtime) -> nn.Module:
        """What is converted: the network, and around it what makes its inputs of those that the files take."""
        ...

    def calibration(self, count: int, seed: int) -> list[Arrays]:
        """Training examples as the files take them.

        Raises:
            InputError: where there are not so many.
        """
        ...

    def reference(self, network: Any, count: int | None) -> Reference:
        """What PyTorch makes of the first `count` examples to check on, or of all."""
        ...

    def probe(self, seed: int) -> tuple[Tensor, ...]:
        """One example to time."""
        ...

    def facts(self, runtime: Runtime) -> dict[str, Any]:
        """What `model.json` says of them."""
        ...

    def beside(self, runtime: Runtime) -> dict[str, bytes]:
        """Name -> content of what lies beside the files of a runtime."""
        ...


@dataclass(frozen=True)
class ImageInputs:
    """Labelled images.

    Args:
        data: where they are.
        train_split, eval_split: to calibrate on and to check on.
        takes: what the files take.
    """

    data: Data
    train_split: str
    eval_split: str
    takes: Input

    names = ("image",)

    def _takes(self, runtime: Runtime) -> Input:
        return "normalized" if runtime.name == "timm" else self.takes

    def taken(self, runtime: Runtime) -> Taken:
        takes = self._takes(runtime)
        return lambda inputs: (as_taken(inputs[0], takes),)

    def wrapped(self, network: Any, runtime: Runtime) -> nn.Module:
        """What is converted: the network with the normalisation that it takes."""
        return network if runtime.name == "timm" else Camera(network, self.takes).eval()

    def calibration(self, count: int, seed: int) -> list[Arrays]:
        check_enough(count, self.data.size(self.train_split), "images")
        images, _ = next(self.data.stream(self.train_split, count, seed=seed, augment=False))
        return [(as_taken(image[None], self.takes),) for image in images]

    def reference(self, network: Any, count: int | None) -> Reference:
        left = self.data.size(self.eval_split) if count is None else count
        return reference_of(
            (((images,), labels) for images, labels in self.data.once(self.eval_split, BATCH)),
            lambda inputs: network(normalize(inputs[0])),
            lambda logits, labels: float(accuracy(logits, labels)),
            left,
        )

    def probe(self, seed: int) -> tuple[Tensor, ...]:
        """One example to time."""
        size = self.data.image_size
        return (torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, 3, size, size), np.uint8)),)

    def facts(self, runtime: Runtime) -> dict[str, Any]:
        return {
            "input": self._takes(runtime),
            "image_size": self.data.image_size,
            "crop": 1.0 if self.data.name in WHOLE else EVALUATION_CROP,
            "mean": MEAN,
            "std": STD,
            "classes": self.data.num_classes,
            "class_names": self.data.class_names,
        }

    def beside(self, runtime: Runtime) -> dict[str, bytes]:
        """labels.txt, and predict.py where the runtime is one of ours."""
        program = predict_program(runtime.package, self.takes)
        labels = {LABELS: labels_bytes(self.data.class_names)}
        return labels if program is None else {**labels, PROGRAM: program.encode()}

    @property
    def unit(self) -> str:
        return "images"

    @property
    def quality_name(self) -> str:
        return "accuracy"

    @property
    def cost_arguments(self) -> dict[str, Any]:
        return {"image_size": self.data.image_size, "num_classes": self.data.num_classes}


class TaskInputs:
    """What a task of one's own gives its network, tensor by tensor.

    Args:
        task: whose examples they are.
        train_split, eval_split: to calibrate on and to check on.

    Raises:
        InputError: where an input holds something other than tensors.
    """

    def __init__(self, task: Task, train_split: str, eval_split: str):
        self.task, self.train_split, self.eval_split = task, train_split, eval_split
        inputs, _ = next(task.once(eval_split, 1))
        self.example = task.prepare(inputs)
        _, self.tensors, self.names = flat_network(nn.Identity(), self.example)

    def taken(self, runtime: Runtime) -> Taken:
        return lambda inputs: tuple(tensor.contiguous().numpy() for tensor in inputs)

    def wrapped(self, network: Any, runtime: Runtime) -> nn.Module:
        """What is converted: the network, with one argument for each tensor of its inputs."""
        return flat_network(network, self.example)[0].eval()

    def _flat(self, inputs: Any) -> tuple[Tensor, ...]:
        return flat_network(nn.Identity(), self.task.prepare(inputs))[1]

    def calibration(self, count: int, seed: int) -> list[Arrays]:
        check_enough(count, self.task.size(self.train_split), self.task.unit)
        inputs, _ = next(self.task.stream(self.train_split, count, seed=seed, augment=False))
        flat = self._flat(inputs)
        return [tuple(tensor[number : number + 1].numpy() for tensor in flat) for number in range(count)]

    def reference(self, network: Any, count: int | None) -> Reference:
        left = self.task.size(self.eval_split) if count is None else count
        flat = flat_network(network, self.example)[0]
        metric = self.task.metrics[self.task.quality_name]

        def quality(outputs: Tensor, targets: Any) -> float:
            return metric.result(metric.count(outputs, targets).double(), len(outputs))

        batches = ((self._flat(inputs), targets) for inputs, targets in self.task.once(self.eval_split, BATCH))
        return reference_of(batches, lambda inputs: flat(*inputs), quality, left)

    def probe(self, seed: int) -> tuple[Tensor, ...]:
        """One example to time."""
        return self.tensors

    def facts(self, runtime: Runtime) -> dict[str, Any]:
        shapes = {name: list(tensor.shape) for name, tensor in zip(self.names, self.tensors, strict=True)}
        types = {
            name: str(tensor.dtype).removeprefix("torch.")
            for name, tensor in zip(self.names, self.tensors, strict=True)
        }
        return {"task": self.task.name, "input": PREPARED, "shapes": shapes, "types": types}

    def beside(self, runtime: Runtime) -> dict[str, bytes]:
        """Nothing: what its outputs mean is the task's."""
        return {}

    @property
    def unit(self) -> str:
        return self.task.unit

    @property
    def quality_name(self) -> str:
        return self.task.quality_name

    @property
    def cost_arguments(self) -> dict[str, Any]:
        return dict(self.task.cost_arguments)


def check_enough(count: int, there: int, unit: str) -> None:
    """Refuses to calibrate on more examples than there are."""
    if count > there:
        raise InputError(
            f"calibration takes {count} training {unit} and there are {there}; say --calibration_images={there}"
        )
