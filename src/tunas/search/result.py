"""What a search found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunas.search.aims import Aim
from tunas.search.candidates import Candidate, chosen
from tunas.search.cap import Timed, verified, winner_below
from tunas.search.objective import is_within
from tunas.space import Architecture

if TYPE_CHECKING:
    from tunas.cost.measure_config import MeasureConfig


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
        at_most: the cap, where one was given.
        timed: winners that were measured against it, `architecture` the last.
        within_tolerance: whether the cost is as near to the target as `rl_cost_model_tolerance` asks; None without one.
        candidates: what it was chosen from with `choose_from`, the best first; empty without.
        constraints: name -> the `cost` of the architecture and its `limit`, of every further cost that counted.
        others: of a search for several targets, of which this is the first, what it found for the others.
    """

    architecture: Architecture
    cost: float | None
    target: float | None
    unit: str
    checkpoint_dir: Path
    steps: int
    quality: float
    at_most: float | None = None
    timed: tuple[Timed, ...] = ()
    within_tolerance: bool | None = None
    candidates: tuple[Candidate, ...] = ()
    constraints: Mapping[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    others: tuple[SearchResult, ...] = ()

    @property
    def as_asked(self) -> bool:
        """Whether the cost is as near to the target as the tolerance asks and, where it was measured, below the cap."""
        over = self.at_most is not None and bool(self.timed) and self.timed[-1].at_speed_of_then > self.at_most
        return self.within_tolerance is not False and not over

    @property
    def off(self) -> float | None:
        """How far the cost is from the target, relative to it; None where cost did not count."""
        return None if self.cost is None or self.target is None else self.cost / self.target - 1

    @property
    def frontier(self) -> tuple[SearchResult, ...]:
        """What was found for each target, in their order."""
        return (dataclasses.replace(self, others=()), *self.others)


def search_result(
    state: Any, directory: Path, steps: int, qualities: Sequence[float], measuring: MeasureConfig | None = None
) -> SearchResult:
    """What the search has found.

    Args:
        state: a `tunas.search.step.Search`, or a simulated one.
        qualities: of each target's architectures of the last step.
        measuring: how the winner is measured, where it is.
    """
    if state.config.at_most is not None:
        return _capped_result(state, directory, steps, qualities[0], state.config.at_most, measuring)
    first, *others = (
        _landed(state, aim, directory, steps, quality) for aim, quality in zip(state.aims, qualities, strict=True)
    )
    return dataclasses.replace(first, others=tuple(others))


def _landed(state: Any, aim: Aim, directory: Path, steps: int, quality: float) -> SearchResult:
    """What was found for a target."""
    objective, tolerance = aim.objective, state.config.rl_cost_model_tolerance
    architecture = aim.controller.most_likely()
    candidates: list[Candidate] = []
    if tolerance is not None and objective.target is not None:
        architecture = aim.controller.likeliest_within(objective.model.estimate, objective.target, tolerance)
        if state.config.choose_from > 1:
            candidates = chosen(state, aim, architecture, tolerance)
            architecture = candidates[0].architecture
    cost = objective.cost_of(architecture)
    within = None
    if tolerance is not None and cost is not None and objective.target is not None:
        within = is_within(cost, objective.target, tolerance)
    return SearchResult(
        architecture,
        cost,
        objective.target,
        objective.unit,
        directory,
        steps,
        quality,
        within_tolerance=within,
        candidates=tuple(candidates),
        constraints=objective.constraint_costs(architecture),
    )


def _capped_result(
    state: Any, directory: Path, steps: int, quality: float, at_most: float, measuring: MeasureConfig | None
) -> SearchResult:
    """What was found below a cap, measured where it was asked for."""
    aim: Aim = state.aims[0]
    assert aim.objective.target is not None
    timed: list[Timed] = []
    winner = winner_below(aim, aim.objective.target)
    if measuring is not None:
        winner, timed = verified(state, at_most, measuring)
    objective = aim.objective
    cost = objective.cost_of(winner)
    return SearchResult(
        winner, cost, objective.target, objective.unit, directory, steps, quality, at_most, tuple(timed)
    )


def result_document(
    result: SearchResult, state: Any, measured: Callable[[SearchResult], dict[str, Any]]
) -> dict[str, Any]:
    """What `result.json` says of any search.

    Args:
        measured: what to say besides of what was found for one target.
    """
    documents = zip(result.frontier, _documents(result, state), strict=True)
    each = [{**document, **measured(found)} for found, document in documents]
    return {
        "ssd": result.architecture.space.name,
        **(each[0] if len(each) == 1 else {"targets": each}),
        "tolerance": state.config.rl_cost_model_tolerance,
        "steps": result.steps,
        "seed": state.config.seed,
    }


def _documents(result: SearchResult, state: Any) -> list[dict[str, Any]]:
    """What `result.json` says of each target. Of several also the cost model."""
    documents = []
    for found, told in zip(result.frontier, state.config.by_target(), strict=True):
        named = {"cost_model": told.cost_model} if result.others else {}
        candidates = [each.document(state.task.quality_name) for each in found.candidates]
        documents.append(
            {
                "indices": found.architecture.text,
                "cost": found.cost,
                "target": found.target,
                "unit": found.unit,
                **named,
                "at_most": found.at_most,
                "measured": [timed.document() for timed in found.timed],
                "within_tolerance": found.within_tolerance,
                **({"candidates": candidates} if candidates else {}),
                "constraints": dict(found.constraints),
            }
        )
    return documents
