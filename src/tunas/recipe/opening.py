"""From a configuration and its task to what the weights learn, for search and train alike."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunas.data import Data
from tunas.errors import InputError
from tunas.files import writing_to
from tunas.flags import refuse
from tunas.recipe.choose import CHANGES, Mirrors, Recipe
from tunas.recipe.config import RecipeConfig
from tunas.recipe.lesson import Lesson
from tunas.recipe.mirror import MirrorProbe, probed
from tunas.recipe.teacher import LogitsTeacher, open_teacher
from tunas.run.device import World
from tunas.run.directory import check_examples, kept_params, open_run
from tunas.space import structure_to_json
from tunas.task.task import Task

MIRROR_PROBE = "mirror_probe"
"""Entry of `params.json`: what the probe found, so that a run that goes on does not probe again."""


def opened_lesson(
    config: RecipeConfig,
    task: Task,
    world: World,
    directory: Path,
    choose: Callable[[int | None, Mirrors | None], Recipe],
) -> tuple[Lesson, dict[str, Any]]:
    """What the weights learn, and what `params.json` keeps of how that was decided.

    Args:
        directory: of the run.
        choose: (image size, whether mirroring does no harm) -> the recipe.

    Raises:
        InputError: where a flag means nothing for the task, or the teacher cannot be used.
    """
    data = task.data
    found: list[MirrorProbe] = []

    def mirrors() -> tuple[bool, str]:
        found.append(world.from_main(lambda: _kept_probe(directory) or probed(_images(data))))
        return found[0].mirrors, found[0].sentence

    teacher = None
    if config.teacher is not None:
        if data is None:
            raise InputError("a teacher tells classes of images apart, and the examples of this task are none")
        teacher = open_teacher(config.teacher, config.teacher_checkpoint, data, world.device)
    elif config.teacher_checkpoint is not None:
        raise InputError("teacher_checkpoint holds weights of a timm model: name the model with teacher")
    refuse(config, ["teacher_weight", "teacher_temperature"] if teacher is None else [], "without --teacher")
    asks = data is not None and not isinstance(teacher, LogitsTeacher)  # or the views are those of the logits
    recipe = choose(data.image_size if data else None, mirrors if asks else None)
    if isinstance(teacher, LogitsTeacher):
        recipe = _with_views_of(teacher, recipe, config)
    lesson = Lesson(task, recipe, teacher, config.teacher_temperature, config.teacher_weight)
    return lesson, {MIRROR_PROBE: dataclasses.asdict(found[0]) if found else None}


def _images(data: Data | None) -> Data:
    assert data is not None
    return data


def begin_run(
    directory: Path,
    params: dict[str, Any],
    structure: Any,
    lesson: Lesson,
    world: World,
    advising: contextlib.AbstractContextManager[None] | None = None,
) -> None:
    """Makes the directory of a new run, or checks that the one there is the same, and says how weights are learned.

    Args:
        params: everything that decides the result.
        structure: what is searched or trained.
        advising: a context that adds advice to the refusal of a run with other parameters.

    Raises:
        InputError: in every process, as `check_examples` and `open_run`.
    """
    task = lesson.task

    def begin() -> None:
        check_examples(directory, task.check_same)
        with advising or contextlib.nullcontext():
            open_run(directory, params, structure_to_json(structure), task.compared)
        with writing_to(directory):
            task.describe(directory)

    world.from_main(begin)
    if world.is_main:
        print(lesson.said(), file=sys.stderr)


def _kept_probe(directory: Path) -> MirrorProbe | None:
    """What an earlier session of the run found."""
    kept = kept_params(directory).get(MIRROR_PROBE)
    return MirrorProbe(**kept) if isinstance(kept, dict) else None


def _with_views_of(teacher: LogitsTeacher, recipe: Recipe, config: RecipeConfig) -> Recipe:
    """The recipe with the views that the logits are of.

    Raises:
        InputError: where a flag asks for other views.
    """
    views = teacher.kept.augmentation
    for name in CHANGES:
        asked = getattr(config, name)
        if asked is not None and asked != getattr(views, name):
            raise InputError(
                f"the logits in {teacher.name} are of views with {name}={getattr(views, name)}, not {asked}; leave "
                f"{name} out, or write other logits"
            )
    if getattr(config, "plain_fraction", None):
        raise InputError(f"the logits in {teacher.name} are of the same views in all epochs; leave plain_fraction out")
    if config.augment != "auto":
        raise InputError(f"the logits in {teacher.name} are of views of their own; leave augment out")
    if config.mixup or config.cutmix:
        raise InputError(
            "logits of single images are not those of mixed ones: leave mixup and cutmix out, or let a network teach"
        )
    reason = f"{recipe.reason}; the {teacher.kept.views} views of each image are those of {teacher.name}"
    return dataclasses.replace(recipe, augmentation=views, mixup=0.0, cutmix=0.0, plain_fraction=0.0, reason=reason)
