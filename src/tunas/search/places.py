"""How what belongs to one of several targets is named, in event files and checkpoints, and what a run with several was
told of each. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCALARS = "rlcontroller/"
STATE = "controller/"
"""Before the names of a controller's arrays in a checkpoint."""
PER_TARGET = ("rl_cost_model_target", "cost_model", "cost_unit", "cost_device")
"""Entries of `params.json` that are lists, one for each target, where there are several targets; but for one cost model
for all."""


def places(count: int) -> list[str]:
    """What stands before the names that belong to each of `count` targets: nothing where there is one."""
    return [""] if count == 1 else [f"{number}/" for number in range(count)]


def params_by_target(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `params.json` would say of a search for each target alone."""
    targets = params.get("rl_cost_model_target")
    if not isinstance(targets, list):
        return [dict(params)]

    def of(number: int, name: str) -> Any:
        value = params.get(name)
        return value[number] if isinstance(value, list) and number < len(value) else value

    return [{**params, **{name: of(number, name) for name in PER_TARGET}} for number in range(len(targets))]
