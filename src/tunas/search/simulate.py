"""A simulated search: accuracies come from a model that was fitted to trained architectures, and no network is run. The
controller alone, at full published length in seconds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tunas
from tunas.cost.model import CostModel
from tunas.data.config import IMAGENET_SIZE
from tunas.data.storage import read_bytes
from tunas.errors import InputError
from tunas.flags import given, refuse
from tunas.run.checkpoint import resumed_checkpoint, save_checkpoint
from tunas.run.device import World
from tunas.run.directory import alone_in, default_directory, open_run, read_params, write_result
from tunas.run.events import EventLog, log_hyperparameters
from tunas.run.session import generator, run_steps
from tunas.run.trackers import open_trackers
from tunas.search.config import SearchConfig, SearchPlan, plan_search
from tunas.search.controller import Controller
from tunas.search.learning import learn
from tunas.search.objective import Objective, search_objective
from tunas.search.reachable import check_reachable
from tunas.search.result import SearchResult, search_result
from tunas.search.schedule import rl_learning_rate, warmup_probability
from tunas.space import Space, Tower, get_space, structure_to_json

TRAIN_IMAGES = 1_231_121
"""Of ImageNet without what is held out: by how many the published run counts its epochs."""
CLASSES = 1000
MEANT = """ssd checkpoint_dir epochs train_batch_size replicas image_size device seed log_to log_every checkpoint_every
    enable_cost_model cost_model at_most constraint num_cost_samples accuracy_model
    use_exponential_rl_learning_rate_schedule increase_ops_warmup_steps_fraction
    increase_filters_warmup_steps_fraction"""
"""Flags that mean something here, beside those that begin with rl_."""


class Simulation:
    """The state of a simulated search, and its step.

    Args:
        space: what is searched.
        accuracy: of its architectures, 0 to 1.
    """

    def __init__(self, space: Space, accuracy: CostModel, plan: SearchPlan, config: SearchConfig, objective: Objective):
        self.accuracy, self.plan, self.config, self.objective = accuracy, plan, config, objective
        self.controller = Controller(
            space, momentum=plan.rl_baseline_momentum, temperature=config.rl_temperature, beta2=plan.rl_adam_beta2
        )

    def step(self, step: int) -> dict[str, float]:
        """One controller step; the scalars to log, as of `Search.step`."""
        plan, seed = self.plan, self.config.seed
        warmups = (
            warmup_probability(step, plan.increase_ops_steps),
            warmup_probability(step, plan.increase_filters_steps),
        )
        samples = self.controller.sample(generator(seed, "controller", step), plan.replicas, *warmups)
        rate = rl_learning_rate(plan.rl_learning_rate, step, plan.steps, plan.rl_delay_steps, plan.rl_growth)
        scalars = {
            "learning_rate": rate,
            "increase_ops_prob": warmups[0],
            "increase_filters_prob": warmups[1],
        }
        if step < plan.unmeasured_steps:
            costs = self.objective.reward(np.zeros(len(samples)), samples.indices).scalars
            scalars |= {"entropy": self.controller.entropy(), "log_prob": float(samples.log_prob.mean()), **costs}
        else:
            images = plan.delay_valid_share if step < plan.rl_delay_steps else plan.valid_share
            quality = measured(self.accuracy.estimate(samples.indices), images, generator(seed, "noise", step))
            outcome, update = learn(self, step, samples, quality, rate, warmups)
            means = {"validation_accuracy": float(quality.mean()), "reward": float(outcome.reward.mean())}
            scalars |= {**means, **update, **outcome.scalars}
        return {f"rlcontroller/{name}": value for name, value in scalars.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The arrays of a checkpoint."""
        state = self.controller.state_dict()
        return {name: torch.from_numpy(value) for name, value in state.items() if isinstance(value, np.ndarray)}

    def numbers(self) -> dict[str, Any]:
        """The plain numbers of a checkpoint."""
        state = self.controller.state_dict()
        return {"controller": {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}}

    def load(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        """Goes on where `tensors` and `numbers` were taken; `InputError` where they do not fit."""
        arrays = {name: value.numpy() for name, value in tensors.items()}
        self.controller.load_state_dict({**numbers.get("controller", {}), **arrays})


def measured(accuracies: np.ndarray, images: int, random: np.random.Generator) -> np.ndarray:
    """The accuracies `[N]` with the noise of being measured on so many images each."""
    variance = np.maximum(accuracies * (1 - accuracies), 0.0) / images
    return np.clip(accuracies + np.sqrt(variance) * random.normal(size=len(accuracies)), 0.0, 1.0)


def simulated_search(config: SearchConfig, accuracy_model: str, task: Any = None) -> SearchResult:
    """Runs a simulated search, or goes on with the one in `config.checkpoint_dir`.

    Args:
        accuracy_model: a file that `tunas released --out` wrote.
        task: what nothing is learned of: must be None.

    Raises:
        InputError: where the configuration cannot be carried out, or the file is no model of accuracy of the space.
        Stopped: where SIGTERM or SIGINT asked for it; the state is saved.
    """
    _check_flags(config, task)
    space = get_space(config.ssd)
    if not space.num_choices:
        raise InputError(f"{config.ssd} is one fixed architecture, there is nothing to search")
    accuracy = CostModel.load(accuracy_model, space)
    if accuracy.unit != "accuracy":
        raise InputError(
            f"{accuracy_model} gives {accuracy.unit}, not accuracies; name a file that `tunas released --out` wrote"
        )
    plan = plan_search(config, TRAIN_IMAGES, digits=False, on_cuda=False)
    facts = {"image_size": config.image_size or IMAGENET_SIZE, "num_classes": CLASSES}
    if not isinstance(space.structure, Tower):
        facts = {}
    objective = search_objective(config, plan.rl_cost_model_exponent, space, facts)
    check_reachable(objective, config.rl_cost_model_tolerance)
    checksum = hashlib.sha256(read_bytes(accuracy_model)).hexdigest()
    known = {"dataset": "simulated", "accuracy_model_sha256": checksum, "version": tunas.__version__}
    params = plan.params(config, **objective.facts(), **facts, **known) | {"ssd": space.name}
    world = World(0, 1, torch.device("cpu"))
    directory = Path(config.checkpoint_dir or default_directory("search", space.name)).expanduser()
    with alone_in(directory, world):
        open_run(directory, params, structure_to_json(space.structure))
        return _run(Simulation(space, accuracy, plan, config, objective), directory, world)


def _check_flags(config: SearchConfig, task: Any) -> None:
    meant = {name for name in given(config) if name in MEANT.split() or name.startswith("rl_")}
    refuse(config, given(config).keys() - meant, "to a simulated search, which trains and measures no network")
    if task is not None:
        raise InputError("a simulated search learns nothing; leave out the task, or accuracy_model")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a simulated search runs in one process; start it without torchrun")


def _run(state: Simulation, directory: Path, world: World) -> SearchResult:
    plan, objective, config = state.plan, state.objective, state.config
    start, quality = 0, 0.0
    if (found := resumed_checkpoint(directory, world)) is not None:
        state.load(*found)
        start, quality = found[1]["step"], found[1]["quality"]
    events = EventLog(directory, open_trackers(config.log_to, directory))

    def advance(step: int) -> dict[str, float]:
        nonlocal quality
        scalars = state.step(step)
        quality = scalars.get("rlcontroller/validation_accuracy", quality)
        return scalars

    def log(step: int, scalars: dict[str, float]) -> None:
        best = state.controller.most_likely()
        scored = {"eval/accuracy": state.accuracy.estimate(best)}
        events.log(
            step, [*scalars.items(), *scored.items(), *state.controller.logit_names()], {"architecture": best.text}
        )

    def save(done: int, scalars: dict[str, float]) -> None:
        numbers = {**state.numbers(), "events": events.sizes(), "quality": quality}
        save_checkpoint(directory, done, state.tensors(), numbers)

    def status(scalars: dict[str, float], rate: float) -> str:
        cost = f" cost {scalars['rlcontroller/estimated_cost']:.4g} {objective.unit}" if objective.model else ""
        known = f"accuracy {quality:.3f}" if "rlcontroller/reward" in scalars else "not learning yet"
        return f"{known}{cost} entropy {scalars['rlcontroller/entropy']:.1f} {rate:.0f} steps/s"

    try:
        run_steps(
            "simulated search",
            range(start, plan.steps),
            advance,
            log=log,
            save=save,
            status=status,
            log_every=plan.log_every,
            save_every=plan.checkpoint_every,
            world=world,
        )
        if start < plan.steps:
            log_hyperparameters(directory, read_params(directory), {"hparams/quality": quality})
    finally:
        events.close()
    result = search_result(state, directory, plan.steps, quality)
    write_result(directory, _document(result, state))
    return result


def _document(result: SearchResult, state: Simulation) -> dict[str, Any]:
    return {
        "ssd": result.architecture.space.name,
        "indices": result.architecture.text,
        "cost": result.cost,
        "target": result.target,
        "unit": result.unit,
        "at_most": result.at_most,
        "constraints": state.objective.constraint_costs(result.architecture),
        "steps": result.steps,
        "accuracy": state.accuracy.estimate(result.architecture),
        "accuracy_model": state.config.accuracy_model,
        "seed": state.config.seed,
        "dataset": "simulated",
        "versions": {"tunas": tunas.__version__},
    }
