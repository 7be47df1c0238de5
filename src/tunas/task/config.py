"""What the command line says about the task. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from tunas.data.config import DataConfig


@dataclass(frozen=True)
class TaskConfig(DataConfig):
    """What is learned: the labelled images of `DataConfig`."""
