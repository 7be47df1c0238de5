"""From a configuration to its task."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tunas.data.config import DataConfig
from tunas.errors import InputError
from tunas.named import load_named
from tunas.task.config import LABEL_SMOOTHING, TaskConfig
from tunas.task.images import ImageClassification
from tunas.task.task import Task

ONLY_OF_IMAGES = {"label_smoothing", *(field.name for field in dataclasses.fields(DataConfig))} - {"num_workers"}
"""Settings that mean something to the default task alone."""


def open_task(
    config: TaskConfig, run_dir: Path | None = None, weights_dir: Path | None = None, task: Task | None = None
) -> Task:
    """The task that `config` describes, for a run in `run_dir`; or `task`, where one is given.

    Args:
        config: what the user said.
        run_dir: where caches lie where no other place is given.
        weights_dir: where weights are only evaluated, the directory that they lie in, of a run or not.

    Raises:
        InputError: where it cannot be opened, or settings of the default task are given for another one.
    """
    if task is not None and config.task is not None:
        raise InputError(f"a task is given, and task={config.task!r} names another one; leave out one of them")
    if task is None and config.task is not None:
        task = named_task(config.task)
    if task is None:
        smoothing = getattr(config, "label_smoothing", LABEL_SMOOTHING)
        return ImageClassification(config, run_dir=run_dir, label_smoothing=smoothing, weights_dir=weights_dir)
    if not isinstance(task, Task):
        raise InputError(f"a task must be a tunas.Task, not {type(task).__name__}")
    if isinstance(task, ImageClassification):
        return task
    for field in dataclasses.fields(config):
        if field.name in ONLY_OF_IMAGES and getattr(config, field.name) != field.default:
            raise InputError(
                f"{field.name} is about the images of the default task, and means nothing to {task.name}; leave it out"
            )
    return task.with_workers(config.num_workers)


def named_task(name: str) -> Task:
    """The task that `module:name` or `path/to/file.py:name` says: a Task, or a function that returns one.

    Raises:
        InputError: where there is none.
    """
    found = load_named(name, "task")
    task = found() if callable(found) and not isinstance(found, Task) else found
    if not isinstance(task, Task):
        raise InputError(f"{name} is {type(task).__name__}, not a tunas.Task nor a function that returns one")
    if task.name == Task.name:
        task.name = name
    return task
