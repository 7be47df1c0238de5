"""A search from its configuration to its result: what it checks, the loop around its steps, and what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tunas
from tunas.cost.measure import as_fitted
from tunas.cost.measure_config import MeasureConfig
from tunas.errors import InputError
from tunas.flags import as_told
from tunas.nn.supernet import SuperNet
from tunas.recipe.choose import Mirrors, Recipe
from tunas.recipe.lesson import Lesson
from tunas.recipe.opening import begin_run, opened_lesson
from tunas.recipe.optimizer import check_optimizer
from tunas.recipe.precision import multiplies_bf16
from tunas.run.budget import FORWARD_AND_BACKWARD, Trial, within_minutes
from tunas.run.device import World
from tunas.run.directory import alone_in, kept_params, read_params, run_directory, write_result
from tunas.run.events import log_hyperparameters
from tunas.run.job import long_job
from tunas.run.loop import Event, Run, Scalars, carry_out
from tunas.run.scores import is_due
from tunas.run.session import ended, warn
from tunas.run.time_left import FORWARD_WORK
from tunas.search.before import check_before_search
from tunas.search.config import SearchConfig
from tunas.search.objective import Objective, facts_of, search_objectives
from tunas.search.plan import SearchPlan, divisible, plan_search, search_recipe
from tunas.search.result import SearchResult, result_document, search_result
from tunas.search.schedule import warmup_probability
from tunas.search.scoring import Scoring
from tunas.search.simulate import simulated_search
from tunas.search.step import Search
from tunas.space import Space, Tower, get_space
from tunas.task.config import TaskConfig
from tunas.task.datasets import Batch
from tunas.task.opening import open_task
from tunas.task.task import Task
from tunas.task.trial import try_task

WARM_UP_WORK = 3.0
"""Steps' worth of work that running all operations and the widest filters adds to a step, about."""


def search(config: SearchConfig, task: Task | None = None) -> SearchResult:
    """Runs a search, or goes on with the one in `config.checkpoint_dir`.

    Under `torchrun` every process calls this with the same configuration.

    Args:
        config: what the search is told.
        task: what is learned; where left out, what `config` says.

    Raises:
        InputError: where the configuration cannot be carried out.
        DivergedError: where the loss becomes NaN; the last checkpoint stays.
        Stopped: where SIGTERM or SIGINT asked for it; the state is saved.
    """
    if config.accuracy_model is not None:
        return simulated_search(config, config.accuracy_model, task)
    with long_job(config.device, config.log_to) as world:
        space = get_space(config.ssd)
        if not space.num_choices:
            words = " ".join(as_told(config, ["ssd", *(field.name for field in dataclasses.fields(TaskConfig))]))
            raise InputError(
                f"{config.ssd} is one fixed architecture, there is nothing to search; train it: tunas train {words}"
            )
        check_optimizer(config.optimizer)
        directory = run_directory("search", space.name, config.checkpoint_dir, world)
        with alone_in(directory, world):
            return _search(space, config, world, directory, task)


def _search(space: Space, config: SearchConfig, world: World, directory: Path, task: Task | None) -> SearchResult:
    """Checks what the search needs, lays out its plan and carries it out."""
    began = time.monotonic()
    task = open_task(config, directory, task=task)
    config = within_minutes(config, directory, world, began, lambda config: trial(space, task, config, world))
    config = _in_kept_precision(config, directory)
    plan = _plan(space, config, task, world)
    if plan.replicas % world.size:
        raise InputError(
            f"{plan.replicas} replicas cannot be divided among {world.size} processes; choose a multiple of "
            f"{world.size}, such as {divisible(config, plan, world.size)}"
        )
    if not (task.is_proven and isinstance(space.structure, Tower)):
        supernet = SuperNet(space, **task.network_arguments).to(world.device).eval()
        try_task(task, "train", world.device, lambda inputs: supernet(inputs, [0] * space.num_choices))
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
    measuring = as_fitted(config.ssd, config.cost_models[0], objectives[0].model) if config.verify else None
    check_before_search(space, config, plan, objectives, task, is_main=world.is_main)
    lesson, decided = _lesson(config, task, world, directory)
    plan = _plan(space, config, task, world, lesson.recipe)
    facts = {"version": tunas.__version__, "processes": world.size, **facts_of(objectives), **task.facts()}
    params = plan.params(config, **facts, **task.identity(), **decided, ssd=space.name)
    begin_run(directory, params, space.structure, lesson, world)
    return _run(space, lesson, plan, config, objectives, world, directory, measuring)


