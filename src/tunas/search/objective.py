"""What a search maximises: accuracy against one main cost, and against any number of further ones."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.cost.catalog import has_pixel1, load_cost_model
from tunas.errors import InputError
from tunas.search.cap import capped_target
from tunas.search.config import SearchConfig
from tunas.search.plan import check_targets
from tunas.search.reward import reward_function
from tunas.space import Architecture, Space

MEDIAN_SAMPLES = 1001
"""Random architectures whose median cost is the target where none is given."""
DIGEST_SAMPLES = 512
"""Random architectures whose costs tell cost models apart."""
MAIN_COST = "latency"
"""What `--constraint` calls the cost of `--cost_model`."""


@dataclass(frozen=True)
class Constraint:
    """One more cost. What exceeds the limit counts against an architecture; what is below it only with
    `both_sides`."""

    name: str
    model: Any
    limit: float
    both_sides: bool

    def penalty(self, indices: np.ndarray, exponent: float) -> np.ndarray:
        """`[N]`, 0 or below: exponent · distance from the limit, relative to it."""
        distance = self.model.estimate(indices) / self.limit - 1
        return exponent * (np.abs(distance) if self.both_sides else np.maximum(distance, 0.0))


@dataclass(frozen=True)
class Outcome:
    """Rewards `[N]` of N architectures, and means to log."""

    reward: np.ndarray
    scalars: dict[str, float]


@dataclass(frozen=True)
class Objective:
    """Accuracy and cost as one number.

    Args:
        function: `abs`, `mnas` or `mnas_hard`.
        model: the main cost; None where only accuracy counts.
        target: what the main cost shall be.
        exponent: β.
        constraints: further costs.
        one_sided: only exceeding the target counts (`abs` reward).
    """

    function: str
    model: Any
    target: float | None
    exponent: float
    constraints: tuple[Constraint, ...] = ()
    one_sided: bool = False

    @property
    def unit(self) -> str:
        """Of the main cost; empty where there is none."""
        return self.model.unit if self.model is not None else ""

    def reward(self, accuracy: np.ndarray, indices: np.ndarray) -> Outcome:
        """Rewards of architectures `[N, C]` with accuracies `[N]`."""
        penalties = sum(
            (constraint.penalty(indices, self.exponent) for constraint in self.constraints), np.zeros(len(indices))
        )
        if self.model is None:
            return Outcome(accuracy + penalties, {})
        cost = self.model.estimate(indices)
        assert self.target is not None
        counted = np.maximum(cost, self.target) if self.one_sided else cost
        found = reward_function(self.function)(accuracy, counted, self.target, self.exponent)
        scalars = {"estimated_cost": cost, "cost_ratio": found.cost_ratio, "cost_adjustment": found.cost_adjustment}
        return Outcome(found.reward + penalties, {name: float(value.mean()) for name, value in scalars.items()})

    def cost_reward(self, indices: np.ndarray) -> np.ndarray:
        """The part of the reward that the costs alone decide (`abs` reward)."""
        return self.reward(np.zeros(len(indices)), indices).reward

    def cost_of(self, architecture: Architecture) -> float | None:
        """The main cost of an architecture; None where cost does not count."""
        return None if self.model is None else self.model.estimate(architecture)

    def constraint_costs(self, architecture: Architecture) -> dict[str, dict[str, float]]:
        """Name -> cost and limit, of every further cost."""
        return {c.name: {"cost": c.model.estimate(architecture), "limit": c.limit} for c in self.constraints}

    def facts(self) -> dict[str, Any]:
        """What `params.json` keeps of it."""
        return {
            "rl_cost_model_target": self.target,
            "cost_unit": self.unit,
            "cost_device": getattr(self.model, "device", ""),
            "cost_digest": [cost_digest(model) for model in self.models()],
        }

    def models(self) -> list[Any]:
        """Every cost model that counts."""
        main = [] if self.model is None else [self.model]
        return [*main, *(constraint.model for constraint in self.constraints)]


def cost_digest(model: Any) -> str:
    """What a cost model says of some architectures, as text that tells two models apart; the last digits, in which
    machines may differ, do not count."""
    some = model.space.sample(np.random.default_rng(0), DIGEST_SAMPLES)
    text = " ".join(f"{cost:.6g}" for cost in model.estimate(some))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def facts_of(objectives: Sequence[Objective]) -> dict[str, Any]:
    """What `params.json` keeps of the objectives of a search: of several, a list for each fact."""
    if len(objectives) == 1:
        return objectives[0].facts()
    facts = [objective.facts() for objective in objectives]
    digests = [digest for each in facts for digest in each["cost_digest"][:1]] + facts[0]["cost_digest"][1:]
    return {**{name: [each[name] for each in facts] for name in facts[0]}, "cost_digest": digests}


def search_objectives(
    config: SearchConfig, exponent: float, space: Space, cost_arguments: Mapping[str, Any]
) -> tuple[Objective, ...]:
    """The objective for each target that the configuration names, with the plan's exponent.

    Args:
        cost_arguments: of the task: what pricing the space takes beside its name.

    Raises:
        InputError: where a cost model, target or constraint cannot be used.
    """
    check_targets(config)
    load = functools.cache(lambda name: load_cost_model(name, space, **cost_arguments))
    return tuple(_objective(each, exponent, space, load) for each in config.by_target())


def _objective(config: SearchConfig, exponent: float, space: Space, load: Callable[[str], Any]) -> Objective:
    """The objective of a configuration with one target."""
    assert not isinstance(config.rl_cost_model_target, tuple) and not isinstance(config.cost_model, tuple)
    reward_function(config.rl_reward_function)(np.zeros(1), np.ones(1), config.rl_cost_model_target or 1.0, exponent)
    if config.constraint and config.rl_reward_function != "abs":
        raise InputError("--constraint works with the abs reward only")
    read = [_constraint(text) for text in config.constraint]
    main = [(limit, both_sides) for name, limit, both_sides in read if name == MAIN_COST]
    if main and (len(main) > 1 or not config.enable_cost_model or config.rl_cost_model_target is not None):
        raise InputError(
            f"--constraint {MAIN_COST} says what --rl_cost_model_target says; give one of them, once, and leave "
            f"the cost model enabled"
        )
    constraints = tuple(
        Constraint(name, load(name), limit, both_sides) for name, limit, both_sides in read if name != MAIN_COST
    )
    _check_cap(config, bool(main))
    if not config.enable_cost_model:
        return Objective(config.rl_reward_function, None, None, exponent, constraints)
    model = load(config.cost_model or default_cost_model(space))
    if config.at_most is not None:
        capped = capped_target(model, config.at_most)
        return Objective(config.rl_reward_function, model, capped, exponent, constraints, one_sided=True)
    if main:
        limit, both_sides = main[0]
        return Objective(config.rl_reward_function, model, limit, exponent, constraints, one_sided=not both_sides)
    target = config.rl_cost_model_target
    if target is None:
        is_packaged = config.cost_model in (None, "pixel1") and space.default_target is not None
        target = space.default_target if is_packaged else median_cost(model, space)
    return Objective(config.rl_reward_function, model, target, exponent, constraints)


def _check_cap(config: SearchConfig, has_latency_constraint: bool) -> None:
    """Refuses --at_most and --verify together with what they exclude."""
    if config.verify and config.at_most is None:
        raise InputError("--verify measures whether a cap holds; give it with --at_most")
    if config.at_most is None:
        return
    if config.rl_cost_model_target is not None or config.rl_cost_model_tolerance is not None or has_latency_constraint:
        raise InputError(
            "--at_most says what the cost may be; leave out --rl_cost_model_target, --rl_cost_model_tolerance and "
            f"--constraint {MAIN_COST}"
        )
    if not config.enable_cost_model or config.rl_reward_function != "abs":
        raise InputError("--at_most works with a cost model and the abs reward")


def is_within(cost: float, target: float, tolerance: float) -> bool:
    """Whether the cost is within `tolerance`, relative to the target, of the target, up to rounding."""
    return bool(abs(cost - target) <= tolerance * target * (1 + 1e-9))


def default_cost_model(space: Space) -> str:
    """`pixel1` where its tables are packaged for the space, otherwise `macs`."""
    return "pixel1" if has_pixel1(space) else "macs"


def median_cost(model: Any, space: Space) -> float:
    """Median cost of random architectures, drawn from a fixed seed."""
    return float(np.median(model.estimate(space.sample(np.random.default_rng(0), MEDIAN_SAMPLES))))


def _constraint(text: str) -> tuple[str, float, bool]:
    """(name, limit, whether costs below the limit count too) of name=limit or name~target."""
    both_sides = "~" in text
    name, separator, limit = text.rpartition("~" if both_sides else "=")
    try:
        value = float(limit)
    except ValueError:
        value = math.nan
    if not (separator and name and math.isfinite(value) and value > 0):
        raise InputError(
            f"a constraint reads name=limit or name~target with a positive number, such as params=5e6, unlike {text!r}"
        )
    return name, value, both_sides
