"""The targets of a search, each with a controller of its own that learns to land on it
(docs/algorithm.md#several-targets)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunas.cost.model import with_unit
from tunas.errors import InputError
from tunas.run.session import generator
from tunas.search.config import SearchConfig
from tunas.search.controller import Controller
from tunas.search.distribution import Samples
from tunas.search.objective import Objective
from tunas.search.places import SCALARS, STATE, places
from tunas.search.plan import SearchPlan
from tunas.search.sharing import architecture_weights, baseline_momentum, choice_weights
from tunas.space import Space


@dataclass
class Aim:
    """One target, and the controller that learns to land on it.

    Args:
        place: what stands between `rlcontroller/` or `controller/` and a name; nothing in a search for one target.
    """

    objective: Objective
    controller: Controller
    place: str = ""

    def scalar(self, scalars: Mapping[str, float], name: str) -> float | None:
        """What `name` was in a step; None where it was not measured."""
        return scalars.get(f"{SCALARS}{self.place}{name}")


class Aims:
    """The targets of a search in their order. Replica r belongs to target r mod K.

    Args:
        plan: its replicas are a multiple of the targets.
    """

    def __init__(self, space: Space, plan: SearchPlan, config: SearchConfig, objectives: Sequence[Objective]):
        self.plan, self.config = plan, config
        self.each = [
            Aim(
                objective,
                Controller(
                    space,
                    momentum=baseline_momentum(plan.rl_baseline_momentum, len(objectives), plan.replicas),
                    temperature=config.rl_temperature,
                    beta2=plan.rl_adam_beta2,
                ),
                place,
            )
            for objective, place in zip(objectives, places(len(objectives)), strict=True)
        ]

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Aim]:
        return iter(self.each)

    def __getitem__(self, number: int) -> Aim:
        return self.each[number]

    @property
    def unit(self) -> str:
        """The unit of every cost; empty where they differ."""
        units = {aim.objective.unit for aim in self}
        return units.pop() if len(units) == 1 else ""

    def sample(self, step: int, warmups: tuple[float, float]) -> Samples:
        """An architecture for every replica.

        Args:
            warmups: probabilities with which operations and filters are all enabled.
        """
        count = len(self)
        drawn = [
            aim.controller.sample(self._random("controller", step, number), self.plan.replicas // count, *warmups)
            for number, aim in enumerate(self)
        ]
        return drawn[0] if count == 1 else _dealt(drawn)

    def learn(
        self, step: int, samples: Samples, quality: np.ndarray, rate: float, warmups: tuple[float, float]
    ) -> dict[str, float]:
        """Every controller's update from the qualities `[N]` of the sampled architectures; what to log."""
        learn = self._learn_alone if len(self) == 1 else self._learn_from_all
        return learn(step, samples, quality, rate, warmups)

    def _learn_alone(
        self, step: int, samples: Samples, quality: np.ndarray, rate: float, warmups: tuple[float, float]
    ) -> dict[str, float]:
        """The only controller learns from its replicas: where cost is priced apart, of the quality alone."""
        aim, is_priced = self[0], self.plan.num_cost_samples > 0
        outcome = aim.objective.reward(quality, samples.indices)
        cost_gradient = self._cost_gradient(step, 0, warmups)
        update = aim.controller.update(
            samples,
            quality if is_priced else outcome.reward,
            rate,
            self.config.rl_entropy_regularization,
            cost_gradient,
        )
        means = {"validation_accuracy": float(quality.mean()), "reward": float(outcome.reward.mean())}
        return self._tagged(aim, {**means, **update, **outcome.scalars})

    def _learn_from_all(
        self, step: int, samples: Samples, quality: np.ndarray, rate: float, warmups: tuple[float, float]
    ) -> dict[str, float]:
        """Every controller learns from all replicas.

        Where cost is priced apart, they tell about quality alone, choice by choice, each held against the baseline of
        the controller that drew it. Elsewhere they tell about a reward that only holds for whole architectures.
        """
        count, is_priced = len(self), self.plan.num_cost_samples > 0
        controllers = [aim.controller for aim in self]
        weights = (choice_weights if is_priced else architecture_weights)(controllers, samples)
        rows = [_rows(samples, slice(number, None, count)) for number in range(count)]
        rewards = [aim.objective.reward(quality, samples.indices).reward for aim in self]
        learned_from = [quality] * count if is_priced else rewards
        said = [
            aim.controller.take_in(rows[number], learned_from[number][number::count]) for number, aim in enumerate(self)
        ]
        baselines = np.array([aim.controller.baseline for aim in self])
        drawn_by = np.arange(len(samples)) % count
        found: dict[str, float] = {}
        for number, aim in enumerate(self):
            advantages = learned_from[number] - (baselines[drawn_by] if is_priced else baselines[number])
            update = aim.controller.follow(
                rows[number],
                samples,
                advantages,
                weights[number],
                rate,
                self.config.rl_entropy_regularization,
                self._cost_gradient(step, number, warmups),
            )
            own = slice(number, None, count)
            means = {"validation_accuracy": float(quality[own].mean()), "reward": float(rewards[number][own].mean())}
            costs = aim.objective.reward(quality[own], rows[number].indices).scalars
            found |= self._tagged(aim, {**means, **said[number], **update, **costs})
        return found

    def _cost_gradient(self, step: int, number: int, warmups: tuple[float, float]) -> np.ndarray | None:
        """What a controller learns from architectures that are priced and never run; None where none are."""
        if not self.plan.num_cost_samples:
            return None
        aim, random = self[number], self._random("cost", step, number)
        return aim.controller.cost_gradient(random, self.plan.num_cost_samples, aim.objective.cost_reward, *warmups)

    def undecided(self, samples: Samples) -> dict[str, float]:
        """What to log of a step that measures nothing."""
        found: dict[str, float] = {}
        for number, aim in enumerate(self):
            own = _rows(samples, slice(number, None, len(self)))
            costs = aim.objective.reward(np.zeros(len(own)), own.indices).scalars
            entropy = {"entropy": aim.controller.entropy(), "log_prob": float(own.log_prob.mean())}
            found |= self._tagged(aim, {**entropy, **costs})
        return found

    def told(self, rate: float, warmups: tuple[float, float]) -> dict[str, float]:
        """What to log of the schedules: the controllers' learning rate and the chances of the warmups."""
        names = ("learning_rate", "increase_ops_prob", "increase_filters_prob")
        scalars = dict(zip(names, (rate, *warmups), strict=True))
        return {name: value for aim in self for name, value in self._tagged(aim, scalars).items()}

    def mean(self, scalars: Mapping[str, float], name: str) -> float | None:
        """Over the targets, of a scalar; None where it was not measured."""
        values = [value for aim in self if (value := aim.scalar(scalars, name)) is not None]
        return sum(values) / len(values) if values else None

    def qualities(self, scalars: Mapping[str, float]) -> list[float] | None:
        """Mean quality of each target's architectures in a step; None where none was measured."""
        found = [aim.scalar(scalars, "validation_accuracy") for aim in self]
        return [value for value in found if value is not None] or None

    def cost_status(self, scalars: Mapping[str, float]) -> str:
        """The mean cost of a step in words, of several targets the one that is farthest off; with a space before."""
        costs = [(aim, cost) for aim in self if (cost := aim.scalar(scalars, "estimated_cost")) is not None]
        if not costs:
            return ""
        if len(self) == 1:
            return f" cost {with_unit(costs[0][1], self[0].objective.unit)}"
        off = [(cost / (aim.objective.target or cost) - 1, aim.objective) for aim, cost in costs]
        worst, objective = max(off, key=lambda each: abs(each[0]))
        return f" farthest {100 * worst:+.1f} % from {with_unit(objective.target or 0.0, objective.unit)}"

    def logits(self) -> Iterator[tuple[str, float]]:
        """(tag, value) of every logit."""
        for aim in self:
            for tag, value in aim.controller.logit_names():
                kind, _, name = tag.partition("/")
                yield f"{kind}/{aim.place}{name}", value

    def texts(self) -> dict[str, str]:
        """Lines to log: the most likely architectures."""
        ends = [aim.place.removesuffix("/") for aim in self]
        return {
            f"architecture/{end}" if end else "architecture": aim.controller.most_likely().text
            for end, aim in zip(ends, self, strict=True)
        }

    def tensors(self) -> dict[str, Tensor]:
        """The controllers' arrays, for a checkpoint."""
        return {
            f"{STATE}{aim.place}{name}": torch.from_numpy(value)
            for aim in self
            for name, value in aim.controller.state_dict().items()
            if isinstance(value, np.ndarray)
        }

    def numbers(self) -> dict[str, Any]:
        """The controllers' plain numbers, for a checkpoint: of several, a list."""
        each = [
            {name: value for name, value in aim.controller.state_dict().items() if not isinstance(value, np.ndarray)}
            for aim in self
        ]
        return {"controller": each[0] if len(each) == 1 else each}

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Goes on where `tensors` and `numbers` were taken.

        Raises:
            InputError: where they do not fit.
        """
        plain = numbers.get("controller", {})
        plain = plain if isinstance(plain, list) else [plain]
        if len(plain) != len(self):
            raise InputError(f"the checkpoint is of a search for {len(plain)} targets, not {len(self)}")
        for aim, values in zip(self, plain, strict=True):
            before = f"{STATE}{aim.place}"
            arrays = {name[len(before) :]: each.numpy() for name, each in tensors.items() if name.startswith(before)}
            aim.controller.load_state_dict({**values, **arrays})

    def _random(self, stream: str, step: int, number: int) -> np.random.Generator:
        """A target's random numbers in a step: where there is one target, those of a search for it alone."""
        return generator(self.config.seed, stream, step * len(self) + number)

    def _tagged(self, aim: Aim, scalars: Mapping[str, float]) -> dict[str, float]:
        return {f"{SCALARS}{aim.place}{name}": value for name, value in scalars.items()}


def _rows(samples: Samples, rows: slice) -> Samples:
    return Samples(samples.indices[rows], samples.enabled[rows], samples.active[rows], samples.log_prob[rows])


def _dealt(drawn: Sequence[Samples]) -> Samples:
    """The first architecture of each, then the second of each, and so on."""

    def rows(name: str) -> np.ndarray:
        arrays = np.stack([getattr(each, name) for each in drawn], axis=1)
        return arrays.reshape(-1, *arrays.shape[2:])

    return Samples(*(rows(name) for name in ("indices", "enabled", "active", "log_prob")))
