"""What is learned: batches, loss, quality and metrics. `search` and `train` know nothing else of the examples.

Each name is imported when first used: the configuration is part of the command line, which must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunas.task.config import TaskConfig
    from tunas.task.images import ImageClassification
    from tunas.task.metric import Metric, accuracy
    from tunas.task.task import Task

_HOME = {
    "ImageClassification": "tunas.task.images",
    "Metric": "tunas.task.metric",
    "Task": "tunas.task.task",
    "TaskConfig": "tunas.task.config",
    "accuracy": "tunas.task.metric",
}
__all__ = ["ImageClassification", "Metric", "Task", "TaskConfig", "accuracy"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tunas.task' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
