"""What a search checks before its first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunas.cost.catalog import conditions_note
from tunas.errors import InputError
from tunas.flags import refuse
from tunas.nn.single_value import has_norm_on_one_pixel
from tunas.run.session import warn
from tunas.search.config import SearchConfig
from tunas.search.objective import Objective
from tunas.search.plan import SearchPlan
from tunas.search.reachable import check_reachable
from tunas.space import Architecture, Space
from tunas.task.task import Task

SOME = 64
"""Random architectures that between them use every layer of a space."""


def check_before_search(
    space: Space, config: SearchConfig, plan: SearchPlan, objectives: Sequence[Objective], task: Task, *, is_main: bool
) -> None:
    """Refuses what could not end well, and says under which conditions costs hold.

    Raises:
        InputError: where a flag means nothing, no architecture costs what is asked for, or batch norm cannot work.
    """
    if not config.enable_cost_model:
        refuse(config, ["cost_model", "rl_cost_model_target"], "with --enable_cost_model=False")
        if not config.constraint:
            refuse(config, ["rl_cost_model_exponent", "rl_reward_function"], "where accuracy alone is searched for")
    check_reachable(objectives, config.rl_cost_model_tolerance)
    _check_batch_norm(space, plan, task)
    notes = (conditions_note(each.model, task.cost_arguments.get("image_size")) for each in objectives)
    for note in dict.fromkeys(notes):
        if note and is_main:
            warn(note)


def _check_batch_norm(space: Space, plan: SearchPlan, task: Task) -> None:
    """A replica's batch norms see its own share of the batch alone, in training and in validation."""
    size = task.cost_arguments.get("image_size")
    smallest = min(plan.share, plan.valid_share, plan.delay_valid_share)
    if smallest > 1 or size is None:
        return
    rows = space.sample(np.random.default_rng(0), SOME).tolist()
    if has_norm_on_one_pixel((Architecture(space, tuple(row)) for row in rows), size):
        raise InputError(
            f"batch norm cannot work on a single value, and each of the {plan.replicas} replicas would see one image, "
            f"whose last maps are 1×1 pixel at {size} px: give a larger --train_batch_size or --image_size, or fewer "
            f"--replicas"
        )
