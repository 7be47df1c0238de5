"""The command that a run was started with, from its parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

from tunas.recipe.schedule import LEARNING_RATE_BATCH
from tunas.search.config import SearchConfig
from tunas.train.config import TrainConfig


def command_of(params: dict[str, Any]) -> list[str]:
    """The words of a command that computes the same: flags whose values are not the defaults.

    Args:
        params: as `params.json` holds them. What followed from the dataset is given as it came out.
    """
    is_search = "rl_reward_function" in params
    words = ["tunas", "search" if is_search else "train"]
    for field in dataclasses.fields(SearchConfig if is_search else TrainConfig):
        value = params.get(field.name)
        if value is None or value == field.default or value in ([], ""):
            continue
        if field.name == "rl_learning_rate" and params.get("batch"):
            value = value * LEARNING_RATE_BATCH / params["batch"]  # the flag is a rate per 256 images
        if isinstance(value, bool):
            words.append(f"--{field.name}" if value else f"--no-{field.name}")
        elif isinstance(value, list):
            words += [f"--{field.name}={item}" for item in value]
        else:
            words.append(f"--{field.name}={value}")
    return words
