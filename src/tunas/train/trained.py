"""The weights that a training came to, and the network that has them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tunas.errors import InputError
from tunas.nn import build_network
from tunas.nn.timm_weights import options_of_training
from tunas.run.checkpoint import DamagedCheckpoint, load_checkpoint, newest_checkpoint
from tunas.run.directory import MODEL_SPEC, read_model_spec, read_params
from tunas.space import Tower, get_space, structure_from_json
from tunas.train.scoring import best_checkpoint
from tunas.train.weights import AVERAGED, PLAIN

Which = Literal["best", "last", "ema"]


@dataclass(frozen=True)
class TrainedWeights:
    """Weights of a training.

    Args:
        tensors: state dict of the network.
        which: `best`, `last` or `ema`.
        step: steps done when they were taken.
    """

    tensors: dict[str, Tensor]
    which: Which
    step: int


def trained_weights(directory: Path, which: Which | None = None) -> TrainedWeights:
    """Weights of the training in `directory`.

    Args:
        which: `best`, those with the best held-out accuracy, averaged where an average was kept; `last`, the newest;
            `ema`, the newest average. Where None, the newest average if there is one, otherwise the newest.

    Raises:
        InputError: where there are none.
    """
    if which == "best":
        path = best_checkpoint(directory)
        try:
            tensors, numbers = load_checkpoint(path)
        except DamagedCheckpoint as error:
            raise InputError(f"the best weights are damaged ({error}); --which=last takes the newest") from None
    else:
        found = newest_checkpoint(directory)
        if found is None:
            raise InputError(f"there is no checkpoint in {directory}; train first, or give --checkpoint FILE")
        tensors, numbers, _ = found
    is_averaged = any(name.startswith(AVERAGED) for name in tensors)
    if which == "ema" and not is_averaged:
        raise InputError(f"the training in {directory} kept no average of its weights; that takes --ema_decay")
    prefix = AVERAGED if is_averaged and which != "last" else PLAIN
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not weights:
        raise InputError(f"the checkpoints in {directory} are not those of a training")
    return TrainedWeights(weights, which or ("ema" if is_averaged else "last"), numbers["step"])


def load_network(run: str | os.PathLike[str], which: Which | None = None) -> Any:
    """The network that a training came to, in eval mode on the host.

    Args:
        run: the directory of a training.
        which: `best`, `last` or `ema`, as `--which` of `tunas train`.

    Returns:
        A module; of a tower a `Network`, which gives logits `[N, num_classes]` of normalised images `[N, 3, H, W]`.
        That of a space of one's own with a network of its own needs the code of that space.

    Raises:
        InputError: where the directory holds no training, or no such weights.
    """
    directory = Path(run).expanduser()
    if not (directory / MODEL_SPEC).is_file():
        raise InputError(f"{directory} holds no training: {MODEL_SPEC} is missing")
    weights = trained_weights(directory, which)
    network = _built(directory, weights.tensors)
    network.load_state_dict(weights.tensors)
    return network.eval()


def _built(directory: Path, tensors: dict[str, Tensor]) -> Any:
    """The network that the training in `directory` built: a tower from the run alone, another model by its space."""
    params = read_params(directory)
    structure = structure_from_json(read_model_spec(directory), stand_ins=True)
    if not isinstance(structure, Tower):
        return build_network(get_space(str(params["ssd"])).architecture(str(params["indices"])))
    return build_network(structure, len(tensors["head.classifier.weight"]), options=options_of_training(params))
