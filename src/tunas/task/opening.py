"""From a configuration to its task."""

from __future__ import annotations

from pathlib import Path

from tunas.recipe.defaults import LABEL_SMOOTHING
from tunas.task.config import TaskConfig
from tunas.task.images import ImageClassification
from tunas.task.task import Task


def open_task(config: TaskConfig, run_dir: Path | None = None) -> Task:
    """The task that `config` describes, for a run in `run_dir`.

    Raises:
        InputError: where it cannot be opened.
    """
    smoothing = getattr(config, "label_smoothing", LABEL_SMOOTHING)
    return ImageClassification(config, run_dir=run_dir, label_smoothing=smoothing)
