"""The search: one step, and the loop around it (SPEC §3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tunas
from tunas.errors import DivergedError, InputError
from tunas.nn.supernet import SuperNet
from tunas.recipe.optimizer import rmsprop
from tunas.recipe.precision import autocast
from tunas.recipe.schedule import cosine_decay_with_linear_warmup
from tunas.run.checkpoint import resumed_checkpoint, save_checkpoint
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
from tunas.run.events import EventLog
from tunas.run.session import ended, generator, run_steps, seed_global_generators, warn
from tunas.run.trackers import check_trackers, open_trackers
from tunas.search.config import SEARCH_HARMLESS, SearchConfig, SearchPlan, plan_search
from tunas.search.controller import Controller, Samples
from tunas.search.objective import Objective, search_objective
from tunas.search.schedule import rl_learning_rate, warmup_probability
from tunas.space import Architecture, Space, Tower, get_space, structure_to_json
from tunas.task.batches import as_float, on_device, piece
from tunas.task.opening import open_task
from tunas.task.task import Batch, Task
from tunas.task.trial import try_task


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        architecture: the most likely choice of every OneOf, or near it, within `rl_cost_model_tolerance`.
        cost: predicted, in `unit`; None where cost did not count.
        target: what the search aimed for.
        unit: of both.
        checkpoint_dir: the run directory.
        steps: done in all.
        quality: mean over the architectures sampled in the last step, on validation examples with shared weights.
    """

    architecture: Architecture
    cost: float | None
    target: float | None
    unit: str
    checkpoint_dir: Path
    steps: int
    quality: float