def _lesson(config: SearchConfig, task: Task, world: World, directory: Path) -> tuple[Lesson, dict[str, Any]]:
    """What the shared weights learn, and what `params.json` keeps of how that was decided."""
    size, on_cuda = task.size("train"), world.device.type == "cuda"

    def recipe(image_size: int | None, mirrors: Mirrors | None) -> Recipe:
        return search_recipe(config, size, image_size, on_cuda, mirrors)

    return opened_lesson(config, task, world, directory, recipe)


def _in_kept_precision(config: SearchConfig, directory: Path) -> SearchConfig:
    """A search goes on in the precision that it began in, on whatever processor."""
    kept = kept_params(directory) if config.valid_precision == "auto" else {}
    return dataclasses.replace(config, valid_precision=kept.get("valid_precision", "fp32")) if kept else config


def _plan(space: Space, config: SearchConfig, task: Task, world: World, recipe: Recipe | None = None) -> SearchPlan:
    """What follows from the configuration for the task at hand."""
    return plan_search(
        config,
        task.size("train"),
        digits=task.name == "digits",
        on_cuda=world.device.type == "cuda",
        recipe=recipe,
        validates_in_bf16=world.device.type == "cpu" and isinstance(space.structure, Tower) and multiplies_bf16(),
    )


def trial(space: Space, task: Task, config: SearchConfig, world: World) -> Trial:
    """The search with its default epochs, to time its steps: its learning rates are 0."""
    plan = dataclasses.replace(_plan(space, config, task, world), learning_rate=0.0, rl_learning_rate=0.0)
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
    state = Search(space, task, plan, config, objectives, world)
    shard = (world.rank, world.size)

    def step(place: float) -> None:
        number = int(place * plan.steps)
        state.step(number, next(train), next(valid) if state.measures(number) else None)

    local = len(state.local_replicas)
    train = task.share_stream("train", plan.batch, local, seed=config.seed, shard=shard, augment=True)
    valid = task.share_stream("valid", plan.valid_share * plan.replicas, local, seed=config.seed, shard=shard)
    passes = FORWARD_AND_BACKWARD + plan.valid_share / plan.share
    return Trial(step, ended(train, valid), plan.batch, task.size("train"), task.size("valid"), plan.eval_steps, passes)


