"""The search: one step, and the loop around it (docs/algorithm.md#controller)."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tunas
from tunas.allocator import keep_freed_memory
from tunas.cost.measure import MeasureConfig, as_fitted
from tunas.errors import DivergedError, InputError
from tunas.flags import as_told
from tunas.nn.cuda_depthwise import is_long
from tunas.nn.ops import UsedKernels
from tunas.nn.supernet import SuperNet
from tunas.primitives import keep_primitives
from tunas.recipe.choose import Recipe
from tunas.recipe.lesson import Lesson
from tunas.recipe.opening import opened_lesson
from tunas.recipe.optimizer import RMSPROP, clip_gradients, optimizer_named
from tunas.recipe.precision import autocast
from tunas.recipe.schedule import scheduled_learning_rate
from tunas.run.budget import FORWARD_AND_BACKWARD, Trial, within_minutes
from tunas.run.device import World, joined_world
from tunas.run.directory import (
    alone_in,
    check_examples,
    default_directory,
    open_run,
    read_params,
    write_result,
    writing_to,
)
from tunas.run.events import log_hyperparameters
from tunas.run.loop import Event, Run, Scalars, carry_out
from tunas.run.scores import is_due
from tunas.run.session import ended, generator, seed_global_generators, warn
from tunas.run.time_left import FORWARD_WORK
from tunas.run.trackers import check_trackers
from tunas.run.transfer import arriving
from tunas.search.aims import Aims
from tunas.search.before import check_before_search
from tunas.search.config import SearchConfig, SearchPlan, plan_search, search_recipe
from tunas.search.controller import Samples
from tunas.search.objective import Objective, facts_of, search_objectives
from tunas.search.replicas import InOrder, decay_weights, gradients_of, lanes_for
from tunas.search.result import SearchResult, result_documents, search_result
from tunas.search.schedule import rl_learning_rate, warmup_probability
from tunas.search.scoring import Scoring
from tunas.search.simulate import simulated_search
from tunas.space import Space, Tower, get_space, structure_to_json
from tunas.space.layers import IMAGE_CHANNELS
from tunas.task.batches import as_float, piece
from tunas.task.config import TaskConfig
from tunas.task.opening import open_task
from tunas.task.task import Batch, Task
from tunas.task.trial import try_task


class Search:
    """The state of a search in one process, and its step.

    All processes sample all replicas' architectures and hold the same controller; each runs its own part of the
    replicas.
    """

    def __init__(
        self,
        space: Space,
        task: Task,
        plan: SearchPlan,
        config: SearchConfig,
        objectives: Sequence[Objective],
        world: World,
        lesson: Lesson | None = None,
    ):
        self.lesson = lesson or Lesson(task, plan.used_recipe)
        self.task, self.plan, self.config, self.world = task, plan, config, world
        seed_global_generators(config.seed)
        self.supernet = SuperNet(
            space,
            **task.network_arguments,
            rematerialize=config.rematerialize,
            same_padding=config.padding == "same",
            aggressive_sharing=config.aggressive_sharing,
        )
        self.supernet.to(world.device)
        size = task.cost_arguments.get("image_size")
        if world.device.type == "cuda" and size and not is_long(plan.steps * plan.batch, size):
            self.supernet.compile_no_kernels()
        self.weights = self.supernet.flatten()
        recipe = plan.used_recipe
        groups = [{"params": [self.weights], "weight_decay": 0.0}]  # L2 is in the gradient: `decay_weights`
        self.optimizer = optimizer_named(recipe.optimizer, groups, recipe.momentum)
        self.aims = Aims(space, plan, config, objectives)
        local = plan.replicas // world.size
        self.local_replicas = range(world.rank * local, (world.rank + 1) * local)
        alike = task.draws_nothing and not self.supernet.is_own and plan.precision == "fp32"
        numbers = plan.share * IMAGE_CHANNELS * task.cost_arguments["image_size"] ** 2 if alike else 0
        self.lanes = lanes_for(local, world.device, wanted=config.parallel_replicas, alike=alike, numbers=numbers)

    def step(self, step: int, train: list[Batch], valid: list[Batch] | None) -> dict[str, float]:
        """One weight step and one controller step; the scalars to log.

        Args:
            step: from 0.
            train: inputs and targets for each of this process's replicas, of the training batch.
            valid: the same of the validation batch; None where the step measures nothing, and the controller's
                averages stay.

        Raises:
            DivergedError: where a loss is not finite, naming the step and the architecture.
        """
        plan = self.plan
        warmups = (
            warmup_probability(step, plan.increase_ops_steps),
            warmup_probability(step, plan.increase_filters_steps),
        )
        samples = self.aims.sample(step, warmups)
        learning_rate = scheduled_learning_rate(
            plan.used_recipe.scheduler, plan.learning_rate, step, plan.steps, plan.warmup_steps
        )
        losses = self._train(step, samples, train, learning_rate)
        if valid is not None:
            used = plan.delay_valid_share if step < plan.rl_delay_steps else plan.valid_share
            qualities = self.qualities(samples.indices, valid, used)
            losses = torch.cat([losses, qualities[:, None]], 1)
        measured = self.world.gather(losses).cpu().double().numpy()
        self._check_finite(step, samples, measured)
        rate = rl_learning_rate(plan.rl_learning_rate, step, plan.steps, plan.rl_delay_steps, plan.rl_growth)
        scalars = {
            "model/loss": float(measured[:, :2].sum(axis=1).mean()),
            "model/empirical_loss": float(measured[:, 0].mean()),
            "model/regularization_loss": float(measured[:, 1].mean()),
            "model/learning_rate": learning_rate,
            **self.aims.told(rate, warmups),
        }
        if valid is None:
            return {**scalars, **self.aims.undecided(samples)}
        return {**scalars, **self.aims.learn(step, samples, measured[:, 2], rate, warmups)}

    def measures(self, step: int) -> bool:
        """Whether step `step` measures the quality of its architectures."""
        return step >= self.plan.unmeasured_steps

    def control(self, step: int, valid: list[Batch]) -> None:
        """One controller step on the weights as they are, after the last step of the search.

        Args:
            step: from the number of steps of the search.
            valid: as for `step`.
        """
        plan = self.plan
        samples = self.aims.sample(step, (0.0, 0.0))
        quality = self.world.gather(self.qualities(samples.indices, valid, plan.valid_share)).cpu().double().numpy()
        self.aims.learn(step, samples, quality, plan.rl_learning_rate * plan.rl_growth, (0.0, 0.0))

    def _train(self, step: int, samples: Samples, batch: list[Batch], learning_rate: float) -> Tensor:
        """One optimiser step on all replicas; `[local replicas, 2]`: each one's empirical and regularisation loss."""
        plan = self.plan
        gradient = self.weights.grad
        assert gradient is not None
        gradient.zero_()
        total = InOrder()
        self._set_training(True)

        def one(share: tuple[int, Any, Any]) -> tuple[Tensor, UsedKernels]:
            replica, inputs, targets = share
            if self.lanes.count == 1:  # several work on what draws nothing
                random = generator(self.config.seed, "dropout", step * plan.replicas + replica)
                torch.manual_seed(int(random.integers(2**62)))
            loss = self.lesson.loss(self._outputs(inputs, samples.indices[replica], plan.precision), targets)
            total.add(replica - self.local_replicas.start, gradients_of(loss / plan.replicas))
            return loss.detach(), self.supernet.used

        losses, used = zip(*self.lanes.map(one, self._lessons(step, batch)), strict=True)
        regularization = decay_weights(used, plan.weight_decay, plan.replicas)
        self.world.sum_(gradient)
        clip_gradients([self.weights], plan.used_recipe.clip_grad)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return torch.stack([torch.stack(losses), regularization], 1)

    def qualities(self, indices: np.ndarray, batch: list[Batch], used: int) -> Tensor:
        """`[local replicas]`: quality of each replica's row of `indices` on the first `used` examples of its share of
        the validation batch."""

        @torch.no_grad()
        def one(share: tuple[int, Any, Any]) -> Tensor:
            replica, inputs, targets = share
            seen = self.task.prepare(piece(inputs, 0, used))
            outputs = self._outputs(seen, indices[replica], self.plan.valid_precision)
            return self.task.quality(outputs, piece(targets, 0, used))

        self._set_training(False)
        qualities = torch.stack(self.lanes.map(one, self._shares(batch)))
        return qualities.to(self.world.device, torch.float32)

    def _set_training(self, on: bool) -> None:
        """Lets the dropout of a model of one's own know; a tower has none here, and batch norm has no state."""
        if self.supernet.is_own:
            self.supernet.train(on)

    def _outputs(self, inputs: Any, indices: np.ndarray, precision: str) -> Any:
        with autocast(self.world.device, precision):
            outputs = self.supernet(inputs, indices)
        return as_float(outputs)

    def _shares(self, batch: list[Batch]) -> Iterator[tuple[int, Any, Any]]:
        for replica, share in zip(self.local_replicas, arriving(batch, self.world.device), strict=True):
            yield replica, *share

    def _lessons(self, step: int, batch: list[Batch]) -> Iterator[tuple[int, Any, Any]]:
        """The training shares as the network takes them."""
        seed = int(generator(self.config.seed, "mixing", step).integers(2**62))
        for replica, inputs, targets in self._shares(batch):
            yield replica, *self.lesson.prepared(inputs, targets, seed + replica)

    def _check_finite(self, step: int, samples: Samples, measured: np.ndarray) -> None:
        finite = np.isfinite(measured).all(axis=1)
        if not finite.all():
            replica = int(finite.argmin())
            text = ":".join(map(str, samples.indices[replica].tolist()))
            named = zip(("loss", "loss", self.task.quality_name), measured[replica].tolist(), strict=True)
            name, value = next((name, value) for name, value in named if not math.isfinite(value))
            raise DivergedError(
                f"the {name} is {value} at step {step}, architecture {text} (-1 stands for all choices at once); "
                "the last checkpoint is kept: lower --model_learning_rate and start a new run"
            )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, beside the step."""
        state = self.optimizer.state[self.weights]
        found = {"weights": self.weights, **self.aims.tensors()}
        if self.plan.used_recipe.optimizer != RMSPROP:
            kept = {name: torch.as_tensor(value) for name, value in state.items() if value is not None}
            return {**found, **{f"optimizer/{name}": value for name, value in kept.items()}}
        return {
            **found,
            "square_avg": state.get("square_avg", torch.ones_like(self.weights)),
            "momentum_buffer": state.get("momentum_buffer", torch.zeros_like(self.weights)),
        }

    def numbers(self) -> dict[str, Any]:
        """The plain numbers of a checkpoint."""
        return self.aims.numbers()

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Goes on where `tensors` and `numbers` were taken.

        Raises:
            InputError: where they do not fit this search.
        """
        is_published = self.plan.used_recipe.optimizer == RMSPROP
        for name in ("weights", "square_avg", "momentum_buffer") if is_published else ("weights",):
            if name not in tensors or tensors[name].shape != self.weights.shape:
                raise InputError(f"the checkpoint's {name} do not fit this search space")
        self.weights.copy_(tensors["weights"])
        state = self.optimizer.state_dict()
        if is_published:
            kept = {
                "step": torch.tensor(float(numbers["step"])),
                "square_avg": tensors["square_avg"].clone(),
                "momentum_buffer": tensors["momentum_buffer"].clone(),
            }
        else:
            prefix = "optimizer/"
            kept = {name.removeprefix(prefix): tensors[name].clone() for name in tensors if name.startswith(prefix)}
        state["state"] = {0: kept} if kept else {}
        self.optimizer.load_state_dict(state)
        self.aims.load(tensors, numbers)


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
    check_trackers(config.log_to)
    if config.accuracy_model is not None:
        return simulated_search(config, config.accuracy_model, task)
    keep_freed_memory()
    keep_primitives()
    with joined_world(config.device) as world:
        space = get_space(config.ssd)
        if not space.num_choices:
            words = " ".join(as_told(config, ["ssd", *(field.name for field in dataclasses.fields(TaskConfig))]))
            raise InputError(
                f"{config.ssd} is one fixed architecture, there is nothing to search; train it: tunas train {words}"
            )
        directory = Path(
            world.from_main(lambda: config.checkpoint_dir or default_directory("search", space.name))
        ).expanduser()
        with alone_in(directory, world):
            return _search(space, config, world, directory, task)


