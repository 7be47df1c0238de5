"""`tunas train --mode=eval`: weights that are there already, on the held-out part or the test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tunas.errors import InputError
from tunas.files import make_directory
from tunas.run.device import World
from tunas.run.directory import check_directory
from tunas.space import Architecture
from tunas.task.opening import open_task
from tunas.task.task import Task
from tunas.train.before import figures_of
from tunas.train.config import TrainConfig
from tunas.train.evaluation import Evaluation, evaluate
from tunas.train.follow import FOLLOWED, followed
from tunas.train.initial import as_trained
from tunas.train.network import move_to, network_as_told
from tunas.train.plan import splits
from tunas.train.result import TrainResult, written_result
from tunas.train.trained import trained_weights
from tunas.train.weights import load_tensors, load_weights


def evaluate_only(
    config: TrainConfig, architecture: Architecture, world: World, directory: Path, task: Task | None
) -> TrainResult:
    """Scores a checkpoint, or with `follow` each new one of a running training.

    Args:
        directory: of the training, and of the result.
        task: what was learned; where left out, what `config` says.

    Raises:
        InputError: where there are no weights, or they do not fit.
    """
    check_directory(directory)
    weights_dir = Path(config.checkpoint).parent if config.checkpoint else directory
    task = open_task(config, directory, weights_dir, task)
    facts: dict[str, Any] = {}
    if config.checkpoint is None and config.checkpoint_dir is None:
        raise InputError("--mode=eval needs weights: give --checkpoint_dir of a training, or --checkpoint FILE")
    if config.follow:
        if config.checkpoint is not None:
            raise InputError("--follow scores the checkpoints in --checkpoint_dir: leave out --checkpoint")
        return _follow(config, architecture, task, world, directory)
    network = network_as_told(as_trained(config, directory), architecture, task)
    if config.checkpoint is not None:
        network = load_weights(network, Path(config.checkpoint), architecture, config.timm_model)
    else:
        trained = world.from_main(lambda: trained_weights(directory, config.which))
        load_tensors(network, trained.tensors, "")
        facts = {"weights": trained.which, "step": trained.step}
    move_to(world.device, network)
    split = task.evaluated_split(splits(config)[1])
    figures = figures_of(config, architecture, task, world)
    world.from_main(lambda: make_directory(directory))
    evaluation = evaluate(network, task, split, world, batch_size=config.eval_batch_size, precision=config.precision)
    return written_result(config, architecture, task, world, directory, evaluation, split, **facts, **figures)


def _follow(config: TrainConfig, architecture: Architecture, task: Task, world: World, directory: Path) -> TrainResult:
    """Scores each new checkpoint of a running training, until the last."""
    split = splits(config)[1]
    figures = figures_of(config, architecture, task, world)

    def evaluated(tensors: dict[str, Tensor]) -> Evaluation:
        network = network_as_told(as_trained(config, directory), architecture, task)
        load_tensors(network, tensors, "")
        move_to(world.device, network)
        return evaluate(network, task, split, world, batch_size=config.eval_batch_size, precision=config.precision)

    evaluation, step = followed(directory, config.which, world, task.quality_name, split, evaluated)
    where = directory / FOLLOWED
    return written_result(config, architecture, task, world, where, evaluation, split, step=step, **figures)
