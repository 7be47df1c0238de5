"""What the command line says about the task. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from tunas.data.config import DataConfig

LABEL_SMOOTHING = 0.1
"""Share of the probability spread over all classes in the labels that are learned from
(docs/algorithm.md#weight-training)."""


@dataclass(frozen=True)
class TaskConfig(DataConfig):
    """What is learned: the labelled images of `DataConfig`, or another task."""

    task: str | None = None
    """A task of your own: module:name or file.py:name of a tunas.Task, or of a function that returns one. The labelled
    images that dataset_dir holds where left out."""
