"""What a training or an evaluation checks before its first step, and what it knows of its network by then."""

from __future__ import annotations

import math
from typing import Any

from tunas.cost.catalog import conditions_note, has_pixel1, load_cost_model
from tunas.errors import InputError
from tunas.flags import refuse
from tunas.needs import need_compiler
from tunas.nn.profile import count_macs, count_parameters
from tunas.nn.single_value import has_norm_on_one_pixel
from tunas.run.device import World
from tunas.run.session import warn
from tunas.space import Architecture, Space
from tunas.space.layers import scale_filters
from tunas.task.task import Task
from tunas.train.config import TrainConfig
from tunas.train.plan import TrainPlan, plan_training, splits


def check_before_training(config: TrainConfig, architecture: Architecture, task: Task, world: World) -> None:
    """Refuses a training that could not end well: what its evaluation reads is read now, what it compiles with must be
    there, and batch norm must be able to work.

    Raises:
        InputError: where one of these is not so.
    """
    plan = plan_training(config, task.size(splits(config)[0]))
    if config.compile:
        need_compiler("--compile", world.device.type)
    _check_batch_norm(config, plan, architecture, task, world)
    if config.mode == "train_and_eval":
        task.ready(plan.eval_split)


def _check_batch_norm(
    config: TrainConfig, plan: TrainPlan, architecture: Architecture, task: Task, world: World
) -> None:
    """Batch norm sees one part of a device's share of the batch at a time."""
    share = plan.batch // world.size
    parts = math.ceil(share / min(config.gradient_accumulation, share))
    smallest = share % parts or parts
    size = task.cost_arguments.get("image_size")
    if smallest > 1 or size is None or not has_norm_on_one_pixel([scaled(architecture, config)], size):
        return
    devices = f" on {world.size} devices" if world.size > 1 else ""
    raise InputError(
        f"batch norm cannot work on a single value, and a batch of {plan.batch}{devices} in "
        f"{config.gradient_accumulation} parts leaves one image for a part, whose last maps are 1×1 pixel at {size} "
        f"px: give a smaller --gradient_accumulation, or a larger --train_batch_size or --image_size"
    )


def scaled(architecture: Architecture, config: TrainConfig) -> Architecture:
    """The architecture with the widths that `filters_multiplier` makes of its own."""
    if config.filters_multiplier == 1:
        return architecture
    return Architecture(Space(architecture.space.name, scale_filters(architecture.tower, config.filters_multiplier)))


def figures_of(config: TrainConfig, architecture: Architecture, task: Task, world: World) -> dict[str, Any]:
    """Size and cost of the network, for `result.json`.

    Raises:
        InputError: where a cost model is asked for that cannot be used.
    """
    if config.filters_multiplier != 1:
        refuse(config, ["cost_model"], "with --filters_multiplier: it prices the widths of the search space")
    network = scaled(architecture, config)
    figures: dict[str, Any] = {
        "parameters": count_parameters(network, **task.network_arguments),
        "macs": count_macs(network, **task.cost_arguments),
        "predicted_cost": None,
    }
    name = config.cost_model or ("pixel1" if has_pixel1(architecture.space) else None)
    if name is None or config.filters_multiplier != 1:
        return figures
    model = load_cost_model(name, architecture.space, **task.cost_arguments)
    note = conditions_note(model, task.cost_arguments.get("image_size"))
    if note and world.is_main:
        warn(note)
    cost = {"predicted_cost": model.estimate(architecture), "cost_unit": model.unit, "cost_device": model.device}
    return {**figures, **cost}
