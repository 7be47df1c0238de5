"""Weights that a training starts from (`--init_from`): a training's, timm's, also in the space around one of its
models, or a search's shared ones."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from tunas.errors import InputError
from tunas.nn import SuperNet, build_network
from tunas.nn.timm_space import around_of
from tunas.nn.timm_weights import from_timm
from tunas.nn.weight_files import misfit, read_tensors
from tunas.run.checkpoint import DamagedCheckpoint, load_checkpoint, newest_checkpoint
from tunas.run.checkpoint_names import checkpoints
from tunas.run.directory import MODEL_SPEC, PARAMS, described_classes, kept_params, read_model_spec, read_params
from tunas.space import Architecture, Tower, structure_from_json
from tunas.space.layers import scale_filters
from tunas.task.task import Task
from tunas.train.config import TrainConfig
from tunas.train.trained import trained_weights
from tunas.train.weights import own_weights, timm_name

SHARED = "weights"
"""Name of the shared weights in a checkpoint of a search."""
HEAD = "head."
"""What the names of the classifier's weights begin with."""


@dataclasses.dataclass(frozen=True)
class GivenWeights:
    """Weights to start from.

    Args:
        tensors: state dict of a network of the architecture; its classifier may have another size.
        timm_model: what they come from in timm, if they do.
        source: the run directory that they come from, if they do.
    """

    tensors: dict[str, Tensor]
    timm_model: str | None = None
    source: Path | None = None


def initialised(
    config: TrainConfig, architecture: Architecture, task: Task, directory: Path
) -> tuple[TrainConfig, dict[str, Tensor] | None]:
    """(config with the timm model that the weights come from, weights to start from).

    The latter is None where there are none to start from, or the training in `directory` has begun.

    Raises:
        InputError: where the weights cannot be read or do not fit the architecture.
    """
    if config.init_from is None:
        return config, None
    if checkpoints(directory):
        return as_trained(config, directory), None
    path = Path(config.init_from).expanduser()
    found = found_weights(path, config, architecture)
    _check_padding(found, config, path)
    wanted = _wanted(config, architecture, task)
    tensors = _fitting(found.tensors, wanted, path, architecture, _other_class(found, task))
    return dataclasses.replace(config, timm_model=found.timm_model), tensors


def as_trained(config: TrainConfig, directory: Path) -> TrainConfig:
    """`config` with what decides how the network of the training in `directory` is built."""
    if config.checkpoint is not None or not (directory / PARAMS).exists():
        return config
    params = read_params(directory)
    names = ("init_from", "timm_model", "padding") if config.init_from is None else ("timm_model",)
    kept: dict[str, Any] = {name: params.get(name, getattr(config, name)) for name in names}
    return dataclasses.replace(config, **kept)


@contextlib.contextmanager
def advising_init_from(directory: Path, epochs: float) -> Iterator[None]:
    """Adds to the refusal of a run with other parameters how to train on for more epochs, where they differ."""
    try:
        yield
    except InputError as error:
        kept = kept_params(directory).get("epochs")
        if kept is None or kept == epochs:
            raise
        raise InputError(
            f"{error}. Its learning rate falls to 0 after {kept:g} epochs; more of them are a new run: "
            f"tunas train {quote(f'--from={directory}')} {quote(f'--init_from={directory}')} --epochs=… "
            f"--checkpoint_dir=…"
        ) from None


def found_weights(path: Path, config: TrainConfig, architecture: Architecture) -> GivenWeights:
    """What lies at `path`.

    Raises:
        InputError: where it is none of the things that weights can come from.
    """
    if not path.exists():
        raise InputError(f"--init_from: there is no {path}")
    if path.is_dir():
        if not (path / PARAMS).is_file() or not (path / MODEL_SPEC).is_file():
            raise InputError(f"--init_from: {path} is the directory of no run ({PARAMS} or {MODEL_SPEC} is missing)")
        newest = newest_checkpoint(path)
        if newest is None:
            raise InputError(f"--init_from: there is no checkpoint in {path} yet")
        if SHARED in newest[0]:
            return GivenWeights(_inherited(newest[0][SHARED], path, config, architecture), source=path)
        return GivenWeights(trained_weights(path).tensors, _timm_model_of(path), path)
    return _from_file(path, config, architecture)


