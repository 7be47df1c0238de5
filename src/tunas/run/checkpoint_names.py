"""What the checkpoints of a run directory are called: by the steps that were done."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"checkpoint-(\d{10})\.safetensors")


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return directory / f"checkpoint-{step:010d}.safetensors"


def step_of(checkpoint: Path) -> int:
    """Steps that had been done when one of `checkpoints` was written."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a run directory, the newest first."""
    return sorted((entry for entry in directory.glob("checkpoint-*") if _NAME.fullmatch(entry.name)), reverse=True)