class SearchRun(Run):
    """A search as `carry_out` takes it: its batches, its scores, and what is said of it."""

    label = "search"

    def __init__(self, state: Search, directory: Path):
        self.state, self.plan = state, state.plan
        self.steps, self.log_every = state.plan.steps, state.plan.log_every
        self.save_every, self.keep = state.plan.checkpoint_every, state.config.keep_checkpoints
        self.scoring = Scoring(state, directory)
        self.qualities = [0.0] * len(state.aims)
        self.train: Iterator[list[Batch]] = iter(())
        self.valid: Iterator[list[Batch]] = iter(())

    @property
    def quality(self) -> float:
        """Mean quality of the last sampled architectures over the targets."""
        return sum(self.qualities) / len(self.qualities)

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        self.state.load(tensors, numbers)
        self.scoring.rows = list(numbers.get("scores", []))
        self.qualities = numbers.get("qualities") or [numbers["quality"]]

    def reading(self, start: int) -> contextlib.AbstractContextManager[object]:
        state, plan = self.state, self.plan
        local, shard = len(state.local_replicas), (state.world.rank, state.world.size)
        how: dict[str, Any] = {"seed": state.config.seed, "shard": shard}
        self.train = state.lesson.share_stream("train", plan.batch, local, start_step=start, **how)
        first, examples = max(start, plan.unmeasured_steps), plan.valid_share * plan.replicas
        self.valid = state.task.share_stream("valid", examples, local, start_step=first, **how)
        return ended(self.train, self.valid)

    def advance(self, step: int) -> Scalars:
        measures = self.state.measures(step)
        scalars = self.state.step(step, next(self.train), next(self.valid) if measures else None)
        self.qualities = self.state.aims.qualities(scalars) or self.qualities
        return scalars

    def logged(self, step: int, scalars: Scalars) -> Event:
        aims = self.state.aims
        return Event(step, [*scalars.items(), *aims.logits()], aims.texts())

    def scored(self, done: int, scalars: Scalars) -> Event | None:
        if not (scores := self.scoring.after(done, scalars)):
            return None
        step = done - 1
        is_logged = step % self.log_every == 0 or done == self.steps
        whole = [] if is_logged else [*scalars.items(), *self.state.aims.logits()]
        return Event(step, [*whole, *scores.items()])

    def status(self, scalars: Scalars, rate: float) -> str:
        task, aims = self.state.task, self.state.aims
        measured = f"loss {scalars['model/loss']:.3f}"
        if (reward := aims.mean(scalars, "reward")) is not None:
            measured = f"reward {reward:.3f} {task.quality_name} {self.quality:.3f}"
        cost, entropy = aims.cost_status(scalars), aims.mean(scalars, "entropy")
        speed = f"{rate * self.plan.batch:.0f} {task.unit}/s"
        return f"{measured}{self.scoring.status()}{cost} entropy {entropy:.1f} {speed}"

    def work(self) -> np.ndarray:
        """In training steps of one architecture each: the step itself, the operations that a warmup runs beside the
        sampled ones, the accuracies, and the scoring of the most likely architecture."""
        plan = self.plan
        steps = np.arange(plan.steps)
        warm = np.array([warmup_probability(step, plan.increase_ops_steps) for step in steps.tolist()])
        used = np.where(steps < plan.rl_delay_steps, plan.delay_valid_share, plan.valid_share) / plan.share
        measured = np.where(steps >= plan.unmeasured_steps, used, 0.0) * FORWARD_WORK
        due = [is_due(step + 1, plan.steps, plan.eval_steps) for step in steps.tolist()]
        scored = np.array(due) * self.state.task.size("valid") / plan.batch * FORWARD_WORK
        return np.stack([np.ones(plan.steps), WARM_UP_WORK * warm, measured, scored], axis=1)

    def tensors(self) -> dict[str, Tensor]:
        return self.state.tensors()

    def numbers(self) -> dict[str, Any]:
        return {**self.state.numbers(), "qualities": self.qualities, "scores": self.scoring.rows}


def _run(
    space: Space,
    lesson: Lesson,
    plan: SearchPlan,
    config: SearchConfig,
    objectives: Sequence[Objective],
    world: World,
    directory: Path,
    measuring: MeasureConfig | None,
) -> SearchResult:
    """Carries out a search that has been checked, or what is left of it."""
    state = Search(space, lesson.task, plan, config, objectives, world, lesson)
    run = SearchRun(state, directory)
    start = carry_out(run, directory, world, config.log_to)
    if world.is_main and start < plan.steps:
        log_hyperparameters(directory, read_params(directory), {"hparams/quality": run.quality})
    result = search_result(state, directory, plan.steps, run.qualities, measuring)
    world.from_main(lambda: _write_result(result, state))
    warn(lesson.task.left_out())
    return result


def _write_result(result: SearchResult, state: Search) -> None:
    task = state.task
    document = result_document(result, state, lambda found: {f"shared_weights_{task.quality_name}": found.quality})
    facts = {"dataset": task.name, f"bad_{task.unit}": task.left_out()}
    versions = {"tunas": tunas.__version__, "torch": torch.__version__}
    write_result(result.checkpoint_dir, {**document, **facts, "versions": versions})
