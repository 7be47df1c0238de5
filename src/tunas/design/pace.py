"""How fast searches and trainings go here, timed in the way in which they will run: alone with all threads, or side by
side in processes that share the processors."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from threading import BrokenBarrierError
from typing import Any

from tunas.run.budget import Trial, seconds_for, seconds_per_step
from tunas.run.device import joined_world
from tunas.run.job import keep_between_steps
from tunas.search.config import SearchConfig
from tunas.space import get_space
from tunas.study.processes import begin, context, shared_threads, wait_until_ready
from tunas.task import Task
from tunas.task.opening import open_task

PLACES = 5
"""Places in a search that its steps are timed at, at least: its first quarter is several times as slow as the rest."""
LIMIT = 5.0
"""Seconds after which no further step is timed."""
SHARE = 0.02
"""Part of the run after which none is either: a short one deserves no long timing."""
PATIENCE = 60.0
"""Seconds that a process waits for the others to be ready, so that all are timed at the same time."""

_together: Any = None
"""In a process of `pace_beside`: the barrier at which all begin."""


@dataclass(frozen=True)
class Pace:
    """How fast a run goes.

    Args:
        trial: what was timed, without what makes its steps.
        step: seconds a step.
        start: seconds from the start of the run, or of its process, to its first step.
    """

    trial: Trial
    step: float
    start: float

    def steps(self, epochs: float) -> int:
        """Steps of a run of so many epochs."""
        return int(self.trial.examples * epochs // self.trial.batch)

    def seconds(self, epochs: float) -> float:
        """How long a whole run takes, with its evaluations."""
        return self.start + seconds_for(self.steps(epochs), self.step, self.trial)


def pace_of(config: Any, given: Task | None) -> Pace:
    """The pace of a search or a training that has this process to itself.

    Args:
        given: the task where the configuration does not say it.
    """
    return _pace(config, given, time.time())


def pace_beside(configs: Sequence[Any], sharing: int, *, forked: bool = True) -> Pace:
    """The mean pace of runs side by side, a process for each.

    Args:
        sharing: processes that the threads are dealt to.
        forked: begin as those of `tunas.study.jobs` do; otherwise each imports everything first.
    """
    count = len(configs)
    how = context() if forked else multiprocessing.get_context("spawn")
    together = how.Barrier(count)
    if forked:
        wait_until_ready()
    try:
        with shared_threads(sharing), ProcessPoolExecutor(count, how, _begin, (together, dict(os.environ))) as pool:
            begun = time.time()
            found = list(pool.map(_beside, configs, [begun] * count))
    except BrokenProcessPool:  # too little memory for so many, perhaps
        print("the processes that were to be timed ended; one run is timed alone", file=sys.stderr)
        return pace_of(configs[0], None)
    mean = {name: sum(getattr(each, name) for each in found) / count for name in ("step", "start")}
    return dataclasses.replace(found[0], **mean)


def _begin(together: Any, environment: dict[str, str]) -> None:
    global _together
    _together = together
    begin(environment)


def _beside(config: Any, begun: float) -> Pace:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (what is said is said by the run itself)
    keep_between_steps()
    return _pace(config, None, begun, _wait)


def _wait() -> None:
    with contextlib.suppress(BrokenBarrierError):
        _together.wait(PATIENCE)


def _pace(config: Any, given: Task | None, begun: float, wait: Any = lambda: None) -> Pace:
    with joined_world(config.device) as world:
        trial = _trial(config, open_task(config, None, task=given), world)
        start = time.time() - begun
        with trial.ended:
            wait()
            steps = trial.examples * config.epochs / trial.batch
            seconds = seconds_per_step(trial, lambda step: min(LIMIT, SHARE * step * steps), world, PLACES)
    return Pace(dataclasses.replace(trial, step=_nothing, ended=contextlib.nullcontext()), seconds, start)


def _nothing(place: float) -> None:
    pass


def _trial(config: Any, task: Task, world: Any) -> Trial:
    space = get_space(config.ssd)
    if isinstance(config, SearchConfig):
        from tunas.search.loop import trial as search_trial

        return search_trial(space, task, config, world)
    from tunas.train.loop import trial as training_trial

    return training_trial(config, space.architecture(config.indices), task, world)
