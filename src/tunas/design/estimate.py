"""What the parts of a design will take, from a few timed steps and networks."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.cost.fit import LEARNING_FRACTIONS
from tunas.cost.measure import (
    OUTPUT,
    REFERENCES,
    MeasureConfig,
    network_and_inputs,
    random_inputs,
    run_of,
    settle_allocator,
)
from tunas.cost.samples import draw_architectures
from tunas.design.sizes import Sizes
from tunas.design.way import SAMPLES, Way
from tunas.nn import SuperNet
from tunas.nn.profile import count_parameters
from tunas.run.budget import Trial, seconds_for, seconds_per_step
from tunas.run.checkpoint import KEPT
from tunas.run.device import World, joined_world
from tunas.runtime.registry import INT8, Conversion
from tunas.search.config import plan_search
from tunas.space import Architecture
from tunas.train.config import plan_training

PLACES = 5
"""Parts of a search that its steps are timed at, at least: its first quarter is several times as slow as the rest."""
LIMIT = 5.0
"""Seconds after which no further step is timed."""
DRAWN = 4096
"""Random architectures among which one of the wanted cost is looked for."""
REPORT_SECONDS, REPORT_BYTES = 3.0, 5_000_000
START_SECONDS = 1.5
"""Of a run: opening its data, writing its files."""
NUMBER_BYTES = 4
LOSES = 20.0
"""Seconds of work that a killed run loses at most, where that does not take too much writing."""
WRITTEN = 2e8
"""Bytes a second that a disk takes, low rather than high."""
MOST_WRITING = 50
"""Times as long as a checkpoint takes to write, the next one is away at least."""
EVENT_BYTES = 60
"""Of a logged scalar."""
CALIBRATED = 12
"""Times as many images as a measured network is calibrated on, to see what one costs."""
LOGGED = 200
"""Steps of a run that are logged, about."""


@dataclass(frozen=True)
class Estimate:
    """What a part will take: seconds, and bytes on the disk."""

    seconds: float
    bytes: float = 0.0

    def times(self, count: float) -> Estimate:
        return Estimate(self.seconds * count, self.bytes * count)

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.bytes + other.bytes)


@dataclass(frozen=True)
class Timed:
    """What was timed.

    Args:
        prepare: seconds to convert and open a network, and to warm it up.
        run: seconds of one run of it.
        calibrate: seconds of calibration for one image more.
        search: a trial of the search, and its seconds a step.
        train: the same of a training of an architecture of about the wanted cost.
        fit: seconds of one fit of the cost model; 0 where none is fitted.
        weights: shared by the search.
        parameters: of the architecture that was trained.
    """

    prepare: float
    run: float
    calibrate: float
    search: tuple[Trial, float]
    train: tuple[Trial, float]
    fit: float
    weights: int
    parameters: int


def timed(way: Way) -> Timed:
    """Times some networks and steps: seconds to a minute."""
    prepare, run, architecture = _timed_networks(way)
    calibrate = _seconds_of_calibration(way, architecture, prepare) if way.exports else 0.0
    with joined_world(way.config.compute) as world:
        searching = _seconds_of_search(way, world)
        training = _seconds_of_training(way, architecture, world)
    return Timed(
        prepare,
        run,
        calibrate,
        searching,
        training,
        _seconds_of_fit(way) if way.measures else 0.0,
        _shared_weights(way),
        count_parameters(architecture, **way.task.network_arguments),
    )


def _timed_networks(way: Way) -> tuple[float, float, Architecture]:
    """(seconds to prepare a network, seconds of a run, an architecture of about the wanted cost)."""
    measuring = way.timing_config()
    if not way.measures and not way.exports:
        return 0.0, 0.0, _nearest(way, way.cost_model(), way.targets[0].cost)
    settle_allocator()
    some = draw_architectures(way.space, way.config.seed)
    found = [_timed_network(way, next(some), measuring) for _ in range(3 if way.measures else 2)][1:]  # imports first
    prepare, run = (float(np.mean([each[place] for each in found])) for place in (0, 1))
    if not way.measures:
        return prepare, run, _nearest(way, way.cost_model(), way.targets[0].cost)
    work = load_cost_model("macs", way.space, **way.task.cost_arguments)
    rate = float(np.mean([work.estimate(each[2]) / each[1] for each in found]))  # multiply-accumulates a second
    wanted = way.targets[0].cost
    return prepare, run, _nearest(way, work, None if wanted is None else wanted / 1e3 * rate)


def _seconds_of_calibration(way: Way, architecture: Architecture, prepare: float) -> float:
    """For one image, by an INT8 conversion that sees more of them than those that were timed before."""
    if way.runtime.precision != INT8:
        return 0.0
    network, inputs, names = network_and_inputs(architecture, way.timing_config())
    arrays = tuple(part.numpy() for part in inputs)
    few = random_inputs(arrays, 0)
    began = time.perf_counter()
    way.runtime.convert(network, inputs, Conversion(few * CALIBRATED, inputs=names, output=OUTPUT))
    more = time.perf_counter() - began
    return max(0.0, more - prepare) / (len(few) * (CALIBRATED - 1))


def _timed_network(way: Way, architecture: Architecture, measuring: MeasureConfig) -> tuple[float, float, Architecture]:
    began = time.perf_counter()
    run = run_of(architecture, way.runtime, measuring)
    prepare = time.perf_counter() - began
    times = []
    for _ in range(measuring.warmup + measuring.repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return prepare, float(np.median(times[measuring.warmup :])), architecture


def _nearest(way: Way, model: Any, cost: float | None) -> Architecture:
    """A random architecture of about that cost, or of the median."""
    rows = way.space.sample(np.random.default_rng(way.config.seed), DRAWN)
    costs = model.estimate(rows)
    wanted = float(np.median(costs)) if cost is None else cost
    return Architecture(way.space, tuple(rows[int(np.abs(costs - wanted).argmin())].tolist()))


def _seconds_of_search(way: Way, world: World) -> tuple[Trial, float]:
    from tunas.search.loop import trial

    # Cost models that are not there yet price in no time: any other one stands for them.
    name = "macs" if way.measures else way.cost_model_name
    config = way.search_config(cost_model=name, rl_cost_model_target=None)
    return _timed_steps(trial(way.space, way.task, config, world), world)


def _seconds_of_training(way: Way, architecture: Architecture, world: World) -> tuple[Trial, float]:
    from tunas.train.loop import trial

    return _timed_steps(trial(way.train_config(architecture), architecture, way.task, world), world)


def _timed_steps(trial: Trial, world: World) -> tuple[Trial, float]:
    with trial.ended:
        return trial, seconds_per_step(trial, LIMIT, world, PLACES)


def _seconds_of_fit(way: Way) -> float:
    """Of one fit of the cost model, on made-up times."""
    from tunas.cost.regression import SpaceFeatures, fitted_times

    known = way.task.cost_arguments
    began = time.perf_counter()
    features = SpaceFeatures(way.space, known.get("image_size"), known.get("num_classes"))
    rows = way.space.sample(np.random.default_rng(0), way.measure_config().num_architectures)
    fitted_times(features, rows, 1.0 + load_cost_model("macs", way.space, **known).estimate(rows) / 1e9)
    return time.perf_counter() - began


def _shared_weights(way: Way) -> int:
    import torch

    with torch.device("meta"):
        supernet = SuperNet(way.space, **way.task.network_arguments)
    return sum(parameter.numel() for parameter in supernet.parameters())


def estimates(way: Way, sizes: Sizes, found: Timed) -> dict[str, Estimate]:
    """Of every part, by its name.

    Args:
        sizes: of the parts, which may be other ones than the way's.
        found: what was timed.
    """
    targets = len(way.targets)
    brief = _training(sizes.candidate_epochs, found)
    whole = _training(sizes.train_epochs, found)
    alike = targets * sizes.seeds * (1 + sizes.random)
    parts: dict[str, Estimate] = {}
    if way.measures:
        parts["measure"] = _measuring(way, sizes.networks, found)
        parts["fit"] = _fitting(way, found)
    parts["search"] = _searching(way, sizes.search_epochs, found) + _caches(way)
    if sizes.candidates > 1:
        parts["candidates"] = _side_by_side(brief, targets * sizes.candidates, way)
    parts["train"] = _side_by_side(whole, alike, way)
    if way.exports:
        parts["export"] = _exporting(way, found).times(targets)
    if way.exports:
        parts["time"] = _timing(way, found).times(targets)
    parts["report"] = Estimate(REPORT_SECONDS, REPORT_BYTES)
    return parts


def checkpoints(way: Way, sizes: Sizes, found: Timed) -> dict[str, int]:
    """Command -> steps between two checkpoints: as far apart as a run may lose, or as writing them allows."""
    sized = dataclasses.replace(way, sizes=sizes)
    search = plan_search(sized.search_config(), way.task.size("train"), digits=way.is_digits, on_cuda=False)
    training = plan_training(
        sized.train_config(Architecture(way.space, (0,) * way.space.num_choices)), found.train[0].examples
    )
    every = {}
    for command, seconds, numbers, usual in (
        ("search", found.search[1], found.weights, search.checkpoint_every),
        ("train", found.train[1], found.parameters, training.checkpoint_every),
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
    return found.prepare + found.run * (config.warmup + config.rounds * (config.repeats + 1))


def _fitting(way: Way, found: Timed) -> Estimate:
    """One fit to all, one for each part that is held out, and some to fewer samples."""
    folds = way.fit_config().folds
    return Estimate(found.fit * (1 + folds * (1 + sum(LEARNING_FRACTIONS) / 2)), 1_000_000)


def search_steps(sizes: Sizes, found: Timed) -> int:
    """Of the search that was timed, with the epochs of `sizes`."""
    return _steps(found.search[0], sizes.search_epochs)


def _steps(trial: Trial, epochs: float) -> int:
    return int(trial.examples * epochs // trial.batch)


def _searching(way: Way, epochs: float, found: Timed) -> Estimate:
    trial, seconds = found.search
    steps = _steps(trial, epochs)
    logged = min(steps, max(LOGGED, steps / 100)) * (2 * sum(way.space.sizes) * len(way.targets) + 20)
    disk = KEPT * 3 * found.weights * NUMBER_BYTES + logged * EVENT_BYTES
    return Estimate(START_SECONDS + seconds_for(steps, seconds, trial), disk)


def _training(epochs: float, found: Timed) -> Estimate:
    trial, seconds = found.train
    disk = (KEPT * 3 + 1) * found.parameters * NUMBER_BYTES
    return Estimate(START_SECONDS + seconds_for(_steps(trial, epochs), seconds, trial), disk)


def _side_by_side(one: Estimate, count: int, way: Way) -> Estimate:
    rounds = math.ceil(count / way.config.workers)
    return Estimate(one.seconds * rounds, one.bytes * count)


def _caches(way: Way) -> Estimate:
    """Evaluation views that are kept decoded."""
    if way.task.data is None or way.is_digits:
        return Estimate(0.0)
    images = sum(way.task.size(split) for split in ("valid", *(["test"] if way.sizes.tests else [])))
    return Estimate(0.0, 3 * images * way.task.data.image_size**2)


def _exporting(way: Way, found: Timed) -> Estimate:
    config = way.export_config(way.targets[0])
    checked = way.task.size("test" if way.sizes.tests else "valid")
    calibrating = found.calibrate * config.calibration_images
    runs = checked * 3 + 60
    size = found.parameters * (1 if way.runtime.precision == INT8 else NUMBER_BYTES)
    return Estimate(START_SECONDS + found.prepare + calibrating + found.run * runs, 500_000 + size)


def _timing(way: Way, found: Timed) -> Estimate:
    references = REFERENCES if way.measures and way.runtime.interleaves else 0
    return Estimate(_seconds_of_network(way.timing_config(), found) * (references + 1), 2_000)
