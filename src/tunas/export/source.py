"""What is exported: a network with its weights, the examples of its training and evaluation, and where it is from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from tunas.data.config import DataConfig
from tunas.data.identity import CLASS_NAMES
from tunas.data.loader import Data
from tunas.data.opening import open_data
from tunas.errors import InputError
from tunas.export.config import ExportConfig
from tunas.export.inputs import ImageInputs, Inputs, TaskInputs
from tunas.nn import Network, build_network
from tunas.nn.timm_weights import options_of_training
from tunas.nn.weight_files import load_whole
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.directory import PARAMS, RESULT, described_classes, read_json_object, read_params
from tunas.space import Architecture, get_space
from tunas.space.layers import Tower, scale_filters
from tunas.task.opening import named_task
from tunas.task.task import Task
from tunas.train.trained import trained_weights
from tunas.train.weights import load_weights

DATA_FIELDS = tuple(entry.name for entry in dataclasses.fields(DataConfig))
DATA_DEFAULTS = {entry.name: entry.default for entry in dataclasses.fields(DataConfig)}


@dataclass(frozen=True)
class Source:
    """A network to export.

    Args:
        network: in eval mode, on the host; takes normalised images `[N, 3, S, S]`, or what its task prepares.
        architecture: what it is.
        inputs: what it takes, and examples to calibrate and check on.
        facts: where it is from, for `model.json`.
        cost_model: what its training was priced with; None where with nothing.
    """

    network: Network
    architecture: Architecture
    inputs: Inputs
    facts: dict[str, Any] = field(default_factory=dict)
    cost_model: str | None = None
    filters_multiplier: float = 1.0


def opened_source(config: ExportConfig, task: Task | None) -> Source:
    """The network that `config` names.

    Args:
        task: what it learned, where that was given in Python.

    Raises:
        InputError: where the directory holds no finished training, its examples are gone, or the weights do not fit.
    """
    if config.checkpoint_dir is not None:
        return _of_run(Path(config.checkpoint_dir).expanduser(), config, task)
    return _of_checkpoint(config, task)


def _of_run(directory: Path, config: ExportConfig, task: Task | None) -> Source:
    """The network of a training."""
    params = training_params(directory, config.allow_unfinished)
    weights = trained_weights(directory, config.which)
    splits = (params["train_split"], params["eval_split"])
    inputs: ImageInputs | TaskInputs
    if task is not None or config.task is not None or params.get("task") or CLASS_NAMES not in params:
        inputs = _of_task(_named_again(directory, params, config, task), config, *splits)
        classes = inputs.task.network_arguments.get("num_classes", 0)
    else:
        data = _images_of(directory, params, config)
        inputs, classes = ImageInputs(data, *splits, config.input or "bytes"), data.num_classes
    network, architecture = network_of(params, weights.tensors, classes)
    facts = {"run": str(directory), "which": weights.which, "step": weights.step, "steps": params["steps"]}
    result = read_json_object(directory / RESULT) if (directory / RESULT).is_file() else {}
    reached = ("accuracy", inputs.quality_name, "split", "seed", "git_commit")
    facts |= {name: result[name] for name in reached if name in result}
    return Source(network, architecture, inputs, facts, params.get("cost_model"), params.get("filters_multiplier", 1.0))


def _images_of(directory: Path, params: dict[str, Any], config: ExportConfig) -> Data:
    """The images of a training, where it found them or where `config` says that they are now."""
    given = {name: value for name in DATA_FIELDS if (value := getattr(config, name)) != DATA_DEFAULTS[name]}
    of_run = {name: params[name] for name in DATA_FIELDS if name in params}
    data = open_data(DataConfig(**{**of_run, "num_workers": 0, **given}), run_dir=directory, describe=False)
    trained_on = described_classes(directory)
    if trained_on and list(data.class_names) != trained_on:
        raise InputError(
            f"the {data.num_classes} classes of the images are not the {len(trained_on)} that {directory} was trained "
            f"on; give --dataset_dir of the images with those"
        )
    return data


def _named_again(directory: Path, params: dict[str, Any], config: ExportConfig, task: Task | None) -> Task:
    """The task of a training: the given one, or else the one that the training was told by name."""
    name = config.task or params.get("task")
    if task is not None:
        return task
    if name is None:
        raise InputError(
            f"{directory} learned a task that it was given in Python (dataset: {params.get('dataset')}); name it with "
            f"--task=file.py:name, or give it to tunas.export(config, task)"
        )
    return named_task(name)


def _of_task(task: Task, config: ExportConfig, train_split: str, eval_split: str) -> TaskInputs:
    if config.input is not None:
        raise InputError("--input is about images, and this network takes what its task prepares; leave it out")
    return TaskInputs(task.with_workers(0), train_split, eval_split)


def training_params(directory: Path, allow_unfinished: bool) -> dict[str, Any]:
    """`params.json` of a training that is finished, or of one that is not where that is allowed.

    Raises:
        InputError: where there is no training, or it is a search, or not finished.
    """
    if not (directory / PARAMS).is_file():
        raise InputError(f"{directory} holds no training (no {PARAMS}); name the --checkpoint_dir of `tunas train`")
    params = read_params(directory)
    if "replicas" in params:
        raise InputError(
            f"{directory} is a search, whose weights are shared by all architectures; train what it found "
            f"(tunas train {quote(f'--from={directory}')}) and export that"
        )
    if "train_split" not in params or "steps" not in params:
        raise InputError(f"{directory / PARAMS} is not that of a training")
    found = newest_checkpoint(directory)
    done = found[1]["step"] if found else 0
    if done < params["steps"] and not allow_unfinished:
        raise InputError(
            f"the training in {directory} is at step {done} of {params['steps']}; let it end (the same command goes "
            f"on), or export what there is with --allow_unfinished"
        )
    return params


def network_of(params: dict[str, Any], tensors: dict[str, Any], num_classes: int) -> tuple[Network, Architecture]:
    """The network of a training with its weights, in eval mode; and what it is."""
    architecture = get_space(params["ssd"]).architecture(params["indices"])
    built: Any = architecture
    if isinstance(architecture.structure, Tower):
        built = scale_filters(architecture.tower, params.get("filters_multiplier", 1.0))
    network = build_network(built, num_classes, options=options_of_training(params))
    load_whole(network, tensors, f"the checkpoint does not fit {params['ssd']} with {num_classes} classes")
    return network.eval().requires_grad_(False), architecture


def _of_checkpoint(config: ExportConfig, task: Task | None) -> Source:
    """The network whose weights are in a file."""
    assert config.checkpoint is not None and config.ssd is not None
    if task is None and config.task is not None:
        task = named_task(config.task)
    architecture = get_space(config.ssd).architecture(config.indices)
    inputs: ImageInputs | TaskInputs
    if task is not None:
        inputs = _of_task(task, config, "train", _checked_split(task.splits))
        classes = task.network_arguments.get("num_classes", 0)
    else:
        data = open_data(DataConfig(**{name: getattr(config, name) for name in DATA_FIELDS}), describe=False)
        inputs = ImageInputs(data, "train", _checked_split(data.splits), config.input or "bytes")
        classes = data.num_classes
    network = build_network(architecture, classes, options=options_of_training({"padding": config.padding}))
    network = load_weights(network, Path(config.checkpoint).expanduser(), architecture, config.timm_model)
    facts = {"checkpoint": config.checkpoint}
    return Source(network.eval().requires_grad_(False), architecture, inputs, facts)


def _checked_split(there: Collection[str]) -> str:
    """What weights are checked on of which no training is known."""
    return "test" if "test" in there else "valid"
