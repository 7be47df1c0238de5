"""A run of so many minutes: how many steps fit.

The first steps are made on a state that is thrown away, at places all along the run, because in a search the first
quarter costs several times as much as the rest. What is found goes into `params.json` as the run's epochs. A run with
`--minutes` is therefore the run with those epochs, bit for bit, and one that goes on keeps them.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tunas.errors import InputError, check_positive
from tunas.run.device import World
from tunas.run.directory import kept_params

PLACES = (0.9, 0.03, 0.12, 0.21, 0.3, 0.5, 0.7)
"""Places in the run, 0 to 1, that steps are timed at."""
FEWEST_PLACES = 3
"""How many of them, from the first, are timed however short time is."""
ROUNDS = 3
"""How often steps are timed at every place, where there is time."""
TRIAL_SHARE = 0.05
"""Part of the budget after which no further step is timed."""
FORWARD_AND_BACKWARD = 3
"""Forward passes' worth of work that a training step is, counted by multiply-accumulates."""
FILLED = 0.95
"""Part of the remaining budget that the steps may take: the rest is for starting, checkpoints and the result."""

Config = TypeVar("Config", bound=Any)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A run that can be tried.

    Args:
        step: makes the step at that part of the run, 0 to 1; nothing of it stays.
        ended: the context at whose end the step's streams end.
        batch, examples: per step, and in the training split.
        eval_examples: how many are scored, each time.
        eval_steps: steps between two scorings; None scores once.
        passes: forward passes' worth of work for each training example of a step.
    """

    step: Callable[[float], object]
    ended: AbstractContextManager[None]
    batch: int
    examples: int
    eval_examples: int
    eval_steps: float | None
    passes: float


def within_minutes(
    config: Config, directory: Path, world: World, began: float, trial: Callable[[Config], Trial]
) -> Config:
    """`config` with the epochs that fit into its `minutes`: those of `params.json` where the run is there already.

    Args:
        began: `time.monotonic()` when the command began.
        trial: the same run, to time its steps. Called where there is something to time, in every process.

    Raises:
        InputError: where epochs are given too, or not one step fits.
    """
    if config.minutes is None:
        return config
    check_positive("minutes", config.minutes)
    if config.epochs is not None:
        raise InputError("give minutes or epochs, not both")
    kept = world.from_main(lambda: kept_params(directory))
    if kept:
        return dataclasses.replace(config, epochs=kept.get("epochs"))
    tried = trial(config)
    with tried.ended:
        limit = 60 * config.minutes * TRIAL_SHARE
        seconds = seconds_per_step(tried, lambda step: limit, world)
    left = 60 * config.minutes - (time.monotonic() - began)
    steps = world.from_main(lambda: steps_within(left, seconds, tried))
    if steps < 1:
        raise InputError(
            f"not one step fits into {config.minutes:g} minutes: a step takes {seconds:.3g} s here; give more minutes, "
            f"or a smaller batch"
        )
    epochs = epochs_of(steps, tried.batch, tried.examples)
    if world.is_main:
        print(
            f"{steps} steps ({epochs:.3g} epochs) fit into {config.minutes:g} minutes at {seconds:.3g} s a step",
            file=sys.stderr,
            flush=True,
        )
    return dataclasses.replace(config, epochs=epochs)


def steps_within(left: float, seconds: float, trial: Trial) -> int:
    """Steps of `seconds` seconds each that fit into `left` seconds, with the scorings that belong to them."""
    scoring = evaluation_seconds(seconds, trial, trial.eval_examples)
    if trial.eval_steps is None:
        return max(0, int((FILLED * left - scoring) / seconds))
    return max(0, int((FILLED * left - scoring) / (seconds + scoring / max(1.0, trial.eval_steps))))


def epochs_of(steps: int, batch: int, examples: int) -> float:
    """The least number of epochs that gives so many steps."""
    epochs = steps * batch / examples
    while int(examples * epochs // batch) < steps:
        epochs = math.nextafter(epochs, math.inf)
    return epochs


def evaluation_seconds(seconds: float, trial: Trial, examples: int) -> float:
    """How long so many examples take forward alone, where a step takes `seconds` seconds."""
    return seconds / (trial.batch * trial.passes) * examples


def seconds_for(steps: int, seconds: float, trial: Trial) -> float:
    """How long so many steps of `seconds` seconds each take, with the scorings that belong to them."""
    scoring = evaluation_seconds(seconds, trial, trial.eval_examples)
    scorings = 1.0 if trial.eval_steps is None else steps / max(1.0, trial.eval_steps)
    return steps * seconds + scorings * scoring


def seconds_per_step(trial: Trial, limit: Callable[[float], float], world: World, fewest: int = FEWEST_PLACES) -> float:
    """Seconds that a step takes in the mean over the whole run; the first steps, in which caches fill, do not count.

    Args:
        limit: seconds after which no further step is timed, where a step takes so many.
        fewest: places at which steps are timed all the same.
    """
    for _ in range(2):
        trial.step(PLACES[0])
    found: dict[float, list[float]] = {}
    began = time.monotonic()
    for number, place in enumerate(PLACES * ROUNDS):
        start = time.monotonic()
        trial.step(place)
        found.setdefault(place, []).append(time.monotonic() - start)
        passed = time.monotonic() - began
        if number + 1 >= fewest and world.any(passed > limit(passed / (number + 1))):
            break
    places = sorted(found)
    return float(np.interp(np.linspace(0, 1, 101), places, [np.median(found[place]) for place in places]).mean())
