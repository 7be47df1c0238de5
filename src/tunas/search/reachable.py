"""Whether what a search shall land on can be had at all."""

from __future__ import annotations

from collections.abc import Sequence

from tunas.cost.model import with_unit
from tunas.cost.range import cost_range
from tunas.errors import InputError
from tunas.search.objective import Objective

ROUNDING = 1e-6
"""By so much, relative to it, a target may lie outside: it was printed with some digits."""


def check_reachable(objectives: Sequence[Objective], tolerance: float | None) -> None:
    """Refuses a target, or a limit of a constraint, that no architecture of the space meets.

    Args:
        tolerance: what may be left between cost and target, relative to it; None for nothing.

    Raises:
        InputError: with the range that the space covers.
    """
    slack = max(tolerance or 0.0, ROUNDING)
    for objective in objectives:
        if objective.model is None or objective.target is None:
            continue
        capped = objective.one_sided or objective.function == "mnas_hard"
        _check("rl_cost_model_target", objective.model, objective.target, slack, is_cap=capped)
    for constraint in objectives[0].constraints:
        name, is_cap = f"constraint {constraint.name}", not constraint.both_sides
        _check(name, constraint.model, constraint.limit, ROUNDING, is_cap=is_cap)


def _check(what: str, model: object, wanted: float, slack: float, *, is_cap: bool) -> None:
    """Refuses `wanted` outside of what the model's costs span; a cap is met by everything below it."""
    found = cost_range(model)
    if found is None:
        return
    unit = getattr(model, "unit", "")
    too_low, too_high = wanted * (1 + slack) < found.low, wanted * (1 - slack) > found.high
    if too_low or (too_high and not is_cap):
        name = getattr(getattr(model, "space", None), "name", "the space")
        bound = "" if found.exact else " at the most"
        raise InputError(
            f"--{what}: no architecture of {name} costs {with_unit(wanted, unit)}; they cost "
            f"{with_unit(found.low, unit)} to {with_unit(found.high, unit)}{bound}"
        )
