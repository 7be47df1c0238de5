"""What a search came to, read from its run directory alone: no code of the run is needed."""

from __future__ import annotations

import dataclasses
import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.cost.catalog import conditions_note, load_cost_model
from tunas.errors import InputError, check_positive
from tunas.report.states import finished, newest_state
from tunas.run.directory import MODEL_SPEC, PARAMS, is_altered, read_model_spec, read_params
from tunas.search.distribution import Distribution
from tunas.search.objective import default_cost_model, is_within
from tunas.search.places import params_by_target, places
from tunas.space import Architecture, Space, get_space, space_names, structure_from_json
from tunas.task.pricing import cost_arguments

SAME_TARGET = 1e-6
"""How far, relative to it, a target may be from the one that is meant: it was read off a table with some digits."""


@dataclass(frozen=True)
class Finding:
    """What a search came to, or the most likely architecture of its newest state.

    Args:
        directory: of the run.
        architecture: the most likely choice of every OneOf, or near it, within a tolerance.
        step: the last one that was done.
        cost: in `unit`, by the cost model of the search, or the space's default where it had none.
        warnings: what is to be said beside it.
        missing: what could not be read and may have been newer; empty where nothing was lost.
        notes: why this step counts, where that is not plain.
        misses: by how much, in words, the cost is farther from the target than the tolerance that was asked for.
        target: of a search for several, the one that this is about; None of another.
        device: the cost model of that target, where each has its own; empty elsewhere.
        place: what stands before the names of that target's scalars.
    """

    directory: Path
    architecture: Architecture
    step: int
    cost: float | None
    unit: str
    warnings: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    misses: str | None = None
    target: float | None = None
    device: str = ""
    place: str = ""

    @property
    def remark(self) -> str:
        """What has to be said on the same line as the architecture; empty where there is nothing."""
        parts = [f"only part could be read: {'; '.join(self.missing)}"] if self.missing else []
        return "; ".join([*parts, *self.notes, *([self.misses] if self.misses else [])])


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


def analyze(
    directory: Path, cost_model: str | None = None, tolerance: float | None = None, target: float | None = None
) -> Finding:
    """What the search in `directory` came to for its target, or the one of several that is named; as `findings`.

    Raises:
        InputError: as `findings`; where there are several targets and none, or none of them, is named.
    """
    found = findings(directory, cost_model, tolerance, target)
    if len(found) > 1:
        told = ", ".join(f"{each.target:g}" for each in found)
        raise InputError(f"the search in {directory} is for {len(found)} targets ({told}); name one")
    return found[0]


def findings(
    directory: Path, cost_model: str | None = None, tolerance: float | None = None, target: float | None = None
) -> list[Finding]:
    """What the search in `directory` came to for each target: its result, or the newest state that is whole where it
    has not ended or the result is damaged.

    Args:
        cost_model: to price with, in place of the search's own.
        tolerance: in place of the search's `rl_cost_model_tolerance`, above 0; about the search's own cost and target.
        target: the one to tell about; all of them where left out.

    Raises:
        InputError: where the directory holds no search, nothing was saved yet, the target is none of the search's, or
            there is a tolerance but nothing to land on.
    """
    if not (directory / MODEL_SPEC).is_file() or not (directory / PARAMS).is_file():
        raise InputError(f"{directory} holds no run: {MODEL_SPEC} or {PARAMS} is missing")
    params = read_params(directory)
    space = space_of(directory, params)
    check_positive("rl_cost_model_tolerance", tolerance)
    each = params_by_target(params)
    wanted = _wanted(directory, each, target)
    asked = tolerance if tolerance is not None else _positive(params, "rl_cost_model_tolerance")
    outcome = _outcome(directory, space, each, asked, takes_result=tolerance is None)
    found: list[Finding] = []
    said: list[str] = []
    for number in wanted:
        own, architecture = each[number], outcome.architectures[number]
        cost, unit, more = _cost(space, architecture, own, cost_model)
        misses = None
        aimed = _positive(own, "rl_cost_model_target")
        if asked is not None and cost is not None and cost_model is None and aimed is not None:
            misses = _misses(cost, aimed, unit, asked)
        told = tuple(sentence for sentence in (*outcome.warnings, *more) if sentence not in said)
        said += told
        finding = Finding(
            directory, architecture, outcome.step, cost, unit, told, outcome.missing, outcome.notes, misses
        )
        if len(each) > 1:
            device = str(own["cost_model"]) if isinstance(params.get("cost_model"), list) else ""
            place = places(len(each))[number]
            finding = dataclasses.replace(finding, target=aimed, device=device, place=place)
        found.append(finding)
    return found


