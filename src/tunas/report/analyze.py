"""What a search came to, read from its event files and `model_spec.json` alone: no code of the run is needed."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.cost.catalog import load_cost_model
from tunas.errors import InputError, check_positive
from tunas.run.directory import MODEL_SPEC, PARAMS, is_altered, read_model_spec, read_params
from tunas.run.events import read_events
from tunas.search.controller import Controller
from tunas.search.objective import default_cost_model
from tunas.space import Architecture, Space, get_space, space_names, structure_from_json
from tunas.task.pricing import cost_arguments

PATH_LOGITS = "rlpathlogits/"


@dataclass(frozen=True)
class Finding:
    """The most likely architecture at the last logged step of a search.

    Args:
        directory: of the run.
        architecture: the most likely choice of every OneOf, or near it, within a tolerance.
        step: where the logits were logged.
        cost: in `unit`, by the cost model of the search; None where it has none that can be read.
        warnings: what is damaged.
    """

    directory: Path
    architecture: Architecture
    step: int
    cost: float | None
    unit: str
    warnings: tuple[str, ...]


def run_directories(pattern: str) -> list[Path]:
    """Directories that match a name or a glob; one that exists is taken by its name first.

    Raises:
        InputError: where there are none.
    """
    if Path(pattern).is_dir():
        return [Path(pattern)]
    found = [Path(name) for name in sorted(glob.glob(pattern)) if Path(name).is_dir()]
    if not found:
        raise InputError(f"no directory matches {pattern!r}")
    return found


def analyze(directory: Path, cost_model: str | None = None, tolerance: float | None = None) -> Finding:
    """What the search in `directory` came to.

    Args:
        cost_model: to price with, in place of the search's own.
        tolerance: in place of the search's `rl_cost_model_tolerance`, above 0; about the search's own cost and target.

    Raises:
        InputError: where the directory holds no search, nothing was logged yet, or there is a tolerance but nothing to
        land on.
    """
    if not (directory / MODEL_SPEC).is_file() or not (directory / PARAMS).is_file():
        raise InputError(f"{directory} holds no run: {MODEL_SPEC} or {PARAMS} is missing")
    params = read_params(directory)
    space = space_of(directory, params)
    scalars, warnings = read_events(directory)
    if is_altered(directory):
        warnings.append(f"{PARAMS} or {MODEL_SPEC} in {directory} is not as the search wrote it")
    steps = [step for step, values in scalars.items() if any(tag.startswith(PATH_LOGITS) for tag in values)]
    if not steps:
        raise InputError(f"{directory} holds no logits in its event files yet{'; ' + warnings[0] if warnings else ''}")
    step = max(steps)
    controller = Controller(space, temperature=_positive(params, "rl_temperature") or 1.0)
    controller.logits[controller.valid] = list(_logits(space, scalars[step]))
    if tolerance is not None:
        params["rl_cost_model_tolerance"] = tolerance
    architecture = _landed(controller, params, directory)
    cost, unit, more = _cost(space, architecture, params, cost_model)
    return Finding(directory, architecture, step, cost, unit, (*warnings, *more))


def space_of(directory: Path, params: dict[str, Any]) -> Space:
    """The space of a run, as the run wrote it down."""
    name = str(params.get("ssd", directory.name))
    tower = structure_from_json(read_model_spec(directory), stand_ins=True)
    if name in space_names() and get_space(name).structure == tower:
        return get_space(name)
    return Space(name, tower)


def _landed(controller: Controller, params: dict[str, Any], directory: Path) -> Architecture:
    """The most likely architecture, or near it, as the run's tolerance asks."""
    tolerance, target = (_positive(params, name) for name in ("rl_cost_model_tolerance", "rl_cost_model_target"))
    if tolerance is None:
        return controller.most_likely()
    if params.get("constraint"):
        raise InputError(
            f"the search in {directory} has constraints, and a tolerance is about one cost with one target"
        )
    model = cost_model_of(controller.space, params)
    if model is None or target is None:
        raise InputError(f"the search in {directory} had no cost and target, so there is nothing to land on")
    return controller.likeliest_within(model.estimate, target, tolerance)


def _positive(params: dict[str, Any], name: str) -> float | None:
    value = params.get(name)
    check_positive(name, value)
    return value


def _logits(space: Space, scalars: dict[str, float]) -> Iterator[float]:
    for point in space.points:
        for choice in range(point.size):
            tag = f"{PATH_LOGITS}{point.path}/{choice}"
            if tag not in scalars:
                raise InputError(f"the event files lack {tag}; they belong to another space than {MODEL_SPEC}")
            yield scalars[tag]


def cost_model_of(space: Space, params: dict[str, Any], name: str | None = None) -> Any:
    """The cost model of that name, or the search's own; None if it had none."""
    if name is None and not params.get("enable_cost_model", True):
        return None
    name = name or params.get("cost_model") or default_cost_model(space)
    return load_cost_model(name, space, **cost_arguments(params))


def _cost(
    space: Space, architecture: Architecture, params: dict[str, Any], cost_model: str | None
) -> tuple[float | None, str, list[str]]:
    try:
        model = cost_model_of(space, params, cost_model)
    except InputError as error:
        if cost_model is not None:
            raise
        return None, "", [f"no cost: {error}"]
    return (None, "", []) if model is None else (model.estimate(architecture), model.unit, [])
