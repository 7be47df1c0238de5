"""What a search came to, read from its event files and `model_spec.json` alone: no code of the run is needed."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunas.cost.model import load_cost_model
from tunas.errors import InputError
from tunas.run.directory import MODEL_SPEC, PARAMS, is_altered, read_model_spec, read_params
from tunas.run.events import read_events
from tunas.search.objective import default_cost_model
from tunas.space import Architecture, Space, get_space, space_names, tower_from_json

PATH_LOGITS = "rlpathlogits/"


@dataclass(frozen=True)
class Finding:
    """The most likely architecture at the last logged step of a search.

    Args:
        directory: of the run.
        architecture: the most likely choice of every OneOf.
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
    """Directories that match a name or a glob.

    Raises:
        InputError: where there are none.
    """
    found = [Path(name) for name in sorted(glob.glob(pattern)) if Path(name).is_dir()]
    if not found:
        raise InputError(f"no directory matches {pattern!r}")
    return found


def analyze(directory: Path, cost_model: str | None = None) -> Finding:
    """What the search in `directory` came to.

    Args:
        cost_model: to price with, in place of the search's own.

    Raises:
        InputError: where the directory holds no search, or nothing was logged yet.
    """
    if not (directory / MODEL_SPEC).is_file() or not (directory / PARAMS).is_file():
        raise InputError(f"{directory} holds no run: {MODEL_SPEC} or {PARAMS} is missing")
    params = read_params(directory)
    space = _space_of(directory, params)
    scalars, warnings = read_events(directory)
    if is_altered(directory):
        warnings.append(f"{PARAMS} or {MODEL_SPEC} in {directory} is not as the search wrote it")
    steps = [step for step, values in scalars.items() if any(tag.startswith(PATH_LOGITS) for tag in values)]
    if not steps:
        raise InputError(f"{directory} holds no logits in its event files yet{'; ' + warnings[0] if warnings else ''}")
    step = max(steps)
    architecture = Architecture(space, tuple(_most_likely(space, scalars[step])))
    cost, unit, more = _cost(space, architecture, params, cost_model)
    return Finding(directory, architecture, step, cost, unit, (*warnings, *more))


def _space_of(directory: Path, params: dict[str, Any]) -> Space:
    name = str(params.get("ssd", directory.name))
    tower = tower_from_json(read_model_spec(directory))
    if name in space_names() and get_space(name).tower == tower:
        return get_space(name)
    return Space(name, tower)


def _most_likely(space: Space, scalars: dict[str, float]) -> Iterator[int]:
    for point in space.points:
        tags = [f"{PATH_LOGITS}{point.path}/{choice}" for choice in range(point.size)]
        if missing := [tag for tag in tags if tag not in scalars]:
            raise InputError(f"the event files lack {missing[0]}; they belong to another space than {MODEL_SPEC}")
        yield int(np.argmax([scalars[tag] for tag in tags]))


def _cost(space: Space, architecture: Architecture, params: dict[str, Any], cost_model: str | None) -> tuple[float | None, str, list[str]]:
    if cost_model is None and not params.get("enable_cost_model", True):
        return None, "", []
    name = cost_model or params.get("cost_model") or default_cost_model(space)
    try:
        model = load_cost_model(name, space, image_size=params.get("image_size", 224), num_classes=params.get("num_classes", 1000))
    except InputError as error:
        if cost_model is not None:
            raise
        return None, "", [f"no cost: {error}"]
    return model.estimate(architecture), model.unit, []