@dataclass(frozen=True)
class _Outcome:
    """What a search came to for each target, before it is priced; the other fields are those of a `Finding`."""

    architectures: list[Architecture]
    step: int
    warnings: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _outcome(
    directory: Path, space: Space, each: list[dict[str, Any]], tolerance: float | None, *, takes_result: bool
) -> _Outcome:
    """The result of a search that has ended, where that is to be taken; otherwise what its newest state comes to.

    Args:
        each: parameters, as if for each target alone.
        tolerance: what a state's architectures land within, if anything.
    """
    altered = f"{directory / PARAMS} or {directory / MODEL_SPEC} is not as the search wrote it"
    warnings = (altered,) if is_altered(directory) else ()
    result = finished(directory, space, len(each))
    if isinstance(result, tuple) and takes_result:
        return _Outcome(*result, warnings)
    state = newest_state(directory, space, len(each))
    missing = state.missing
    if isinstance(result, str):
        warnings = (*warnings, result)
        if state.step < int(each[0].get("steps", state.step + 1)) - 1:
            missing = (*missing, result)
    architectures = []
    for own, logits in zip(each, state.logits, strict=True):
        likely = Distribution(space, _positive(own, "rl_temperature") or 1.0)
        likely.logits[likely.valid] = logits
        architectures.append(_landed(likely, own, tolerance, directory))
    return _Outcome(architectures, state.step, warnings, missing, state.notes)


def _wanted(directory: Path, each: list[dict[str, Any]], target: float | None) -> list[int]:
    """Numbers of the targets to tell about."""
    if target is None:
        return list(range(len(each)))
    have = [own.get("rl_cost_model_target") for own in each]
    wanted = [
        number
        for number, value in enumerate(have)
        if isinstance(value, int | float) and is_within(target, value, SAME_TARGET)
    ]
    if not wanted:
        told = ", ".join(f"{value:g}" for value in have if isinstance(value, int | float))
        raise InputError(f"the search in {directory} has no target {target:g}; it is for {told or 'accuracy alone'}")
    return wanted


def _misses(cost: float, target: float, unit: str, tolerance: float) -> str | None:
    """How far the cost is from the target, in words; None where it is within the tolerance."""
    if is_within(cost, target, tolerance):
        return None
    return f"{100 * (cost / target - 1):+.2f} % off the target of {target:g} {unit}, more than {tolerance:.2%}"


def space_of(directory: Path, params: dict[str, Any]) -> Space:
    """The space of a run, as the run wrote it down."""
    name = str(params.get("ssd", directory.name))
    try:
        structure = structure_from_json(read_model_spec(directory), stand_ins=True)
    except InputError as error:
        place = str(directory / MODEL_SPEC)
        raise InputError(str(error) if place in str(error) else f"{place}: {error}") from None
    if name in space_names() and get_space(name).structure == structure:
        return get_space(name)
    return Space(name, structure)


def _landed(likely: Distribution, params: dict[str, Any], tolerance: float | None, directory: Path) -> Architecture:
    """The most likely architecture, or near it, as the run's tolerance asks."""
    target = _positive(params, "rl_cost_model_target")
    if tolerance is None:
        return likely.most_likely()
    if params.get("constraint"):
        raise InputError(
            f"the search in {directory} has constraints, and a tolerance is about one cost with one target"
        )
    if not params.get("enable_cost_model", True) or target is None:
        raise InputError(f"the search in {directory} had no cost and target, so there is nothing to land on")
    model = cost_model_of(likely.space, params)
    return likely.likeliest_within(model.estimate, target, tolerance)


def _positive(params: dict[str, Any], name: str) -> float | None:
    """A parameter that must be a positive number, or None."""
    value = params.get(name)
    check_positive(name, value)
    return value


def cost_model_of(space: Space, params: dict[str, Any], name: str | None = None) -> Any:
    """The cost model of that name, or the search's own, or the space's default where it had none."""
    name = name or params.get("cost_model") or default_cost_model(space)
    return load_cost_model(name, space, **cost_arguments(params))


def _cost(
    space: Space, architecture: Architecture, params: dict[str, Any], cost_model: str | None
) -> tuple[float | None, str, list[str]]:
    """(cost, unit, what is to be said of it) by the cost model that is named, or the search's own."""
    try:
        model = cost_model_of(space, params, cost_model)
    except InputError as error:
        if cost_model is not None:
            raise
        return None, "", [f"no cost: {error}"]
    note = conditions_note(model, params.get("image_size"))
    return model.estimate(architecture), model.unit, [note] if note else []