def _search(space: Space, config: SearchConfig, world: World, directory: Path, task: Task | None) -> SearchResult:
    began = time.monotonic()
    task = open_task(config, directory, task=task)
    config = within_minutes(config, directory, world, began, lambda config: trial(space, task, config, world))
    plan = _plan(config, task, world)
    if plan.replicas % world.size:
        raise InputError(
            f"{plan.replicas} replicas cannot be divided among {world.size} processes; choose a multiple of "
            f"{world.size}"
        )
    if not (task.is_proven and isinstance(space.structure, Tower)):
        supernet = SuperNet(space, **task.network_arguments).to(world.device).eval()
        try_task(task, "train", world.device, lambda inputs: supernet(inputs, [0] * space.num_choices))
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
    measuring = as_fitted(config.ssd, config.cost_models[0], objectives[0].model) if config.verify else None
    check_before_search(space, config, plan, objectives, task, is_main=world.is_main)
    size, on_cuda = task.size("train"), world.device.type == "cuda"
    lesson, decided = opened_lesson(
        config,
        task,
        world,
        directory,
        lambda image_size, mirrors: search_recipe(
            config, size, image_size, on_cuda, mirrors, digits=task.name == "digits"
        ),
    )
    plan = _plan(config, task, world, lesson.recipe)
    facts = {"version": tunas.__version__, "processes": world.size, **facts_of(objectives), **task.facts()}
    params = plan.params(config, **facts, **task.identity(), **decided)
    params["ssd"] = space.name

    def begin() -> None:
        check_examples(directory, task.check_same)
        open_run(directory, params, structure_to_json(space.structure), task.compared)
        with writing_to(directory):
            task.describe(directory)

    world.from_main(begin)
    if world.is_main:
        print(lesson.said(), file=sys.stderr)
    return _run(space, lesson, plan, config, objectives, world, directory, measuring)


