"""What a network may learn from beside the labels: another network, or the logits that one gave (`tunas teach`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tunas.data import Data
from tunas.data.images import MEAN, STD
from tunas.errors import InputError
from tunas.nn import build_network
from tunas.nn.timm_weights import options_of_training
from tunas.nn.weight_files import load_whole, read_tensors
from tunas.recipe.logits import INDEX, Logits
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.directory import DATA, PARAMS, described_classes, read_model_spec, read_params
from tunas.space import structure_from_json


class Teacher(Protocol):
    """Gives an opinion on every example of a batch."""

    name: str
    said: str
    """Whatever a user should know of how it is used; empty where there is nothing."""

    def logits(self, inputs: Tensor, names: tuple[Tensor, Tensor] | None) -> Tensor:
        """`[n, K]`.

        Args:
            inputs: what the learning network sees, `[n, 3, S, S]`.
            names: epochs and keys of the examples, int64 `[n]` each, where the teacher asks for them.
        """
        ...


class NetworkTeacher:
    """A network that looks at what the learning one sees.

    Args:
        name: for people.
        network: gives logits `[n, K]`; is put into evaluation mode.
        image_size: pixels a side of the images handed to it.
        own_size: pixels a side that it was trained for; images are resized where that is another size.
        mean, std: of 0..1 pixels, as it was trained.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        image_size: int,
        own_size: int,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
    ):
        self.name, self.size = name, own_size
        self.network = network.eval().requires_grad_(False)
        self.is_resized = own_size != image_size
        self.said = (
            f"images of {image_size} pixels are resized to {own_size} for the teacher {name}" if self.is_resized else ""
        )
        self.scale = torch.tensor([ours / theirs for ours, theirs in zip(STD, std, strict=True)])
        self.offset = torch.tensor(
            [(m - their_m) / their_s for m, their_m, their_s in zip(MEAN, mean, std, strict=True)]
        )
        self.is_rescaled = (tuple(mean), tuple(std)) != (MEAN, STD)

    @torch.no_grad()
    def logits(self, inputs: Tensor, names: tuple[Tensor, Tensor] | None = None) -> Tensor:
        images = inputs.float()
        if self.is_resized:
            images = interpolate(images, size=(self.size, self.size), mode="bicubic", antialias=True)
        if self.is_rescaled:
            scale, offset = (part.to(images.device).view(1, -1, 1, 1) for part in (self.scale, self.offset))
            images = images * scale + offset
        return self.network(images).float()  # type: ignore[no-any-return]


class LogitsTeacher:
    """The logits of a directory that `tunas teach` wrote."""

    def __init__(self, logits: Logits, data: Data):
        self.name, self.said = str(logits.directory), ""
        self.kept, self.data = logits, data

    def logits(self, inputs: Tensor, names: tuple[Tensor, Tensor] | None) -> Tensor:
        assert names is not None
        epochs, keys = (part.cpu().numpy() for part in names)
        return self.kept.of(epochs % self.kept.views, keys).to(inputs.device)


def is_directory_of_logits(text: str) -> bool:
    return (Path(text).expanduser() / INDEX).is_file()


def open_teacher(text: str, checkpoint: str | None, data: Data, device: torch.device) -> Teacher:
    """The teacher that `--teacher` names, for the images in `data`.

    Raises:
        InputError: where there is none, or it knows other classes or another dataset.
    """
    directory = Path(text).expanduser()
    if is_directory_of_logits(text):
        if checkpoint is not None:
            raise InputError("teacher_checkpoint holds weights of a timm model, and logits need none; leave it out")
        return LogitsTeacher(Logits.opened(directory, data), data)
    return network_teacher(text, checkpoint, data, device)


def network_teacher(text: str, checkpoint: str | None, data: Data, device: torch.device) -> NetworkTeacher:
    """The training of ours, or the timm model, that `text` names.

    Raises:
        InputError: as `open_teacher`.
    """
    directory = Path(text).expanduser()
    if directory.is_dir():
        if checkpoint is not None:
            raise InputError("teacher_checkpoint holds weights of a timm model, and a run has its own; leave it out")
        network, size = _trained(directory, data)
        return NetworkTeacher(text, network.to(device), data.image_size, size)
    return _of_timm(text.removeprefix("timm:"), checkpoint, data, device)


def _trained(directory: Path, data: Data) -> tuple[nn.Module, int]:
    """The network of a training of ours, and its image size."""
    if not (directory / PARAMS).is_file():
        raise InputError(f"{directory} is no teacher: it holds neither a training ({PARAMS}) nor logits ({INDEX})")
    params = read_params(directory)
    found = newest_checkpoint(directory)
    if "indices" not in params or found is None:
        raise InputError(f"{directory} is no teacher: it holds no checkpoint of a training")
    _same_classes(str(directory), described_classes(directory), data)
    structure = structure_from_json(read_model_spec(directory))
    network = build_network(structure, data.num_classes, options=options_of_training(params))
    tensors = found[0]
    prefix = "ema/" if any(name.startswith("ema/") for name in tensors) else "model/"
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    load_whole(network, state, f"the weights in {directory} do not fit the teacher")
    return network, int(params.get("image_size") or data.image_size)


def _of_timm(name: str, checkpoint: str | None, data: Data, device: torch.device) -> NetworkTeacher:
    import timm

    if not timm.is_model(name):
        raise InputError(
            f"{name} is no teacher: neither a directory (of a training, or of logits) nor the name of a timm model"
        )
    if checkpoint is None:
        raise InputError(f"the teacher {name} needs weights: name their file with teacher_checkpoint")
    state = read_tensors(Path(checkpoint).expanduser())
    network = timm.create_model(name, pretrained=False, num_classes=data.num_classes)
    cfg: Any = network.pretrained_cfg
    classifiers = cfg.get("classifier")
    first = classifiers if isinstance(classifiers, str) else next(iter(classifiers or ()), None)
    outputs = state.get(f"{first}.weight")
    if outputs is not None and len(outputs) != data.num_classes:
        raise InputError(
            f"the teacher in {checkpoint} tells {len(outputs)} classes apart, the dataset {data.name} has "
            f"{data.num_classes}; train the teacher on these classes first"
        )
    load_whole(network, state, f"the weights in {checkpoint} do not fit the teacher")
    size = int(cfg.get("input_size", (3, data.image_size, data.image_size))[-1])
    return NetworkTeacher(name, network.to(device), data.image_size, size, tuple(cfg["mean"]), tuple(cfg["std"]))


def _same_classes(name: str, theirs: Any, data: Data) -> None:
    if not isinstance(theirs, list):
        raise InputError(f"the teacher in {name} does not say which classes it knows ({DATA} is missing or damaged)")
    if list(data.class_names) != theirs:
        other = next((ours for ours in data.class_names if ours not in theirs), None)
        raise InputError(
            f"the teacher in {name} knows {len(theirs)} classes, which are not the {data.num_classes} of {data.name}"
            + (f" (it does not know {other!r})" if other is not None else " (or they come in another order)")
        )