def _from_file(path: Path, config: TrainConfig, architecture: Architecture) -> GivenWeights:
    """The weights in a file: of a search, of a training, or timm's."""
    try:
        tensors, _ = load_checkpoint(path)
    except DamagedCheckpoint:  # or not written by us
        tensors = read_tensors(path)
    if SHARED in tensors:
        return GivenWeights(_inherited(tensors[SHARED], path.parent, config, architecture), source=path.parent)
    if (ours := own_weights(tensors)) is not None:
        source = path.parent if (path.parent / PARAMS).is_file() else None
        return GivenWeights(ours, _timm_model_of(path.parent) if source else None, source)
    if not isinstance(architecture.structure, Tower):
        raise InputError(f"--init_from: {path} holds no weights of {architecture.space.name}")
    if config.filters_multiplier != 1:
        raise InputError("--init_from takes a timm checkpoint for networks of full width, without --filters_multiplier")
    if (around := around_of(architecture.space.structure)) is not None:
        return GivenWeights(around.inherited(architecture, tensors))
    return GivenWeights(from_timm(tensors, architecture), config.timm_model or timm_name(architecture))


def _timm_model_of(run: Path) -> str | None:
    """The timm model as which the network of a training is built, if it is."""
    params = read_params(run)
    return params.get("timm_model") if params.get("init_from") else None


def _inherited(shared: Tensor, run: Path, config: TrainConfig, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of `architecture` out of those that the search in `run` has shared."""
    if config.filters_multiplier != 1:
        raise InputError("the shared weights of a search are for its own widths: leave out --filters_multiplier")
    params = read_params(run)
    if architecture.space.structure != structure_from_json(read_model_spec(run)):
        raise InputError(
            f"--init_from: the search in {run} was of {params.get('ssd')}, the architecture is of "
            f"{architecture.space.name}"
        )
    classes = {"num_classes": int(params["num_classes"])} if "num_classes" in params else {}
    own = params.get("aggressive_sharing", True)
    supernet = SuperNet(architecture.space, **classes, aggressive_sharing=own)  # type: ignore[arg-type]
    flat = supernet.flatten()
    if flat.shape != shared.shape:
        raise InputError(f"--init_from: the checkpoint of the search in {run} does not fit {architecture.space.name}")
    with torch.no_grad():
        flat.copy_(shared)
    return dict(supernet.extract(architecture).state_dict())


def _check_padding(found: GivenWeights, config: TrainConfig, path: Path) -> None:
    """Refuses weights of a run whose convolutions padded otherwise."""
    if found.source is None or found.timm_model is not None:
        return
    padding = read_params(found.source).get("padding", "symmetric")
    if padding != config.padding:
        raise InputError(f"--init_from: the weights in {path} were learned with --padding={padding}; give the same")


def _wanted(config: TrainConfig, architecture: Architecture, task: Task) -> dict[str, Tensor]:
    """The state dict that the network of the training has, without numbers in it."""
    with torch.device("meta"):
        if not isinstance(architecture.structure, Tower):
            return dict(build_network(architecture).state_dict())
        tower = scale_filters(architecture.structure, config.filters_multiplier)
        return dict(build_network(tower, **task.network_arguments).state_dict())


def _other_class(found: GivenWeights, task: Task) -> str | None:
    """The first class that the classifier of a run does not know under the same number; None where it knows all, or
    nothing is known of its classes."""
    if found.source is None or task.data is None:
        return None
    theirs = described_classes(found.source)
    if not isinstance(theirs, list) or len(theirs) != len(task.data.class_names):
        return None
    return next((name for name, other in zip(task.data.class_names, theirs, strict=True) if name != other), None)


def _fitting(
    tensors: dict[str, Tensor],
    wanted: dict[str, Tensor],
    path: Path,
    architecture: Architecture,
    other_class: str | None,
) -> dict[str, Tensor]:
    """What of `tensors` the network takes: everything, but for a classifier of another size or of other classes."""

    heads = [name for name in wanted if name.startswith(HEAD) and name in tensors]
    other = [name for name in heads if tensors[name].shape != wanted[name].shape]
    if (why := misfit(tensors, wanted | {name: tensors[name] for name in other})) is not None:
        raise InputError(f"--init_from: {path} does not fit {architecture.space.name}: {why}")
    why = None if other_class is None else f"{path} knows other classes, or another order of them ({other_class!r})"
    if other:
        theirs, ours = (len(state[other[0]]) for state in (tensors, wanted))
        why = f"{path} tells {theirs} classes apart and this training {ours}"
    if why is None:
        return tensors
    print(f"{why}: its classifier is replaced by a fresh one", file=sys.stderr, flush=True)
    return {name: value for name, value in tensors.items() if not name.startswith(HEAD)}
