"""What a training came to, and `result.json`."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tunas
from tunas.run.device import World
from tunas.run.directory import write_result
from tunas.run.session import warn
from tunas.space import Architecture
from tunas.task.task import Task
from tunas.train.config import TrainConfig
from tunas.train.evaluation import Evaluation


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Args:
        architecture: what was trained.
        evaluation: on the held-out part or the test set; None with mode `train`.
        checkpoint_dir: the run directory.
        document: what `result.json` says.
        unit: what the examples are called, in the plural.
    """

    architecture: Architecture
    evaluation: Evaluation | None
    checkpoint_dir: Path
    document: dict[str, Any]
    unit: str


def written_result(
    config: TrainConfig,
    architecture: Architecture,
    task: Task,
    world: World,
    directory: Path,
    evaluation: Evaluation | None,
    split: str,
    **facts: Any,
) -> TrainResult:
    """Writes `result.json` into the directory, and says what was left out.

    Args:
        split: what was evaluated on.
        facts: what else the file says.
    """
    document = {
        "ssd": architecture.space.name,
        "indices": architecture.text,
        "filters_multiplier": config.filters_multiplier,
        "split": split,
        **({**evaluation.metrics, task.unit: evaluation.examples} if evaluation else {}),
        **facts,
        **task.facts(),
        "quality_name": task.quality_name,
        f"bad_{task.unit}": task.left_out(),
        **({"evaluation_view": dict(task.evaluation_view)} if evaluation and task.evaluation_view else {}),
        "seed": config.seed,
        "checkpoint": config.checkpoint,
        "init_from": config.init_from,
        "versions": {"tunas": tunas.__version__, "torch": torch.__version__},
        "git_commit": git_commit(),
    }
    world.from_main(lambda: write_result(directory, document))
    warn(task.left_out())
    return TrainResult(architecture, evaluation, directory, document, task.unit)


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(tunas.__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
