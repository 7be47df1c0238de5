"""What the parts of a design will take, from a few timed steps and networks."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tunas.cost.fit import LEARNING_FRACTIONS
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import REFERENCES
from tunas.design.sizes import Sizes
from tunas.design.timed import Timed, at_once, candidates, trainings
from tunas.design.way import SAMPLES, Way
from tunas.export.export import LATENCY_RUNS
from tunas.run.budget import evaluation_seconds
from tunas.run.checkpoint import KEPT
from tunas.runtime.registry import INT8
from tunas.search.plan import plan_search
from tunas.space import Architecture
from tunas.train.plan import plan_training

REPORT_SECONDS, REPORT_BYTES = 0.6, 5_000_000
OPENING_SECONDS = 0.5
"""What opening a file takes, with what lies beside it, before it is timed."""
NUMBER_BYTES = 4
LOSES = 20.0
"""Seconds of work that a killed run loses at most, unless that would take too much writing."""
WRITTEN = 2e8
"""Bytes a second that a disk takes, low rather than high."""
MOST_WRITING = 50
"""Between two checkpoints there is at least so many times the time that one takes to write."""
EVENT_BYTES = 60
"""What a logged scalar takes."""
LOGGED = 200
"""About how many steps of a run are logged."""


@dataclass(frozen=True)
class Estimate:
    """What a part will take: seconds, and bytes on the disk."""

    seconds: float
    bytes: float = 0.0

    def times(self, count: float) -> Estimate:
        """What `count` such parts take."""
        return Estimate(self.seconds * count, self.bytes * count)

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.bytes + other.bytes)


def estimates(way: Way, sizes: Sizes, found: Timed) -> dict[str, Estimate]:
    """What each part takes, by its name.

    Args:
        sizes: of the parts, which may be other ones than the way's.
        found: what was timed.
    """
    targets = len(way.targets)
    parts: dict[str, Estimate] = {}
    if way.measures:
        parts["measure"] = _measuring(way, sizes.networks, found)
        parts["fit"] = _fitting(way, found)
    parts["search"] = _searching(way, sizes.search_epochs, found) + _caches(way)
    if sizes.candidates > 1:
        parts["candidates"] = _trainings(way, candidates(way, sizes), sizes.candidate_epochs, found)
    parts["train"] = _trainings(way, trainings(way, sizes), sizes.train_epochs, found)
    if way.exports:
        parts["export"] = _exporting(way, found).times(targets)
        parts["time"] = _timing(way, found).times(targets)
    parts["report"] = Estimate(REPORT_SECONDS, REPORT_BYTES)
    return parts


def checkpoints(way: Way, sizes: Sizes, found: Timed) -> dict[str, int]:
    """Command -> steps between two checkpoints: as far apart as a run may lose, or as writing them allows."""
    sized = dataclasses.replace(way, sizes=sizes)
    search = plan_search(sized.search_config(), way.task.size("train"), digits=way.is_digits, on_cuda=False)
    pace = found.training(at_once(way, trainings(way, sizes)))
    first = Architecture(way.space, (0,) * way.space.num_choices)
    training = plan_training(sized.train_config(first), pace.trial.examples)
    every = {}
    for command, seconds, numbers, usual in (
        ("search", found.search.step, found.weights, search.checkpoint_every),
        ("train", pace.step, found.parameters, training.checkpoint_every),
    ):
        writing = 3 * numbers * NUMBER_BYTES / WRITTEN
        every[command] = max(1, min(usual, int(max(LOSES, MOST_WRITING * writing) / seconds)))
    return every


def _measuring(way: Way, networks: int, found: Timed) -> Estimate:
    config = way.measure_config()
    networks = max(0, networks - networks_measured(way))
    group = config.group if way.runtime.interleaves else 1
    again = REFERENCES * max(0, math.ceil(networks / group) - 1) if way.runtime.interleaves else 0
    return Estimate(_seconds_of_network(config, found) * (networks + again), 300 * networks)


def networks_measured(way: Way) -> int:
    """Rows of the file of measurements that is there already."""
    path = way.out / SAMPLES
    return max(0, len(path.read_bytes().splitlines()) - 1) if path.is_file() else 0


def _seconds_of_network(config: MeasureConfig, found: Timed) -> float:
    return found.prepare + found.run * _runs_of_network(config)


def _runs_of_network(config: MeasureConfig) -> int:
    return config.warmup + config.rounds * (config.repeats + 1)


def _fitting(way: Way, found: Timed) -> Estimate:
    """One fit to all, one for each part that is held out, and some to fewer samples."""
    folds = way.fit_config().folds
    return Estimate(found.fit * (1 + folds * (1 + sum(LEARNING_FRACTIONS) / 2)), 1_000_000)


def search_steps(sizes: Sizes, found: Timed) -> int:
    """Steps of the search that was timed, with the epochs of `sizes`."""
    return found.search.steps(sizes.search_epochs)


def _searching(way: Way, epochs: float, found: Timed) -> Estimate:
    steps = found.search.steps(epochs)
    logged = min(steps, max(LOGGED, steps / 100)) * (2 * sum(way.space.sizes) * len(way.targets) + 20)
    disk = KEPT * 3 * found.weights * NUMBER_BYTES + logged * EVENT_BYTES
    return Estimate(found.search.seconds(epochs), disk)


def _trainings(way: Way, count: int, epochs: float, found: Timed) -> Estimate:
    """`count` trainings, as many at a time as there are workers."""
    beside = at_once(way, count)
    disk = (KEPT * 3 + 1) * found.parameters * NUMBER_BYTES
    return Estimate(found.training(beside).seconds(epochs) * math.ceil(count / beside), disk * count)


def _caches(way: Way) -> Estimate:
    """Evaluation views that are kept decoded."""
    if way.task.data is None or way.is_digits:
        return Estimate(0.0)
    images = sum(way.task.size(split) for split in ("valid", *(["test"] if way.sizes.tests else [])))
    return Estimate(0.0, 3 * images * way.task.data.image_size**2)


def _exporting(way: Way, found: Timed) -> Estimate:
    """It opens the data, converts, and runs the images that are checked both in torch and in the file."""
    config, pace = way.export_config(way.targets[0]), found.training(1)
    checked = way.task.size("test" if way.sizes.tests else "valid")
    seconds = found.opening + found.prepare + found.calibrate * config.calibration_images
    seconds += evaluation_seconds(pace.step, pace.trial, checked) + found.run * (checked + LATENCY_RUNS)
    size = found.parameters * (1 if way.runtime.precision == INT8 else NUMBER_BYTES)
    return Estimate(seconds, 500_000 + size)


def _timing(way: Way, found: Timed) -> Estimate:
    """Timing the file, which is there, and some of the networks that were measured, which are made again."""
    references = REFERENCES if way.measures and way.runtime.interleaves else 0
    runs = found.run * _runs_of_network(way.timing_config()) * (references + 1)
    return Estimate(OPENING_SECONDS + found.prepare * references + runs, 2_000)
