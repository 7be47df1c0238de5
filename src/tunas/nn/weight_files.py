"""Weights in files, ours and others'. Nothing is unpickled but tensors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tunas.errors import InputError

WRAPPERS = ("module.", "_orig_mod.")
"""What stands before the names of a network that was wrapped when it was saved."""
_COUNTER = "num_batches_tracked"
"""Buffer of a batch norm that old files lack, and torch does without."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a torch file that holds nothing but tensors.

    Raises:
        InputError: where the file cannot be read as either.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a file of weights in it")
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # plain settings, which timm's train.py adds
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a checkpoint that can be read safely: {str(error).splitlines()[0]}") from None
    except Exception as error:  # pickle raises its own kinds for files that are none, or hold more than tensors
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds more than tensors ({found[1]})" if found else "is no file of weights, or holds more than tensors"
        raise InputError(
            f"{path} {what} and is not loaded; give a .safetensors file, or a state dict that torch.save wrote"
        ) from None
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


def misfit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """The first thing that keeps a network with the state dict `wanted` from taking `tensors`; None where nothing
    does."""
    missing = sorted(wanted.keys() - tensors.keys())
    if missing := [name for name in missing if not name.endswith(_COUNTER)]:
        return f"{missing[0]} is missing"
    if unknown := sorted(tensors.keys() - wanted.keys()):
        return f"{unknown[0]} has no place in it"
    for name, value in tensors.items():
        if value.shape != wanted[name].shape:
            return f"{name} is {tuple(value.shape)} there and {tuple(wanted[name].shape)} here"
    return None


def load_whole(network: nn.Module, tensors: Mapping[str, Tensor], refusal: str) -> None:
    """Loads a whole state dict.

    Args:
        refusal: begins the sentence of the refusal, which ends in what does not fit.

    Raises:
        InputError: where names or shapes do not fit.
    """
    if (why := misfit(tensors, network.state_dict())) is not None:
        raise InputError(f"{refusal}: {why}")
    network.load_state_dict(tensors)
