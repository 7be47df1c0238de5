"""From a configuration to its task."""

from __future__ import annotations

from pathlib import Path

from tunas.recipe.defaults import LABEL_SMOOTHING
from tunas.task.config import TaskConfig
from tunas.task.images import ImageClassification
from tunas.task.task import Task


def open_task(config: TaskConfig, run_dir: Path | None = None, weights_dir: Path | None = None) -> Task:
    """The task that `config` describes, for a run in `run_dir`.

    Args:
        config: what the user said.
        run_dir: where caches lie where no other place is given.
        weights_dir: to evaluate weights alone, the directory that they lie in, of a run or not.

    Raises:
        InputError: where it cannot be opened.
    """
    smoothing = getattr(config, "label_smoothing", LABEL_SMOOTHING)
    return ImageClassification(config, run_dir=run_dir, label_smoothing=smoothing, weights_dir=weights_dir)
