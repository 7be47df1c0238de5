"""What is exported: a network with its weights, the images of its training and evaluation, and where it is from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from tunas.data.config import DataConfig
from tunas.data.loader import Data
from tunas.data.opening import open_data
from tunas.errors import InputError
from tunas.export.config import ExportConfig
from tunas.nn import Network, build_network
from tunas.nn.timm_weights import options_of_training
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.directory import DATA, PARAMS, RESULT, read_json_object, read_params
from tunas.space import Architecture, get_space
from tunas.space.layers import Tower, scale_filters
from tunas.train.trained import trained_weights
from tunas.train.weights import load_weights


@dataclass(frozen=True)
class Source:
    """A network to export.

    Args:
        network: in eval mode, on the host; takes normalised images `[N, 3, S, S]`.
        architecture: what it is.
        data: images to calibrate and check on.
        train_split, eval_split: of `data`.
        facts: where it is from, for `model.json`.
        cost_model: what its training was priced with; None where with nothing.
    """

    network: Network
    architecture: Architecture
    data: Data
    train_split: str
    eval_split: str
    facts: dict[str, Any] = field(default_factory=dict)
    cost_model: str | None = None
    filters_multiplier: float = 1.0


def opened_source(config: ExportConfig) -> Source:
    """The network that `config` names.

    Raises:
        InputError: where the directory holds no finished training, its images are gone, or the weights do not fit.
    """
    if config.checkpoint_dir is not None:
        return _of_run(Path(config.checkpoint_dir).expanduser(), config)
    return _of_checkpoint(config)


def _of_run(directory: Path, config: ExportConfig) -> Source:
    params = training_params(directory, config.allow_unfinished)
    weights = trained_weights(directory, config.which)
    given = {name: value for name in DATA_FIELDS if (value := getattr(config, name)) != DATA_DEFAULTS[name]}
    of_run = {name: params[name] for name in DATA_FIELDS if name in params}
    data = open_data(DataConfig(**{**of_run, "num_workers": 0, **given}), run_dir=directory, describe=False)
    trained_on = read_json_object(directory / DATA).get("class_names", []) if (directory / DATA).is_file() else []
    if trained_on and list(data.class_names) != trained_on:
        raise InputError(
            f"the {data.num_classes} classes of the images are not the {len(trained_on)} that {directory} was trained "
            f"on; give --dataset_dir of the images with those"
        )
    network, architecture = network_of(params, weights.tensors, data.num_classes)
    facts = {"run": str(directory), "which": weights.which, "step": weights.step, "steps": params["steps"]}
    result = read_json_object(directory / RESULT) if (directory / RESULT).is_file() else {}
    facts |= {name: result[name] for name in ("accuracy", "split", "seed", "git_commit") if name in result}
    return Source(
        network,
        architecture,
        data,
        params["train_split"],
        params["eval_split"],
        facts,
        params.get("cost_model"),
        params.get("filters_multiplier", 1.0),
    )


DATA_FIELDS = tuple(entry.name for entry in dataclasses.fields(DataConfig))
DATA_DEFAULTS = {entry.name: entry.default for entry in dataclasses.fields(DataConfig)}


def training_params(directory: Path, allow_unfinished: bool = False) -> dict[str, Any]:
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
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint does not fit {params['ssd']} with {num_classes} classes: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from None
    return network.eval().requires_grad_(False), architecture


def _of_checkpoint(config: ExportConfig) -> Source:
    assert config.checkpoint is not None and config.ssd is not None
    architecture = get_space(config.ssd).architecture(config.indices)
    data = open_data(DataConfig(**{name: getattr(config, name) for name in DATA_FIELDS}), describe=False)
    network = build_network(architecture, data.num_classes, options=options_of_training({"padding": config.padding}))
    network = load_weights(network, Path(config.checkpoint).expanduser(), architecture, config.timm_model)
    split = "test" if "test" in data.splits else "valid"
    facts = {"checkpoint": config.checkpoint}
    return Source(network.eval().requires_grad_(False), architecture, data, "train", split, facts)