class Search:
    """The state of a search in one process, and its step.

    All processes sample all replicas' architectures and hold the same controller; each runs its own part of the
    replicas.
    """

    def __init__(
        self, space: Space, task: Task, plan: SearchPlan, config: SearchConfig, objective: Objective, world: World
    ):
        self.task, self.plan, self.config, self.objective, self.world = task, plan, config, objective, world
        seed_global_generators(config.seed)
        self.supernet = SuperNet(
            space,
            **task.network_arguments,
            rematerialize=config.rematerialize,
            same_padding=config.padding == "same",
        )
        self.supernet.to(world.device)
        self.weights = self.supernet.flatten()
        self.optimizer = rmsprop([self.weights], config.model_momentum)
        self.controller = Controller(
            space, momentum=plan.rl_baseline_momentum, temperature=config.rl_temperature, beta2=plan.rl_adam_beta2
        )
        local = plan.replicas // world.size
        self.local_replicas = range(world.rank * local, (world.rank + 1) * local)

    def step(self, step: int, train: list[Batch], valid: list[Batch]) -> dict[str, float]:
        """One weight step and one controller step; the scalars to log.

        Args:
            step: from 0.
            train: inputs and targets for each of this process's replicas, of the training batch.
            valid: the same of the validation batch.

        Raises:
            DivergedError: where a loss is not finite, naming the step and the architecture.
        """
        plan, config = self.plan, self.config
        op_probability = warmup_probability(step, plan.increase_ops_steps)
        filters_probability = warmup_probability(step, plan.increase_filters_steps)
        samples = self.controller.sample(
            generator(config.seed, "controller", step), plan.replicas, op_probability, filters_probability
        )
        learning_rate = cosine_decay_with_linear_warmup(plan.learning_rate, step, plan.steps, plan.warmup_steps)
        losses = self._train(step, samples, train, learning_rate)
        qualities = self._validate(
            samples, valid, plan.delay_valid_share if step < plan.rl_delay_steps else plan.valid_share
        )
        measured = self.world.gather(torch.cat([losses, qualities[:, None]], 1)).cpu().double().numpy()
        self._check_finite(step, samples, measured)
        empirical, regularization, quality = measured.T

        outcome = self.objective.reward(quality, samples.indices)
        rate = rl_learning_rate(plan.rl_learning_rate, step, plan.steps, plan.rl_delay_steps, plan.rl_growth)
        cost_gradient = None
        if plan.num_cost_samples:
            random = generator(config.seed, "cost", step)
            cost_gradient = self.controller.cost_gradient(
                random, plan.num_cost_samples, self.objective.cost_reward, op_probability, filters_probability
            )
        learned_from = quality if plan.num_cost_samples else outcome.reward
        update = self.controller.update(samples, learned_from, rate, config.rl_entropy_regularization, cost_gradient)
        scalars = {
            "model/loss": float((empirical + regularization).mean()),
            "model/empirical_loss": float(empirical.mean()),
            "model/regularization_loss": float(regularization.mean()),
            "model/learning_rate": learning_rate,
            "rlcontroller/validation_accuracy": float(quality.mean()),
            "rlcontroller/reward": float(outcome.reward.mean()),
            **{f"rlcontroller/{name}": value for name, value in update.items()},
            **{f"rlcontroller/{name}": value for name, value in outcome.scalars.items()},
            "rlcontroller/learning_rate": rate,
            "rlcontroller/increase_ops_prob": op_probability,
            "rlcontroller/increase_filters_prob": filters_probability,
        }
        return scalars

    def _train(self, step: int, samples: Samples, batch: list[Batch], learning_rate: float) -> Tensor:
        """One optimiser step on all replicas; `[local replicas, 2]`: each one's empirical and regularisation loss."""
        plan = self.plan
        gradient = self.weights.grad
        assert gradient is not None
        gradient.zero_()
        losses = []
        self._set_training(True)
        for replica, inputs, targets in self._shares(batch):
            random = generator(self.config.seed, "dropout", step * plan.replicas + replica)
            torch.manual_seed(int(random.integers(2**62)))
            loss = self.task.loss(self._outputs(inputs, samples.indices[replica]), targets)
            (loss / plan.replicas).backward()
            losses.append(torch.stack([loss.detach(), self._decay_weights()]))
        self.world.sum_(gradient)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return torch.stack(losses)

    @torch.no_grad()
    def _decay_weights(self) -> Tensor:
        """Adds the gradient of the L2 of the kernels that the last replica used; its part of the loss."""
        used = self.supernet.used
        decay = self.plan.weight_decay
        for kernel, share in zip(used.kernels, used.shares, strict=True):
            assert kernel.grad is not None
            kernel.grad.add_(kernel, alpha=share * decay / self.plan.replicas)
        squares = torch.stack(torch._foreach_norm(used.kernels)).square()
        return 0.5 * decay * torch.dot(squares, squares.new_tensor(used.shares))

    @torch.no_grad()
    def _validate(self, samples: Samples, batch: list[Batch], used: int) -> Tensor:
        """`[local replicas]`: quality of each one's architecture on the first `used` examples of its share of the
        validation batch."""
        qualities = []
        self._set_training(False)
        for replica, inputs, targets in self._shares(batch):
            outputs = self._outputs(piece(inputs, 0, used), samples.indices[replica])
            qualities.append(self.task.quality(outputs, piece(targets, 0, used)))
        return torch.stack(qualities).to(self.world.device, torch.float32)

    def _set_training(self, on: bool) -> None:
        """Lets the dropout of a model of one's own know; a tower has none here, and batch norm has no state."""
        if self.supernet.is_own:
            self.supernet.train(on)

    def _outputs(self, inputs: Any, indices: np.ndarray) -> Any:
        with autocast(self.world.device, self.plan.precision):
            outputs = self.supernet(self.task.prepare(inputs), indices)
        return as_float(outputs)

    def _shares(self, batch: list[Batch]) -> Iterator[tuple[int, Any, Any]]:
        for replica, share in zip(self.local_replicas, batch, strict=True):
            yield replica, *on_device(share, self.world.device)

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
        controller = self.controller.state_dict()
        arrays = {
            name: torch.from_numpy(np.asarray(value))
            for name, value in controller.items()
            if isinstance(value, np.ndarray)
        }
        return {
            "weights": self.weights,
            "square_avg": state.get("square_avg", torch.ones_like(self.weights)),
            "momentum_buffer": state.get("momentum_buffer", torch.zeros_like(self.weights)),
            **{f"controller/{name}": array for name, array in arrays.items()},
        }

    def numbers(self) -> dict[str, Any]:
        """The plain numbers of a checkpoint."""
        controller = self.controller.state_dict()
        return {"controller": {name: value for name, value in controller.items() if not isinstance(value, np.ndarray)}}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Goes on where `tensors` and `numbers` were taken.

        Raises:
            InputError: where they do not fit this search.
        """
        for name in ("weights", "square_avg", "momentum_buffer"):
            if name not in tensors or tensors[name].shape != self.weights.shape:
                raise InputError(f"the checkpoint's {name} do not fit this search space")
        self.weights.copy_(tensors["weights"])
        state = self.optimizer.state_dict()
        state["state"] = {
            0: {
                "step": torch.tensor(float(numbers["step"])),
                "square_avg": tensors["square_avg"].clone(),
                "momentum_buffer": tensors["momentum_buffer"].clone(),
            }
        }
        self.optimizer.load_state_dict(state)
        arrays = {
            name.removeprefix("controller/"): array.numpy()
            for name, array in tensors.items()
            if name.startswith("controller/")
        }
        self.controller.load_state_dict({**numbers["controller"], **arrays})


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
    with joined_world(config.device) as world:
        space = get_space(config.ssd)
        if not space.num_choices:
            raise InputError(
                f"{config.ssd} is one fixed architecture, there is nothing to search; train it with `tunas train "
                f"--ssd {config.ssd}`"
            )
        directory = Path(
            world.from_main(lambda: config.checkpoint_dir or default_directory("search", space.name))
        ).expanduser()
        with alone_in(directory, world):
            return _search(space, config, world, directory, task)


def _search(space: Space, config: SearchConfig, world: World, directory: Path, task: Task | None) -> SearchResult:
    task = open_task(config, directory, task=task)
    plan = plan_search(config, task.size("train"), digits=task.name == "digits", on_cuda=world.device.type == "cuda")
    if plan.replicas % world.size:
        raise InputError(
            f"{plan.replicas} replicas cannot be divided among {world.size} processes; choose a multiple of "
            f"{world.size}"
        )
    if not (task.is_proven and isinstance(space.structure, Tower)):
        supernet = SuperNet(space, **task.network_arguments).to(world.device).eval()
        try_task(task, "train", world.device, lambda inputs: supernet(inputs, [0] * space.num_choices))
    objective = search_objective(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
    params = plan.params(config, **objective.facts(), **task.facts(), **task.identity(), version=tunas.__version__)
    params["ssd"] = space.name

    def begin() -> None:
        check_examples(directory, task.check_same)
        open_run(directory, params, structure_to_json(space.structure), SEARCH_HARMLESS | {"version"} | task.compared)
        with writing_to(directory):
            task.describe(directory)

    world.from_main(begin)
    return _run(space, task, plan, config, objective, world, directory)


def _run(
    space: Space,
    task: Task,
    plan: SearchPlan,
    config: SearchConfig,
    objective: Objective,
    world: World,
    directory: Path,
) -> SearchResult:
    state = Search(space, task, plan, config, objective, world)
    start, quality = _resume(state, directory, world)
    streamed: dict[str, Any] = {"seed": config.seed, "start_step": start, "shard": (world.rank, world.size)}
    local = len(state.local_replicas)
    train = task.share_stream("train", plan.batch, local, **streamed, augment=True)
    valid = task.share_stream("valid", plan.valid_share * plan.replicas, local, **streamed)
    events = EventLog(directory, open_trackers(config.log_to, directory)) if world.is_main else None

    def advance(step: int) -> dict[str, float]:
        nonlocal quality
        scalars = state.step(step, next(train), next(valid))
        quality = scalars["rlcontroller/validation_accuracy"]
        return scalars

    def log(step: int, scalars: dict[str, float]) -> None:
        if events:
            events.log(step, [*scalars.items(), *state.controller.logit_names()])
            events.text(step, "architecture", state.controller.most_likely().text)

    def save(done: int, scalars: dict[str, float]) -> None:
        def write() -> None:
            assert events is not None
            save_checkpoint(
                directory, done, state.tensors(), {**state.numbers(), "events": events.sizes(), "quality": quality}
            )

        world.from_main(write)

    def status(scalars: dict[str, float], rate: float) -> str:
        cost = (
            f" cost {scalars['rlcontroller/estimated_cost']:.4g} {objective.unit}"
            if objective.model is not None
            else ""
        )
        return (
            f"reward {scalars['rlcontroller/reward']:.3f} {task.quality_name} {quality:.3f}{cost} "
            f"entropy {scalars['rlcontroller/entropy']:.1f} {rate * plan.batch:.0f} {task.unit}/s"
        )

    try:
        with ended(train, valid):
            run_steps(
                "search",
                range(start, plan.steps),
                advance,
                log=log,
                save=save,
                status=status,
                log_every=plan.log_every,
                save_every=plan.checkpoint_every,
                world=world,
            )
        if events and start < plan.steps:
            events.hyperparameters(read_params(directory), {"hparams/quality": quality})
    finally:
        if events:
            events.close()
    result = _result(state, directory, plan.steps, quality)
    world.from_main(lambda: _write_result(result, state))
    warn(task.left_out())
    return result


def _resume(state: Search, directory: Path, world: World) -> tuple[int, float]:
    """(steps done, last quality) after loading the newest whole checkpoint, if there is one."""
    found = resumed_checkpoint(directory, world)
    if found is None:
        return 0, 0.0
    tensors, numbers = found
    state.load(tensors, numbers)
    return numbers["step"], numbers["quality"]


def _result(state: Search, directory: Path, steps: int, quality: float) -> SearchResult:
    objective, tolerance = state.objective, state.config.rl_cost_model_tolerance
    architecture = state.controller.most_likely()
    if tolerance is not None and objective.target is not None:
        architecture = state.controller.likeliest_within(objective.model.estimate, objective.target, tolerance)
    cost = objective.cost_of(architecture)
    return SearchResult(architecture, cost, objective.target, objective.unit, directory, steps, quality)


def _write_result(result: SearchResult, state: Search) -> None:
    task = state.task
    document = {
        "ssd": result.architecture.space.name,
        "indices": result.architecture.text,
        "cost": result.cost,
        "target": result.target,
        "unit": result.unit,
        "constraints": state.objective.constraint_costs(result.architecture),
        "steps": result.steps,
        f"shared_weights_{task.quality_name}": result.quality,
        "seed": state.config.seed,
        "dataset": task.name,
        f"bad_{task.unit}": task.left_out(),
        "versions": {"tunas": tunas.__version__, "torch": torch.__version__},
    }
    write_result(result.checkpoint_dir, document)
