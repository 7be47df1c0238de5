"""Checkpoints: one safetensors file each, complete or absent, with a checksum over all that it holds.

The file's metadata carries the numbers (step, event-file sizes, …) as JSON and the checksum. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tunas.errors import DivergedError, InputError
from tunas.files import write_bytes, writing_to
from tunas.run.checkpoint_names import checkpoint_path, checkpoints, step_of
from tunas.run.device import World
from tunas.run.events import cut_back

KEPT = 3
"""How many checkpoints stay."""


class DamagedCheckpoint(Exception):
    """The file is truncated, altered or not a checkpoint."""


def save_checkpoint(
    directory: Path, step: int, tensors: Mapping[str, Tensor], numbers: dict[str, Any], kept: int = KEPT
) -> Path:
    """Writes the checkpoint of `step` and removes all but the newest `kept`.

    Raises:
        InputError, DivergedError: as `write_checkpoint`; earlier checkpoints are untouched.
    """
    path = checkpoint_path(directory, step)
    write_checkpoint(path, step, tensors, numbers)
    with writing_to(directory):
        for old in checkpoints(directory)[kept:]:
            old.unlink(missing_ok=True)
    return path


def write_checkpoint(path: Path, step: int, tensors: Mapping[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes one checkpoint file.

    Args:
        tensors: name -> tensor on any device; kept in its dtype.
        numbers: JSON values.

    Raises:
        InputError: where the disk is full or the directory cannot be written.
        DivergedError: where a number is not finite, so that the checkpoint before stays the one to go on from.
    """
    on_host = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    for name, tensor in on_host.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DivergedError(
                f"{name} is not finite after step {step - 1}; the last checkpoint is kept: lower the learning rate "
                f"and start a new run"
            )
    text = json.dumps({**numbers, "step": step, "random": random_states()}, sort_keys=True)
    payload = save(on_host, {"numbers": text, "checksum": _checksum(on_host, text)})
    with writing_to(path.parent):
        write_bytes(path, payload)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the host, numbers) of a checkpoint.

    Raises:
        DamagedCheckpoint: where the file does not hold what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        text = metadata["numbers"]
        if metadata["checksum"] != _checksum(tensors, text):
            raise DamagedCheckpoint(f"{path}: the checksum does not match")
        numbers = json.loads(text)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DamagedCheckpoint(f"{path}: {error}") from None
    return tensors, numbers


def newest_checkpoint(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """(tensors, numbers, warnings) of the newest checkpoint that is whole; None where there is none.

    Damaged ones are passed over with a warning each.

    Raises:
        InputError: where there are checkpoints but every one is damaged.
    """
    warnings = []
    for path in checkpoints(directory):
        try:
            tensors, numbers = load_checkpoint(path)
        except DamagedCheckpoint as error:
            warnings.append(f"passing over a damaged checkpoint: {error}")
            continue
        return tensors, numbers, warnings
    if warnings:
        raise InputError(
            f"every checkpoint in {directory} is damaged ({len(warnings)} of them); delete them to start again"
        )
    return None


def resumed_checkpoint(directory: Path, world: World) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, numbers) to go on from, or None for a fresh start; event files are cut back to that moment.

    The first process reads, tidies up and hands them to the others, so that only it needs to see the directory.
    """
    found = world.from_main(lambda: _resumed(directory))
    if found is not None:
        restore_random_states(found[1]["random"])
    return found


def random_states() -> dict[str, Any]:
    """States of the global random generators of Python, NumPy and torch, as JSON values.

    A run itself draws from generators keyed by seed and step (`tunas.run.session.generator`), and data by position;
    these are for code of the user's that draws from the global ones.
    """
    version, python, gauss = random.getstate()
    name, keys, *numpy_rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": [version, list(python), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *numpy_rest],
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in cuda],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Sets the global random generators to what `random_states` returned; CUDA's where there are as many devices."""
    version, python, gauss = states["python"]
    random.setstate((version, tuple(python), gauss))
    name, keys, *numpy_rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *numpy_rest))
    torch.set_rng_state(_from_hex(states["torch"]))
    if states["cuda"] and torch.cuda.is_available() and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all([_from_hex(state) for state in states["cuda"]])


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _from_hex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def _resumed(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `resumed_checkpoint` hands out, in the first process, which also removes what is newer."""
    found = newest_checkpoint(directory)
    warnings = found[2] if found else []
    step = found[1]["step"] if found else -1
    with writing_to(directory):
        for path in checkpoints(directory):
            if step_of(path) > step:
                path.unlink()
        for path in directory.glob(".*.partial"):  # of a write that was killed
            path.unlink()
        warnings += cut_back(directory, found[1]["events"] if found else {})
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return found[:2] if found else None


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of the tensors, whatever their order in the file, and of the numbers."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"|{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
