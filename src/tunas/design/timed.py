"""What is timed for a design's plan: a few networks on the device, a few steps of the search and of a training."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.cost.measure import OUTPUT, network_and_inputs, random_inputs, run_of
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import draw_architectures
from tunas.cost.timing import settle_allocator
from tunas.design.pace import Pace, pace_beside, pace_of
from tunas.design.sizes import Sizes
from tunas.design.way import Way
from tunas.nn import SuperNet
from tunas.nn.profile import count_parameters
from tunas.runtime.registry import INT8, Conversion
from tunas.space import Architecture
from tunas.task.opening import open_task

DRAWN = 4096
"""Random architectures among which one of the wanted cost is looked for."""
CALIBRATED = 12
"""To see what calibration costs, a network is calibrated on so many times the images of a measured one."""


@dataclass(frozen=True)
class Timed:
    """What was timed.

    Args:
        prepare: seconds to convert and open a network, and to warm it up.
        run: seconds of one run of it.
        calibrate: seconds of calibration for one image more.
        opening: seconds to open the dataset.
        search: how fast the search goes.
        train: the same of trainings of an architecture of about the wanted cost, by how many run at a time.
        fit: seconds of one fit of the cost model; 0 where none is fitted.
        weights: shared by the search.
        parameters: of the architecture that was trained.
    """

    prepare: float
    run: float
    calibrate: float
    opening: float
    search: Pace
    train: dict[int, Pace]
    fit: float
    weights: int
    parameters: int

    def training(self, count: int) -> Pace:
        """How fast one of so many trainings at a time goes, or of about as many."""
        return self.train[min(self.train, key=lambda known: abs(known - count))]


def timed(way: Way) -> Timed:
    """Times some networks and steps: seconds to a minute."""
    prepare, run, architecture = _timed_networks(way)
    return Timed(
        prepare=prepare,
        run=run,
        calibrate=_seconds_of_calibration(way, architecture, prepare) if way.exports else 0.0,
        opening=_seconds_to_open(way, architecture),
        search=_pace_of_search(way),
        train={count: _pace_of_trainings(way, architecture, count) for count in sorted(_counts(way))},
        fit=_seconds_of_fit(way) if way.measures else 0.0,
        weights=_shared_weights(way),
        parameters=count_parameters(architecture, **way.task.network_arguments),
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
    """Seconds of calibration for one image: a conversion to INT8 with more images against the one that was timed."""
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
    """(seconds to prepare a network, seconds of a run, its architecture)."""
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


def _seconds_to_open(way: Way, architecture: Architecture) -> float:
    began = time.perf_counter()
    open_task(way.train_config(architecture), None, task=way.given)
    return time.perf_counter() - began


def _pace_of_search(way: Way) -> Pace:
    # Cost models that are not there yet price in no time: any other one stands for them.
    name = "macs" if way.measures else way.cost_model_name
    config = way.search_config(cost_model=name, rl_cost_model_target=None)
    if way.config.engine == "ray":  # whose processes begin from nothing
        return pace_beside([config], _processors(), forked=False)
    return pace_of(config, way.given)


def _pace_of_trainings(way: Way, architecture: Architecture, count: int) -> Pace:
    config = way.train_config(architecture)
    if way.config.engine == "ray":  # which gives each one processor
        return pace_beside([config] * count, _processors(), forked=False)
    return pace_of(config, way.given) if count == 1 else pace_beside([config] * count, count)


def _counts(way: Way) -> set[int]:
    """How many trainings run at a time, in the parts that have some."""
    parts = [trainings(way, way.sizes), candidates(way, way.sizes)]
    return {at_once(way, jobs) for jobs in parts if jobs}


def trainings(way: Way, sizes: Sizes) -> int:
    """How many trainings count."""
    return len(way.targets) * sizes.seeds * (1 + sizes.random)


def candidates(way: Way, sizes: Sizes) -> int:
    """How many brief trainings choose between candidates."""
    return len(way.targets) * sizes.candidates if sizes.candidates > 1 else 0


def at_once(way: Way, jobs: int) -> int:
    """How many of so many jobs run at a time; on a Ray cluster as if it were this machine alone."""
    workers = way.config.workers if way.config.engine == "local" else _processors()
    return max(1, min(workers, jobs))


def _processors() -> int:
    return os.cpu_count() or 1


def _seconds_of_fit(way: Way) -> float:
    """Seconds of one fit of the cost model, on made-up times."""
    from tunas.cost.regression import SpaceFeatures, fitted_times

    known = way.task.cost_arguments
    began = time.perf_counter()
    features = SpaceFeatures(way.space, known.get("image_size"), known.get("num_classes"))
    rows = way.space.sample(np.random.default_rng(0), way.measure_config().num_architectures)
    fitted_times(features, rows, 1.0 + load_cost_model("macs", way.space, **known).estimate(rows) / 1e9)
    return time.perf_counter() - began


def _shared_weights(way: Way) -> int:
    """How many weights a search of the space shares."""
    import torch

    with torch.device("meta"):
        supernet = SuperNet(way.space, **way.task.network_arguments)
    return sum(parameter.numel() for parameter in supernet.parameters())
