"""A stand-alone training of one architecture, as published, from its configuration to its result
(docs/algorithm.md#stand-alone-training)."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import tunas
from tunas.errors import InputError
from tunas.recipe.lesson import Lesson
from tunas.recipe.opening import begin_run, opened_lesson
from tunas.run.budget import FORWARD_AND_BACKWARD, Trial, within_minutes
from tunas.run.device import World
from tunas.run.directory import alone_in, run_directory
from tunas.run.job import long_job
from tunas.run.loop import Event, Run, Scalars, carry_out
from tunas.run.scores import is_due
from tunas.run.session import ended, seed_global_generators, warn
from tunas.run.time_left import FORWARD_WORK
from tunas.space import Architecture, Space, Tower, get_space
from tunas.space.layers import scale_filters
from tunas.task.datasets import Batch
from tunas.task.opening import open_task
from tunas.task.task import Task
from tunas.task.trial import try_task
from tunas.train.before import check_before_training, figures_of
from tunas.train.config import TrainConfig
from tunas.train.eval_mode import evaluate_only
from tunas.train.evaluation import Evaluation, evaluate, trouble
from tunas.train.initial import advising_init_from, initialised
from tunas.train.modes import check_flags
from tunas.train.network import move_to, network_as_told
from tunas.train.plan import TrainPlan, plan_training, splits, training_recipe
from tunas.train.result import TrainResult, written_result
from tunas.train.scoring import Scoring
from tunas.train.step import Training


def train(config: TrainConfig, task: Task | None = None) -> TrainResult:
    """Trains and evaluates one architecture, or goes on with the run in `config.checkpoint_dir`.

    Under `torchrun` every process calls this with the same configuration.

    Args:
        config: what the training is told.
        task: what is learned; where left out, what `config` says.

    Raises:
        InputError: where the configuration cannot be carried out.
        DivergedError: where the loss becomes NaN; the last checkpoint stays.
        Stopped: where SIGTERM or SIGINT asked for it; the state is saved.
    """
    with long_job(config.device, config.log_to) as world:
        space = get_space(config.ssd)
        architecture = _architecture(space, config)
        directory = run_directory("train", space.name, config.checkpoint_dir, world)
        check_flags(config, directory)
        if config.mode == "eval":
            return evaluate_only(config, architecture, world, directory, task)
        with alone_in(directory, world):
            return _train(config, architecture, world, directory, task)


def _train(
    config: TrainConfig, architecture: Architecture, world: World, directory: Path, task: Task | None
) -> TrainResult:
    """Checks what the training needs, lays out its plan and carries it out."""
    began = time.monotonic()
    task = open_task(config, directory, task=task)
    if not (task.is_proven and isinstance(architecture.structure, Tower)):
        network = network_as_told(config, architecture, task).to(world.device).eval()
        try_task(task, splits(config)[0], world.device, network)
    figures = figures_of(config, architecture, task, world)
    check_before_training(config, architecture, task, world)
    config, initial = world.from_main(lambda: initialised(config, architecture, task, directory))
    config = within_minutes(config, directory, world, began, lambda config: trial(config, architecture, task, world))
    size = task.size(splits(config)[0])
    plan = plan_training(config, size)
    if plan.batch % world.size:
        raise InputError(
            f"the batch of {plan.batch} {task.unit} cannot be divided among {world.size} processes; choose a multiple "
            f"of {world.size}"
        )
    lesson, decided = opened_lesson(
        config, task, world, directory, lambda image_size, mirrors: training_recipe(config, size, image_size, mirrors)
    )
    plan = plan_training(config, size, lesson.recipe)
    facts = {"version": tunas.__version__, "processes": world.size, **task.facts(), **task.identity()}
    params = plan.params(config, **facts, **decided, ssd=architecture.space.name)
    structure = scale_filters(architecture.structure, config.filters_multiplier)
    begin_run(directory, params, structure, lesson, world, advising_init_from(directory, plan.epochs))
    return _run(config, plan, architecture, lesson, world, directory, figures, initial)


def trial(config: TrainConfig, architecture: Architecture, task: Task, world: World) -> Trial:
    """The training with its default epochs, to time its steps: its learning rate is 0."""
    plan = dataclasses.replace(plan_training(config, task.size(splits(config)[0])), learning_rate=0.0)
    network = network_as_told(config, architecture, task, plan)
    move_to(world.device, network)
    lesson = Lesson(task, plan.used_recipe)
    state = Training(network, lesson, plan, config, world)
    stream = lesson.stream(plan.train_split, plan.batch, seed=config.seed, shard=(world.rank, world.size))
    return Trial(
        step=lambda place: state.step(int(place * plan.steps), next(stream)),
        ended=ended(stream),
        batch=plan.batch,
        examples=task.size(plan.train_split),
        eval_examples=0 if config.mode == "train" else task.size(plan.eval_split),
        eval_steps=plan.eval_steps,
        passes=FORWARD_AND_BACKWARD,
    )


def _architecture(space: Space, config: TrainConfig) -> Architecture:
    """The architecture to train."""
    if space.num_choices and not config.indices.strip():
        raise InputError(
            f"{space.name} is a search space: name one of its architectures with --indices (`tunas analyze` prints "
            f"them), or with --from the search that found one"
        )
    return space.architecture(config.indices)


class TrainRun(Run):
    """A training as `carry_out` takes it: its batches, its scores, and what is said of it."""

    label = "train"

    def __init__(self, state: Training, directory: Path):
        self.state, self.plan, self.directory = state, state.plan, directory
        self.steps, self.log_every = state.plan.steps, state.plan.log_every
        self.save_every = state.plan.checkpoint_every
        plan, task = state.plan, state.lesson.task
        per_step = plan.epochs / plan.steps
        self.scoring = Scoring(directory, plan.steps, plan.eval_steps, per_step, task.quality_name, self.evaluated)
        self.scores = state.config.mode != "train"
        self.stream: Iterator[Batch] = iter(())

    def evaluated(self) -> Evaluation:
        """The weights as they are, on what the training is scored on."""
        state, config = self.state, self.state.config
        state.share_statistics()
        return evaluate(
            state.evaluated,
            state.lesson.task,
            self.plan.eval_split,
            state.world,
            batch_size=config.eval_batch_size,
            precision=config.precision,
        )

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        self.state.load(tensors)
        self.scoring.resume(numbers.get("scores", []))

    def reading(self, start: int) -> contextlib.AbstractContextManager[object]:
        state, plan = self.state, self.plan
        shard = (state.world.rank, state.world.size)
        self.stream = state.lesson.stream(
            plan.train_split, plan.batch, seed=state.config.seed, start_step=start, shard=shard
        )
        return ended(self.stream)

    def advance(self, step: int) -> Scalars:
        scalars = self.state.step(step, next(self.stream))
        if step + 1 == self.steps:
            self.state.renew_statistics(self.stream)
        return scalars

    def work(self) -> np.ndarray:
        """In training steps: those of the whole network, those of the classifier alone, and the scorings."""
        plan, task = self.plan, self.state.lesson.task
        steps = np.arange(plan.steps)
        head = (steps < plan.head_steps).astype(float)
        due = [self.scores and is_due(step + 1, plan.steps, plan.eval_steps) for step in steps.tolist()]
        examples = task.size(plan.eval_split) if self.scores else 0
        scored = np.array(due) * examples / plan.batch * FORWARD_WORK
        return np.stack([1 - head, head * FORWARD_WORK, scored], axis=1)

    def scored(self, done: int, scalars: Scalars) -> Event | None:
        if not (self.scores and (scores := self.scoring.after(done, scalars))):
            return None
        self.state.world.from_main(lambda: self.scoring.write(done, self.state.tensors))
        return Event(done, scores.items())

    def status(self, scalars: Scalars, rate: float) -> str:
        scored = self.scoring.status(self.plan.eval_split)
        return f"loss {scalars['model/loss']:.3f}{scored} {rate * self.plan.batch:.0f} {self.state.lesson.task.unit}/s"

    def settle(self) -> None:
        self.state.share_statistics()

    def tensors(self) -> dict[str, Tensor]:
        return self.state.tensors()

    def numbers(self) -> dict[str, Any]:
        return {"scores": self.scoring.rows}

    def saved(self) -> None:
        self.scoring.tidy()

    def finished(self) -> Event | None:
        """The last score, where the steps were done by a run that was told to take none."""
        return None if self.scoring.knows(self.steps) else self.scored(self.steps, {})


def _run(
    config: TrainConfig,
    plan: TrainPlan,
    architecture: Architecture,
    lesson: Lesson,
    world: World,
    directory: Path,
    figures: dict[str, Any],
    initial: dict[str, Tensor] | None,
) -> TrainResult:
    """Carries out a training that has been checked, or what is left of it, and writes its result."""
    seed_global_generators(config.seed)
    task = lesson.task
    network = network_as_told(config, architecture, task, plan)
    if initial is not None:
        network.load_state_dict(initial, strict=False)  # `initialised` has compared names and shapes
    move_to(world.device, network)
    run = TrainRun(Training(network, lesson, plan, config, world), directory)
    carry_out(run, directory, world, config.log_to)
    evaluation = None
    if run.scores:
        evaluation = run.scoring.last or run.evaluated()
        if world.is_main:
            warn(trouble(evaluation, plan.eval_split, task.guessing_loss))
    return written_result(
        config,
        architecture,
        task,
        world,
        directory,
        evaluation,
        plan.eval_split,
        epochs=plan.epochs,
        steps=plan.steps,
        **figures,
        best=run.scoring.best_row() if run.scores else None,
    )
