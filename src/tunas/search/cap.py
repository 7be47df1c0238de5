"""A cap that holds when it is measured: `--at_most`, and with `--verify` a winner that was timed.

A cost model is wrong by a little, and a search finds what it is wrong about in its favour. So the search aims below the
cap by what the model's own held-out residuals ask for, and where the winner still takes longer, it goes on with a
lower target: the controller alone, on the weights as they are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.cost.measure import compare
from tunas.cost.measure_config import MeasureConfig
from tunas.run.session import ended

if TYPE_CHECKING:
    from tunas.search.aims import Aim
    from tunas.space import Architecture

OVER = "held_out_p95_over"
"""In a fitted model's provenance: what measured times exceed predicted ones by, relative to these, at the 95th
percentile of samples that were held out."""
ATTEMPTS = 8
"""Winners that are measured before the search gives up."""
STEPS_BETWEEN = 60
"""Controller steps between two of them."""
EXACTLY = 1e-9
"""Tolerance, relative to the target, for rounding alone."""


@dataclass(frozen=True)
class Timed:
    """A winner that was measured.

    Args:
        indices: what.
        predicted: cost by the model.
        measured: milliseconds now.
        slowdown: time that the model's samples take now over the time that they took when it was fitted.
        changed: what differs from the set-up of these samples since the search began, so that none of them took turns
            with the winner and the slowdown is unknown.
    """

    indices: str
    predicted: float
    measured: float
    slowdown: float
    changed: tuple[str, ...] = ()

    @property
    def at_speed_of_then(self) -> float:
        """Milliseconds, had the device been as fast as when the cost model was fitted."""
        return self.measured / self.slowdown

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {**dataclasses.asdict(self), "at_speed_of_then": self.at_speed_of_then}


def margin(model: Any) -> float:
    """By how much, relative to the prediction, measured times stay below it in 95 of 100 cases; 0 where the model is
    exact or does not say."""
    found = model.provenance.get(OVER, 0.0)
    return max(0.0, float(found)) if isinstance(found, int | float) else 0.0


def capped_target(model: Any, at_most: float) -> float:
    """What to aim below, so that the cap holds when it is measured."""
    return at_most / (1 + margin(model))


def winner_below(aim: Aim, target: float) -> Architecture:
    """The most likely architecture if its predicted cost is at most the target, else the likeliest near it that is."""
    model = aim.objective.model
    return aim.controller.likeliest_within(lambda rows: np.maximum(model.estimate(rows), target), target, EXACTLY)


def verified(state: Any, at_most: float, measuring: MeasureConfig) -> tuple[Architecture, list[Timed]]:
    """(the winner, every winner that was measured, the last of them this one), of a search for one target.

    It takes at most `at_most` milliseconds at the speed of the model's samples, unless `ATTEMPTS` were not enough.
    After each that takes more, the target falls to its prediction times the cap over what it took, and the controller
    goes on learning; weights stay as they are.
    """
    plan, config, world = state.plan, state.config, state.world
    aim = state.aims[0]
    target, timed = aim.objective.target, []
    assert target is not None
    valid = state.task.share_stream(
        "valid",
        plan.valid_share * plan.replicas,
        len(state.local_replicas),
        seed=config.seed,
        start_step=plan.steps,
        shard=(world.rank, world.size),
    )
    step = plan.steps
    with ended(valid):
        while True:
            winner = winner_below(aim, target)
            timed.append(world.from_main(lambda winner=winner: _timed(winner, measuring)))
            if timed[-1].at_speed_of_then <= at_most or len(timed) == ATTEMPTS:
                return winner, timed
            target = min(target, timed[-1].predicted * at_most / timed[-1].at_speed_of_then)
            aim.objective = dataclasses.replace(aim.objective, target=target)
            for _ in range(STEPS_BETWEEN):
                state.control(step, next(valid))
                step += 1


def _timed(winner: Architecture, measuring: MeasureConfig) -> Timed:
    found = compare(dataclasses.replace(measuring, indices=winner.text))
    return Timed(winner.text, found.predicted, found.sample.milliseconds, found.slowdown, found.changed)
