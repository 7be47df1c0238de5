"""Stand-alone training and evaluation: one architecture, from scratch, as published
(docs/algorithm.md#stand-alone-training)."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import tunas
from tunas.allocator import keep_freed_memory
from tunas.errors import DivergedError, InputError
from tunas.files import make_directory
from tunas.nn import Network, build_network
from tunas.nn.ops import BatchNorm1d, BatchNorm2d
from tunas.nn.timm_weights import options_of_training
from tunas.primitives import keep_primitives
from tunas.recipe.finetune import drop_paths_by_depth, parameter_groups, set_learning_rates
from tunas.recipe.lesson import Lesson
from tunas.recipe.opening import opened_lesson
from tunas.recipe.optimizer import clip_gradients, optimizer_named
from tunas.recipe.precision import autocast
from tunas.run.budget import FORWARD_AND_BACKWARD, Trial, within_minutes
from tunas.run.device import World, joined_world
from tunas.run.directory import (
    alone_in,
    check_directory,
    check_examples,
    default_directory,
    open_run,
    write_result,
    writing_to,
)
from tunas.run.loop import Event, Run, Scalars, carry_out
from tunas.run.scores import is_due
from tunas.run.session import ended, generator, seed_global_generators, warn
from tunas.run.time_left import FORWARD_WORK
from tunas.run.trackers import check_trackers
from tunas.space import Architecture, Space, Tower, get_space, structure_to_json
from tunas.space.layers import scale_filters
from tunas.task.batches import as_float, length, on_device, parts
from tunas.task.opening import open_task
from tunas.task.task import Batch, Task
from tunas.task.trial import try_task
from tunas.train.before import check_before_training, figures_of
from tunas.train.config import TrainConfig, TrainPlan, plan_training, splits, training_recipe
from tunas.train.evaluation import Evaluation, evaluate, trouble
from tunas.train.follow import FOLLOWED, followed
from tunas.train.initial import advising_init_from, as_trained, initialised
from tunas.train.modes import check_flags
from tunas.train.scoring import Scoring
from tunas.train.trained import trained_weights
from tunas.train.weights import load_weights


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
    check_trackers(config.log_to)
    keep_freed_memory()
    keep_primitives()
    with joined_world(config.device) as world:
        space = get_space(config.ssd)
        architecture = _architecture(space, config)
        directory = Path(
            world.from_main(lambda: config.checkpoint_dir or default_directory("train", space.name))
        ).expanduser()
        check_flags(config, directory)
        if config.mode == "eval":
            check_directory(directory)
            weights_dir = Path(config.checkpoint).parent if config.checkpoint else directory
            task = open_task(config, directory, weights_dir, task)
            return _evaluate_only(config, architecture, task, world, directory)
        with alone_in(directory, world):
            began = time.monotonic()
            task = open_task(config, directory, task=task)
            if not (task.is_proven and isinstance(architecture.structure, Tower)):
                network = _network(config, architecture, task).to(world.device).eval()
                try_task(task, splits(config)[0], world.device, network)
            figures = figures_of(config, architecture, task, world)
            check_before_training(config, architecture, task, world)
            config, initial = world.from_main(lambda: initialised(config, architecture, task, directory))
            config = within_minutes(
                config, directory, world, began, lambda config: trial(config, architecture, task, world)
            )
            plan = plan_training(config, task.size(splits(config)[0]))
            if plan.batch % world.size:
                raise InputError(
                    f"the batch of {plan.batch} {task.unit} cannot be divided among {world.size} processes; choose a "
                    f"multiple of {world.size}"
                )
            lesson, decided = opened_lesson(
                config,
                task,
                world,
                directory,
                lambda image_size, mirrors: training_recipe(config, task.size(plan.train_split), image_size, mirrors),
            )
            plan = plan_training(config, task.size(plan.train_split), lesson.recipe)
            facts = {"version": tunas.__version__, "processes": world.size, **task.facts(), **task.identity()}
            params = plan.params(config, **facts, **decided)
            params["ssd"] = space.name

            def begin() -> None:
                check_examples(directory, task.check_same)
                with advising_init_from(directory, plan.epochs):
                    open_run(
                        directory,
                        params,
                        structure_to_json(scale_filters(architecture.structure, config.filters_multiplier)),
                        task.compared,
                    )
                with writing_to(directory):
                    task.describe(directory)

            world.from_main(begin)
            if world.is_main:
                print(lesson.said(), file=sys.stderr)
            return _train(config, plan, architecture, lesson, world, directory, figures, initial)


def trial(config: TrainConfig, architecture: Architecture, task: Task, world: World) -> Trial:
    """The training with its default epochs, to time its steps: its learning rate is 0."""
    plan = dataclasses.replace(plan_training(config, task.size(splits(config)[0])), learning_rate=0.0)
    network = _network(config, architecture, task, plan)
    network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    if space.num_choices and not config.indices.strip():
        raise InputError(
            f"{space.name} is a search space: name one of its architectures with --indices (`tunas analyze` prints "
            f"them), or with --from the search that found one"
        )
    return space.architecture(config.indices)


def _network(
    config: TrainConfig,
    architecture: Architecture,
    task: Task,
    plan: TrainPlan | None = None,
) -> Network:
    """The network to train by `plan`, or to evaluate where there is none."""
    if not isinstance(architecture.structure, Tower):
        network = build_network(architecture)
        for module in network.modules():
            if isinstance(module, BatchNorm1d | BatchNorm2d) and plan is not None:
                module.momentum = plan.bn_momentum  # its own one is for long trainings
        return network
    tower = scale_filters(architecture.tower, config.filters_multiplier)
    options = options_of_training(vars(config))
    if plan is None:
        return build_network(tower, **task.network_arguments, options=options)
    options = dataclasses.replace(options, path_dropout_rate=plan.path_dropout_rate, bn_momentum=plan.bn_momentum)
    network = build_network(tower, **task.network_arguments, dropout_rate=plan.dropout_rate, options=options)
    if plan.used_recipe.path_dropout_by_depth:
        drop_paths_by_depth(network, plan.path_dropout_rate)
    return network


class Training:
    """The state of a training in one process, and its step."""

    def __init__(self, network: Network, lesson: Lesson, plan: TrainPlan, config: TrainConfig, world: World):
        self.network, self.lesson, self.plan, self.config, self.world = network, lesson, plan, config, world
        recipe = plan.used_recipe
        if plan.head_steps and not hasattr(network, "tower"):
            raise InputError("head_epochs lets the classifier learn alone, and this network has none of its own")
        groups = parameter_groups(network, plan.weight_decay, config.layer_decay)
        self.optimizer = optimizer_named(recipe.optimizer, groups, recipe.momentum)
        self.ema: ModelEmaV3 | None = None
        if plan.ema_decay is not None:
            self.ema = ModelEmaV3(network, decay=plan.ema_decay, use_warmup=config.ema_warmup)
        self.kernels = [
            parameter for group in self.optimizer.param_groups if group["weight_decay"] for parameter in group["params"]
        ]
        self.forward: nn.Module = network
        self.parallel: DistributedDataParallel | None = None
        if world.size > 1:
            self.forward = self.parallel = DistributedDataParallel(
                network,
                device_ids=[world.device.index] if world.device.type == "cuda" else None,
                broadcast_buffers=False,  # see `share_statistics`
                find_unused_parameters=plan.path_dropout_rate > 0,
            )
        if config.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

    @property
    def evaluated(self) -> nn.Module:
        """The network whose quality counts: the averaged one where there is one."""
        return self.ema.module if self.ema is not None else self.network

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """One optimiser step on this process's part of the batch; the scalars to log.

        Raises:
            DivergedError: where the loss is not finite, naming the step.
        """
        config, plan, world = self.config, self.plan, self.world
        torch.manual_seed(int(generator(config.seed, "dropout", step * world.size + world.rank).integers(2**62)))
        mixing = int(generator(config.seed, "mixing", step * world.size + world.rank).integers(2**62))
        learning_rate = plan.learning_rate_at(step)
        batch = on_device(batch, world.device)
        whole = length(batch)
        head_only = step < plan.head_steps
        self.network.train()
        if head_only:
            self.network.tower.eval()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=world.device)
        pieces = parts(batch, config.gradient_accumulation)
        for number, (inputs, targets) in enumerate(pieces):
            last = number + 1 == len(pieces)
            share_of_batch = length(targets) / whole
            inputs, targets = self.lesson.prepared(inputs, targets, mixing + number)
            with self._no_exchange(not last), autocast(world.device, config.precision):
                outputs = self.forward(inputs)
                share = self.lesson.loss(as_float(outputs), targets) * share_of_batch
                share.backward()
            total += share.detach()
        set_learning_rates(self.optimizer.param_groups, learning_rate, head_only=head_only)
        with torch.no_grad():
            regularization = 0.5 * plan.weight_decay * torch.stack(torch._foreach_norm(self.kernels)).square().sum()
        clip_gradients(self.network.parameters(), plan.used_recipe.clip_grad)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.network, step=step)
        empirical = float(world.gather(total.reshape(1)).mean())
        if not torch.isfinite(torch.tensor(empirical)):
            raise DivergedError(
                f"the loss is {empirical} at step {step}; the last checkpoint is kept: lower --base_learning_rate "
                f"and start a new run"
            )
        return {
            "model/loss": empirical + float(regularization),
            "model/empirical_loss": empirical,
            "model/regularization_loss": float(regularization),
            "model/learning_rate": learning_rate,
        }

    def _no_exchange(self, quiet: bool) -> contextlib.AbstractContextManager[Any]:
        return self.parallel.no_sync() if quiet and self.parallel is not None else contextlib.nullcontext()

    def share_statistics(self) -> None:
        """Gives every process the mean of all processes' running batch-norm statistics.

        They are moving averages of what each process sees in its part of the batch, and averages of averages commute.
        """
        self.world.average_(self.network.buffers())
        if self.ema is not None:
            self.world.average_(self.ema.module.buffers())

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, beside the step."""
        state = self.optimizer.state_dict()["state"]
        found = {f"model/{name}": value for name, value in self.network.state_dict().items()}
        found |= {
            f"optimizer/{index}/{name}": torch.as_tensor(value)
            for index, values in state.items()
            for name, value in values.items()
        }
        if self.ema is not None:
            found |= {f"ema/{name}": value for name, value in self.ema.module.state_dict().items()}
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Goes on where `tensors` was taken.

        Raises:
            InputError: where the weights do not fit the network.
        """
        load_tensors(self.network, tensors, "model/")
        if self.ema is not None:
            load_tensors(self.ema.module, tensors, "ema/")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Loads the tensors under `prefix` into `module`.

    Raises:
        InputError: where names or shapes do not fit.
    """
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint does not fit this architecture: {str(error).splitlines()[-1].strip()}"
        ) from None


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
        return self.state.step(step, next(self.stream))

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


