"""One small batch through everything that a task's user wrote, before a run begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tunas.errors import InputError
from tunas.task.batches import as_float, on_device
from tunas.task.datasets import kept_random_state, told
from tunas.task.task import Task

EXAMPLES = 2
"""In the batch; some losses and batch norms take no single one."""


def try_task(task: Task, split: str, device: torch.device, forward: Callable[[Any], Any]) -> None:
    """Checks that the network takes what the task prepares, and that loss and quality are what they must be.

    Args:
        split: the first examples are taken from it.
        forward: what the network gives for prepared inputs, without changing any state.

    Raises:
        InputError: in one sentence that says what was found and what would be right.
    """
    batches: Any = task.once(split, min(EXAMPLES, task.size(split)))
    with contextlib.closing(batches):
        inputs, targets = on_device(next(batches), device)
    with kept_random_state():
        prepared = _result_of(f"prepare of {task.name} fails", task.prepare, inputs)
        outputs = as_float(_result_of(f"the network does not take the inputs of {task.name}", forward, prepared))
        check_loss(task, _result_of(f"loss of {task.name} fails", task.loss, outputs, targets))
        with torch.no_grad():
            check_quality(task, _result_of(f"quality of {task.name} fails", task.quality, outputs, targets))


def check_loss(task: Task, loss: Any) -> None:
    """Refuses a loss that weights cannot learn from."""
    if not isinstance(loss, Tensor):
        raise InputError(f"loss of {task.name} must be a tensor, not {type(loss).__name__}")
    if loss.dim():
        raise InputError(
            f"loss of {task.name} must be one number for a batch, the mean over its examples, not a tensor of shape "
            f"{list(loss.shape)}"
        )
    if not loss.requires_grad:
        raise InputError(
            f"loss of {task.name} has no gradient: it must be computed from the outputs by torch functions that can be "
            f"differentiated, without detach(), item() or argmax()"
        )


def check_quality(task: Task, quality: Tensor) -> None:
    """Refuses a quality that is not one finite number."""
    if quality.dim():
        raise InputError(
            f"quality of {task.name} must be one number for a batch, the mean over its examples, not a tensor of shape "
            f"{list(quality.shape)}"
        )
    if quality.is_complex() or not torch.isfinite(quality):
        raise InputError(
            f"quality of {task.name} is {quality.item()} for the first examples; it must be a number for every batch"
        )


def _result_of(trouble: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives; what it raises is told in one sentence that begins with `trouble`."""
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{trouble}: {told(error)}") from error
