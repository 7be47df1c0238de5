"""Weights from files: ours, and timm's of the same architecture. Nothing is unpickled but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn import Network, build_network
from tunas.nn.timm_weights import REFERENCES, from_timm, timm_options
from tunas.nn.weight_files import load_whole, read_tensors
from tunas.space import Architecture

AVERAGED, PLAIN = "ema/", "model/"
"""What the names of a training's weights begin with in its checkpoints."""


def own_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state dict of a network of this package that a file holds, averaged where an average was kept; None where
    there is none."""
    for prefix in (AVERAGED, PLAIN):
        if found := {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}:
            return found
    is_ours = bool(tensors) and next(iter(tensors)).startswith(("tower.", "head."))
    return dict(tensors) if is_ours else None


def timm_name(architecture: Architecture) -> str:
    """timm's plain model of the same architecture.

    Raises:
        InputError: where there is none.
    """
    for name, ours in REFERENCES.items():
        if ours == architecture.space.name:
            return name
    raise InputError(f"timm has no model that is known to be {architecture.space.name}; name it with --timm_model")


def load_weights(network: Network, path: Path, architecture: Architecture, timm_model: str | None) -> Network:
    """A network with the weights of a checkpoint: `network` for one of ours, one built as timm does for a timm
    checkpoint.

    Args:
        timm_model: what the checkpoint is of in timm; timm's plain model of the architecture where None.

    Raises:
        InputError: where the file cannot be read or does not fit the architecture.
    """
    tensors = read_tensors(path)
    ours = own_weights(tensors)
    if ours is None:
        if not isinstance(network, Network):
            raise InputError(f"{path} holds no weights of {architecture.space.name}")
        num_classes = network.head.classifier.out_channels
        network = build_network(architecture, num_classes, options=timm_options(timm_model or timm_name(architecture)))
        ours = from_timm(tensors, architecture)
    load_whole(network, ours, f"{path} does not fit {architecture.space.name}")
    return network


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Loads the tensors under `prefix` into `module`.

    Raises:
        InputError: where names or shapes do not fit.
    """
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    load_whole(module, state, "the checkpoint does not fit this architecture")