def _train(
    config: TrainConfig,
    plan: TrainPlan,
    architecture: Architecture,
    lesson: Lesson,
    world: World,
    directory: Path,
    figures: dict[str, Any],
    initial: dict[str, Tensor] | None = None,
) -> TrainResult:
    seed_global_generators(config.seed)
    task = lesson.task
    network = _network(config, architecture, task, plan)
    if initial is not None:
        network.load_state_dict(initial, strict=False)  # `initialised` has compared names and shapes
    network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = TrainRun(Training(network, lesson, plan, config, world), directory)
    carry_out(run, directory, world, config.log_to)
    evaluation = None
    if run.scores:
        evaluation = run.scoring.last or run.evaluated()
        if world.is_main:
            warn(trouble(evaluation, plan.eval_split, task.guessing_loss))
    return _finish(
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


def _evaluate_only(
    config: TrainConfig, architecture: Architecture, task: Task, world: World, directory: Path
) -> TrainResult:
    facts: dict[str, Any] = {}
    if config.checkpoint is None and config.checkpoint_dir is None:
        raise InputError("--mode=eval needs weights: give --checkpoint_dir of a training, or --checkpoint FILE")
    if config.follow:
        if config.checkpoint is not None:
            raise InputError("--follow scores the checkpoints in --checkpoint_dir: leave out --checkpoint")
        return _follow(config, architecture, task, world, directory)
    network = _network(as_trained(config, directory), architecture, task)
    if config.checkpoint is not None:
        network = load_weights(network, Path(config.checkpoint), architecture, config.timm_model)
    else:
        trained = world.from_main(lambda: trained_weights(directory, config.which))
        load_tensors(network, trained.tensors, "")
        facts = {"weights": trained.which, "step": trained.step}
    network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    split = task.evaluated_split(splits(config)[1])
    figures = figures_of(config, architecture, task, world)
    world.from_main(lambda: make_directory(directory))
    evaluation = evaluate(network, task, split, world, batch_size=config.eval_batch_size, precision=config.precision)
    return _finish(config, architecture, task, world, directory, evaluation, split, **facts, **figures)


def _follow(config: TrainConfig, architecture: Architecture, task: Task, world: World, directory: Path) -> TrainResult:
    """Scores each new checkpoint of a running training, until its last."""
    split = splits(config)[1]
    figures = figures_of(config, architecture, task, world)

    def evaluated(tensors: dict[str, Tensor]) -> Evaluation:
        network = _network(as_trained(config, directory), architecture, task)
        load_tensors(network, tensors, "")
        network.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return evaluate(network, task, split, world, batch_size=config.eval_batch_size, precision=config.precision)

    evaluation, step = followed(directory, config.which, world, task.quality_name, split, evaluated)
    where = directory / FOLLOWED
    return _finish(config, architecture, task, world, where, evaluation, split, step=step, **figures)


def _finish(
    config: TrainConfig,
    architecture: Architecture,
    task: Task,
    world: World,
    directory: Path,
    evaluation: Evaluation | None,
    split: str,
    **facts: Any,
) -> TrainResult:
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
