"""A simulated search: accuracies come from a model that was fitted to trained architectures, and no network is run. The
controller alone, at full published length in seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
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
from tunas.run.device import World
from tunas.run.directory import alone_in, open_run, read_params, run_directory, write_result
from tunas.run.events import log_hyperparameters
from tunas.run.loop import Event, Run, Scalars, carry_out
from tunas.run.session import generator
from tunas.run.trackers import check_trackers
from tunas.search.aims import Aims
from tunas.search.config import SearchConfig
from tunas.search.objective import Objective, facts_of, search_objectives
from tunas.search.plan import SearchPlan, plan_search
from tunas.search.reachable import check_reachable
from tunas.search.result import SearchResult, result_document, search_result
from tunas.search.schedule import rl_learning_rate, warmup_probability
from tunas.space import Space, Tower, get_space, structure_to_json

TRAIN_IMAGES = 1_231_121
"""Images of ImageNet without what is held out; the published run counts its epochs by them."""
CLASSES = 1000
MEANT = """ssd checkpoint_dir epochs train_batch_size replicas image_size device seed log_to log_every checkpoint_every
    enable_cost_model cost_model at_most constraint num_cost_samples accuracy_model
    use_exponential_rl_learning_rate_schedule increase_ops_warmup_steps_fraction
    increase_filters_warmup_steps_fraction"""
"""Flags that mean something here, beside those that begin with rl_."""


class Simulation(Run):
    """The state of a simulated search, as `carry_out` takes it.

    Args:
        space: what is searched.
        accuracy: what its architectures are taken to have, 0 to 1.
    """

    label = "simulated search"

    def __init__(
        self,
        space: Space,
        accuracy: CostModel,
        plan: SearchPlan,
        config: SearchConfig,
        objectives: Sequence[Objective],
    ):
        self.accuracy, self.plan, self.config = accuracy, plan, config
        self.aims = Aims(space, plan, config, objectives)
        self.steps, self.log_every, self.save_every = plan.steps, plan.log_every, plan.checkpoint_every
        self.qualities = [0.0] * len(self.aims)

    @property
    def quality(self) -> float:
        """Mean quality of the last sampled architectures over the targets."""
        return sum(self.qualities) / len(self.qualities)

    def advance(self, step: int) -> Scalars:
        """One controller step; the scalars to log, as of `Search.step`."""
        plan, seed = self.plan, self.config.seed
        warmups = (
            warmup_probability(step, plan.increase_ops_steps),
            warmup_probability(step, plan.increase_filters_steps),
        )
        samples = self.aims.sample(step, warmups)
        rate = rl_learning_rate(plan.rl_learning_rate, step, plan.steps, plan.rl_delay_steps, plan.rl_growth)
        scalars = self.aims.told(rate, warmups)
        if step < plan.unmeasured_steps:
            return {**scalars, **self.aims.undecided(samples)}
        images = plan.delay_valid_share if step < plan.rl_delay_steps else plan.valid_share
        quality = measured(self.accuracy.estimate(samples.indices), images, generator(seed, "noise", step))
        scalars |= self.aims.learn(step, samples, quality, rate, warmups)
        self.qualities = self.aims.qualities(scalars) or self.qualities
        return scalars

    def logged(self, step: int, scalars: Scalars) -> Event:
        aims = self.aims
        scored = {f"eval/{aim.place}accuracy": self.accuracy.estimate(aim.controller.most_likely()) for aim in aims}
        return Event(step, [*scalars.items(), *scored.items(), *aims.logits()], aims.texts())

    def status(self, scalars: Scalars, rate: float) -> str:
        aims, known = self.aims, "not learning yet"
        if aims.mean(scalars, "reward") is not None:
            known = f"accuracy {self.quality:.3f}"
        return f"{known}{aims.cost_status(scalars)} entropy {aims.mean(scalars, 'entropy'):.1f} {rate:.0f} steps/s"

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.aims.tensors()

    def numbers(self) -> dict[str, Any]:
        return {**self.aims.numbers(), "qualities": self.qualities}

    def load(self, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]) -> None:
        self.aims.load(tensors, numbers)
        self.qualities = numbers.get("qualities") or [numbers["quality"]]


def measured(accuracies: np.ndarray, images: int, random: np.random.Generator) -> np.ndarray:
    """The accuracies `[N]` with the noise of being measured on `images` images each."""
    variance = np.maximum(accuracies * (1 - accuracies), 0.0) / images
    return np.clip(accuracies + np.sqrt(variance) * random.normal(size=len(accuracies)), 0.0, 1.0)


def simulated_search(config: SearchConfig, accuracy_model: str, task: Any) -> SearchResult:
    """Runs a simulated search, or goes on with the one in `config.checkpoint_dir`.

    Args:
        accuracy_model: a file that `tunas released --out` wrote.
        task: must be None, for nothing is learned.

    Raises:
        InputError: where the configuration cannot be carried out, or the file is no model of accuracy of the space.
        Stopped: where SIGTERM or SIGINT asked for it; the state is saved.
    """
    check_trackers(config.log_to)
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
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, facts)
    check_reachable(objectives, config.rl_cost_model_tolerance)
    checksum = hashlib.sha256(read_bytes(accuracy_model)).hexdigest()
    known = {"dataset": "simulated", "accuracy_model_sha256": checksum, "version": tunas.__version__}
    params = plan.params(config, **facts_of(objectives), **facts, **known, ssd=space.name)
    world = World(0, 1, torch.device("cpu"))
    directory = run_directory("search", space.name, config.checkpoint_dir, world)
    with alone_in(directory, world):
        open_run(directory, params, structure_to_json(space.structure))
        return _run(Simulation(space, accuracy, plan, config, objectives), directory, world)


def _check_flags(config: SearchConfig, task: Any) -> None:
    meant = {name for name in given(config) if name in MEANT.split() or name.startswith("rl_")}
    refuse(config, given(config).keys() - meant, "to a simulated search, which trains and measures no network")
    if task is not None:
        raise InputError("a simulated search learns nothing; leave out the task, or accuracy_model")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a simulated search runs in one process; start it without torchrun")


def _run(state: Simulation, directory: Path, world: World) -> SearchResult:
    start = carry_out(state, directory, world, state.config.log_to)
    if start < state.steps:
        log_hyperparameters(directory, read_params(directory), {"hparams/quality": state.quality})
    result = search_result(state, directory, state.steps, state.qualities)
    document = result_document(result, state, lambda found: {"accuracy": state.accuracy.estimate(found.architecture)})
    facts = {"accuracy_model": state.config.accuracy_model, "dataset": "simulated"}
    write_result(directory, {**document, **facts, "versions": {"tunas": tunas.__version__}})
    return result
