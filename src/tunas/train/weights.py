"""Weights from files: ours, and timm's of the same architecture. Nothing is unpickled but tensors."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tunas.errors import InputError
from tunas.nn import Network, build_network
from tunas.nn.timm_weights import REFERENCES, from_timm, timm_options
from tunas.space import Architecture

WRAPPERS = ("module.", "_orig_mod.")
"""What stands before the names of a network that was wrapped when it was saved."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a torch file that holds nothing but tensors.

    Raises:
        InputError: where the file cannot be read as either.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain settings, which timm's train.py adds
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a checkpoint that can be read safely: {str(error).splitlines()[0]}") from None
    except Exception as error:  # pickle raises its own kinds for files that hold more than tensors
        raise InputError(f"{path} holds more than tensors and is not loaded: {str(error).splitlines()[0]}") from None
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} does not hold a state dict (names and tensors)")
    return {_plain_name(name): value for name, value in state.items()}


def _plain_name(name: str) -> str:
    """Without what DistributedDataParallel and torch.compile put before it."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def is_ours(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of a network of this package."""
    return bool(tensors) and next(iter(tensors)).startswith(("tower.", "head."))


def timm_name(architecture: Architecture) -> str:
    """timm's plain model of the same architecture.

    Raises:
        InputError: where there is none.
    """
    for name, ours in REFERENCES.items():
        if ours == architecture.space.name:
            return name
    raise InputError(f"timm has no model that is known to be {architecture.space.name}; name it with --timm_model")


def load_weights(network: Network, path: Path, architecture: Architecture, timm_model: str | None = None) -> Network:
    """A network with the weights of a checkpoint: `network` for one of ours, one built as timm does for a timm
    checkpoint.

    Raises:
        InputError: where the file cannot be read or does not fit the architecture.
    """
    tensors = read_tensors(path)
    for prefix in ("ema/", "model/", ""):
        ours = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if is_ours(ours):
            break
    else:
        num_classes = network.head.classifier.out_channels
        network = build_network(architecture, num_classes, options=timm_options(timm_model or timm_name(architecture)))
        ours = from_timm(tensors, architecture)
    try:
        network.load_state_dict(ours)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit {architecture.space.name}: {str(error).splitlines()[-1].strip()}"
        ) from None
    return network