def _plan(config: SearchConfig, task: Task, world: World, recipe: Recipe | None = None) -> SearchPlan:
    on_cuda = world.device.type == "cuda"
    return plan_search(config, task.size("train"), digits=task.name == "digits", on_cuda=on_cuda, recipe=recipe)


def trial(space: Space, task: Task, config: SearchConfig, world: World) -> Trial:
    """The search with its default epochs, to time its steps: its learning rates are 0."""
    plan = dataclasses.replace(_plan(config, task, world), learning_rate=0.0, rl_learning_rate=0.0)
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


WARM_UP_WORK = 3.0
"""Steps' worth of work that running all operations and the widest filters adds to a step, about."""


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
        """Of the last sampled architectures, the mean over the targets."""
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
    each = [
        {**document, f"shared_weights_{task.quality_name}": found.quality}
        for found, document in zip(result.frontier, result_documents(result, state), strict=True)
    ]
    document = {
        "ssd": result.architecture.space.name,
        **(each[0] if len(each) == 1 else {"targets": each}),
        "tolerance": state.config.rl_cost_model_tolerance,
        "steps": result.steps,
        "seed": state.config.seed,
        "dataset": task.name,
        f"bad_{task.unit}": task.left_out(),
        "versions": {"tunas": tunas.__version__, "torch": torch.__version__},
    }
    write_result(result.checkpoint_dir, document)
