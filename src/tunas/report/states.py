"""Where the controller of a search stood, read from its run directory: result, checkpoints, event files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunas.errors import InputError
from tunas.run.checkpoint_names import checkpoints, step_of
from tunas.run.directory import MODEL_SPEC, RESULT, read_result
from tunas.run.events import read_events
from tunas.search.places import STATE, places
from tunas.space import Architecture, Space

PATH_LOGITS = "rlpathlogits/"


@dataclass(frozen=True, eq=False)
class State:
    """A moment of a search.

    Args:
        step: number of the last step that was done, from 0.
        logits: of each target's controller, of every choice of every OneOf one after the other,
            `[targets, sum of the OneOfs' sizes]`.
        missing: what could not be read and may have been newer, in words; empty where nothing was lost.
        notes: what else is to be said.
    """

    step: int
    logits: np.ndarray
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def finished(directory: Path, space: Space, count: int) -> tuple[list[Architecture], int] | str | None:
    """(result for each of `count` targets, last step) of a search that has ended; None of one that has not; a sentence
    where its result is damaged."""
    if not (directory / RESULT).is_file():
        return None
    try:
        document = read_result(directory)
        each = document["targets"] if count > 1 else [document]
        if len(each) != count:
            return f"{directory / RESULT} is damaged: it is about {len(each)} targets, not {count}"
        return [space.architecture(str(one["indices"])) for one in each], int(document["steps"]) - 1
    except InputError as error:
        return str(error) if RESULT in str(error) else f"{directory / RESULT} is damaged: {error}"
    except (KeyError, TypeError, ValueError):
        return f"{directory / RESULT} is damaged: it names no architecture and steps"


def newest_state(directory: Path, space: Space, count: int) -> State:
    """The newest state that is whole: that of a checkpoint, or the last complete step of the event files.

    Args:
        count: of targets.

    Raises:
        InputError: where there is none yet, naming what is damaged.
    """
    logged, logged_problems, logged_notes = _newest_logged(directory, space, count)
    saved, saved_problems = _newest_saved(directory, space, count)
    newest = max((each for each in (logged, saved) if each is not None), key=lambda each: each.step, default=None)
    problems = logged_problems + [sentence for _, sentence in saved_problems]
    if newest is None:
        raise InputError(
            f"{directory} holds no logits in its event files or checkpoints yet{'; ' + problems[0] if problems else ''}"
        )
    missing = logged_problems + [sentence for step, sentence in saved_problems if step > newest.step]
    notes = logged_notes if newest is logged else []
    return State(newest.step, newest.logits, tuple(missing), tuple(notes))


def _newest_logged(directory: Path, space: Space, count: int) -> tuple[State | None, list[str], list[str]]:
    """(state, what is damaged, what else is to be said) of the event files."""
    scalars, problems = read_events(directory)
    steps = sorted(step for step, values in scalars.items() if any(tag.startswith(PATH_LOGITS) for tag in values))
    notes: list[str] = []
    lacking = ""
    for step in reversed(steps):
        tags = [list(_tags(space, place)) for place in places(count)]
        absent = [tag for of_one in tags for tag in of_one if tag not in scalars[step]]
        if not absent:
            logits = np.array([[scalars[step][tag] for tag in of_one] for of_one in tags])
            return State(step, logits), problems, notes
        lacking = lacking or absent[0]
        if not notes:
            notes = [f"step {step} was not logged to its end (it lacks {absent[0]}), so the one before counts"]
    if steps and not problems:
        raise InputError(
            f"the event files in {directory} lack {lacking}; they belong to another space than {directory / MODEL_SPEC}"
        )
    return None, problems, []


def _tags(space: Space, place: str) -> Iterator[str]:
    """The tags of a target's logits, in the order of `State.logits`."""
    for point in space.points:
        for choice in range(point.size):
            yield f"{PATH_LOGITS}{place}{point.path}/{choice}"


def _newest_saved(directory: Path, space: Space, count: int) -> tuple[State | None, list[tuple[int, str]]]:
    """(state, (last step, sentence) of each newer checkpoint that is damaged)."""
    from tunas.run.checkpoint import DamagedCheckpoint, load_checkpoint  # imports torch

    problems: list[tuple[int, str]] = []
    for path in checkpoints(directory):
        step = step_of(path) - 1
        try:
            tensors, _ = load_checkpoint(path)
            return State(step, np.stack([_valid_part(tensors, space, place) for place in places(count)])), problems
        except (DamagedCheckpoint, InputError) as error:
            text = str(error)
            problems.append((step, text if str(path) in text else f"{path}: {text}"))
    return None, problems


def _valid_part(tensors: dict[str, Any], space: Space, place: str) -> np.ndarray:
    """The logits of a target in a checkpoint, of all choices one after the other."""
    sizes, name = np.array(space.sizes), f"{STATE}{place}logits"
    logits = tensors[name].double().numpy() if name in tensors else np.zeros(0)
    if logits.shape != (len(sizes), sizes.max()):
        raise InputError(f"it holds no logits of {space.name}")
    return logits[np.arange(sizes.max()) < sizes[:, None]]
