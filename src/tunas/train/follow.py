"""Scores of a running training, one for each checkpoint that it writes (`--mode=eval --follow`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from tunas.errors import InputError
from tunas.files import make_directory
from tunas.run.checkpoint_names import checkpoints
from tunas.run.device import World
from tunas.run.directory import PARAMS, read_params
from tunas.run.events import EventLog
from tunas.run.scores import Row, write_summary
from tunas.run.session import Stopped, stop_requests
from tunas.train.evaluation import Evaluation
from tunas.train.trained import TrainedWeights, Which, trained_weights

FOLLOWED = "eval"
"""Directory in that of the training for what belongs to its follower; the training cuts back its own event files."""
PAUSE = 2.0
"""Seconds between two looks."""


def followed(
    directory: Path,
    which: Which | None,
    world: World,
    quality: str,
    split: str,
    evaluate: Callable[[dict[str, Tensor]], Evaluation],
) -> tuple[Evaluation, int]:
    """(score, step) of the last checkpoint of the training in `directory`, after those before it.

    Each score is printed, logged, and a row of `summary.csv`, in the directory `eval` of the training's. Checkpoints
    that the training has removed before their turn are not scored.

    Args:
        which: weights to score, not `best`.
        quality: the metric to print.
        evaluate: scores weights, in every process.

    Raises:
        InputError: where the best weights are asked for.
        Stopped: after SIGTERM or SIGINT.
    """
    if which == "best":
        raise InputError("--follow scores every new checkpoint; --which=best is for when the training has ended")
    where = directory / FOLLOWED  # made later: a training begins in an empty directory only
    events = EventLog(where) if world.is_main else None
    rows: list[Row] = []
    step = -1
    try:
        while True:
            weights, steps = world.from_main(partial(_next, directory, which, step))
            world.from_main(lambda: make_directory(where))
            step = weights.step
            found = evaluate(weights.tensors)
            rows.append({"step": step, **{f"eval_{name}": value for name, value in found.metrics.items()}})
            if events:
                events.log(step, [(f"eval/{name}", value) for name, value in found.metrics.items()])
                write_summary(where, rows)
                words = f"step {step}/{steps}: {split} {quality} {found.metrics[quality]:.4f}"
                print(words, file=sys.stderr, flush=True)
            if step >= steps:
                return found, step
    finally:
        if events:
            events.close()


def _next(directory: Path, which: Which | None, after: int) -> tuple[TrainedWeights, int]:
    """(the newest weights taken after step `after`, steps of the training), once there are some."""
    waiting = False
    with stop_requests() as stop:
        while True:
            if (directory / PARAMS).exists() and checkpoints(directory):
                weights = trained_weights(directory, which)
                if weights.step > after:
                    return weights, int(read_params(directory)["steps"])
            if not waiting:
                print(f"waiting for the next checkpoint in {directory}", file=sys.stderr, flush=True)
                waiting = True
            time.sleep(PAUSE)
            if stop.signal is not None:
                raise Stopped(stop.signal, max(after, 0))
