"""How long networks take on a device, architecture by architecture, into a CSV file that `tunas fit` reads."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import (
    HEADER,
    LOWER_DECILE,
    REFERENCES,
    SETUP,
    Sample,
    append_samples,
    draw_architectures,
    drop_torn_row,
    read_samples,
    references_of,
)
from tunas.cost.timing import CLOCKS, interleaved_times, progress_bar, settle_allocator, summary
from tunas.errors import InputError
from tunas.files import check_writable, make_directory
from tunas.runtime import Conversion, Runtime, get_runtime
from tunas.runtime.registry import INT8, Arrays, Run
from tunas.runtime.threads import threads_given_back
from tunas.space import Architecture, Space, Tower, get_space

if TYPE_CHECKING:
    from tunas.cost.additive import PeakCost
    from tunas.cost.model import CostModel

VISITS_BEFORE = 2
"""Before its turns, a network is prepared and warmed up."""
CALIBRATION_IMAGES = 4
INPUTS, OUTPUT = ("image",), "logits"
"""What converted networks call their input and output."""


@dataclass(frozen=True)
class Comparison:
    """One measured architecture next to what a cost model predicts for it.

    Args:
        sample: the measurement.
        predicted: cost in `unit`.
        unit: of the cost model.
        references: how many of the cost model's own samples were measured in turn with it.
        slowdown: time that these take now over the time that they took then; 1 without any.
        changed: what differs from the set-up of these samples, so that none was measured.
    """

    sample: Sample
    predicted: float
    unit: str
    references: int
    slowdown: float
    changed: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Measured over predicted, minus 1."""
        return self.sample.milliseconds / self.predicted - 1

    @property
    def error_at_speed_of_then(self) -> float:
        """The same, had the device been as fast as when the cost model's samples were measured."""
        return self.sample.milliseconds / self.slowdown / self.predicted - 1


def measure(config: MeasureConfig) -> list[Sample]:
    """Measures what the configuration asks for.

    Returns:
        With `indices`, one sample; with `out`, every row that the file holds now, in its order.

    Raises:
        InputError: where the space, the device or the indices are unknown, the runtime is missing, the file holds rows
            of another set-up, or the space has fewer networks than asked for.
    """
    space = get_space(config.ssd)
    runtime = get_runtime(config.device)
    if config.indices is not None:
        return measured_group([space.architecture(config.indices).pruned()], runtime, config)
    assert config.out is not None
    wanted = wanted_architectures(space, config)
    measured = _already_measured(config.out, space, setup_of(space, runtime, config))
    done = {sample.indices for sample in measured}
    missing = [architecture for architecture in wanted if architecture.text not in done]
    group = config.group if runtime.interleaves else 1
    with progress_bar() as progress:
        task = progress.add_task(
            f"measuring {space.name} on {runtime.name}", total=len(wanted), completed=len(wanted) - len(missing)
        )
        for start in range(0, len(missing), group):
            part = missing[start : start + group]
            first = measured[:REFERENCES] if runtime.interleaves else []
            visits = (len(part) + len(first)) * (config.rounds + VISITS_BEFORE)
            visited = functools.partial(progress.advance, task, len(part) / visits)
            before = [(space.architecture(sample.indices), sample.milliseconds) for sample in first]
            samples, slowdown = measured_with_references(part, before, runtime, config, visited)
            rows = [sample.divided_by(slowdown) for sample in samples]
            append_samples(config.out, rows)
            measured += rows
    return read_samples(config.out, space)


def compare(config: MeasureConfig) -> Comparison:
    """Measures `config.indices` against what `config.cost_model` predicts.

    A model that `tunas fit` made of samples of this very set-up names some of them, which then tell the device's
    slowdown.

    Raises:
        InputError: as `measure`, or where the cost model cannot be used.
    """
    assert config.cost_model is not None and config.indices is not None
    space = get_space(config.ssd)
    runtime = get_runtime(config.device)
    architecture = space.architecture(config.indices).pruned()
    model = load_cost_model(config.cost_model, space, image_size=config.image_size, num_classes=config.num_classes)
    named = references_of(model)
    changed = setup_changes(model.provenance, setup_of(space, runtime, config)) if named else ()
    references = named if not changed and runtime.interleaves else []
    (sample,), slowdown = measured_with_references([architecture], references, runtime, config)
    return Comparison(sample, model.estimate(architecture), model.unit, len(references), slowdown, changed)


def as_fitted(ssd: str, cost_model: str | None, model: CostModel | PeakCost) -> MeasureConfig:
    """How the samples of a fitted cost model were measured, for one more architecture of the same space.

    Args:
        cost_model: path of the model.

    Raises:
        InputError: where the model was not fitted to measurements, or not to those of this device.
    """
    said = model.provenance
    if not references_of(model):
        raise InputError(
            "--verify measures the winner as the cost model's samples were measured, and this model was not fitted to "
            "any; give --cost_model a file that `tunas fit` wrote on this device, or leave out --verify"
        )
    runtime = get_runtime(str(said.get("backend")))
    if not runtime.interleaves:
        raise InputError(f"--verify measures in turns, which {runtime.name} cannot; leave it out")
    settings = {name: said[name] for name in ("image_size", "num_classes", "threads", "clock") if said.get(name)}
    made = MeasureConfig(ssd, device=runtime.name, indices="", cost_model=cost_model, **settings)
    if changed := setup_changes(said, setup_of(model.space, runtime, made)):
        raise InputError(f"--verify cannot measure as the cost model's samples were measured: {'; '.join(changed)}")
    return made


def setup_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between the set-up of a cost model's samples and this one, in words.

    What the model does not say is not compared: a model of medians, before there was a `statistic`, is compared with
    lower deciles, and the slowdown of its references then holds the difference between the two.
    """
    return tuple(
        f"{name} was {then[name]!r} and is now {value!r}"
        for name, value in now.items()
        if name in then and then[name] != value
    )


def wanted_architectures(space: Space, config: MeasureConfig) -> list[Architecture]:
    """As many different ones as the configuration asks for.

    Raises:
        InputError: where the space has fewer.
    """
    wanted = list(itertools.islice(draw_architectures(space, config.seed), config.num_architectures))
    if len(wanted) < config.num_architectures:
        raise InputError(
            f"{space.name} has only some {len(wanted)} different networks, not the {config.num_architectures} asked for"
        )
    return wanted


def _already_measured(path: str, space: Space, setup: dict[str, Any]) -> list[Sample]:
    """The samples that a file holds, to which more of the same set-up can be appended."""
    if not Path(path).is_file():
        check_writable(path)
        make_directory(Path(path).parent)
        return []
    check_writable(path)
    drop_torn_row(path)
    if Path(path).stat().st_size == 0:
        return []
    header = Path(path).read_text(encoding="utf-8").splitlines()[0]
    if header != ",".join(HEADER):
        raise InputError(
            f"{path} has other columns than `tunas measure` writes, so it cannot be continued; give a new file"
        )
    samples = read_samples(path, space)
    for name in SETUP if samples else ():
        before = getattr(samples[0], name)
        if before != setup[name]:
            raise InputError(
                f"{path} was measured with {name} {before!r}, not {setup[name]!r}; give a new file or the same settings"
            )
    return samples


def conditions_of(space: Space, config: MeasureConfig) -> dict[str, int | None]:
    """Pixels a side and classes of the networks; None where they have an example of their own in place of images."""
    if space.example is not None:
        return {"image_size": None, "num_classes": None}
    return {"image_size": config.image_size, "num_classes": config.num_classes}


def setup_of(space: Space, runtime: Runtime, config: MeasureConfig) -> dict[str, Any]:
    """What stays the same for every row of a file: values of the columns `SETUP`."""
    threads = config.threads if runtime.sets_threads else None
    return {
        "backend": runtime.name,
        "version": runtime.version(),
        "device": runtime.describe(),
        **conditions_of(space, config),
        "threads": threads,
        "clock": config.clock,
        "statistic": LOWER_DECILE,
    }


def network_and_inputs(
    architecture: Architecture, config: MeasureConfig
) -> tuple[Any, tuple[Any, ...], tuple[str, ...]]:
    """(stand-alone network in eval mode, freshly initialised; one tensor per input; what artifacts call these).

    A tower's input is one random image `[1, 3, size, size]`; a model of one's own has its example.
    """
    import torch

    from tunas.nn import NetworkOptions, build_network
    from tunas.nn.flat import flat_network

    space = architecture.space
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        options = NetworkOptions(same_padding=config.padding == "same")
        network = build_network(architecture, config.num_classes, options=options).eval().requires_grad_(False)
        if isinstance(space.structure, Tower):
            return network, (torch.rand(1, 3, config.image_size, config.image_size),), INPUTS
        from tunas.cost.own import example_of

        return flat_network(network, example_of(space, None, config.image_size))


def artifact_and_inputs(architecture: Architecture, runtime: Runtime, config: MeasureConfig) -> tuple[Any, Arrays]:
    """What the runtime makes of the architecture, as `tunas export` ships it, and inputs for it."""
    network, inputs, names = network_and_inputs(architecture, config)
    arrays = tuple(part.numpy() for part in inputs)
    calibration = random_inputs(arrays, config.seed) if runtime.precision == INT8 else []
    return runtime.convert(network, inputs, Conversion(calibration, inputs=names, output=OUTPUT)), arrays


def run_of(architecture: Architecture, runtime: Runtime, config: MeasureConfig) -> Run:
    """What is timed: one run of the artifact."""
    artifact, arrays = artifact_and_inputs(architecture, runtime, config)
    return runtime.open(artifact, config.threads).bound(*arrays)


def random_inputs(like: Arrays, seed: int) -> list[Arrays]:
    """What the ranges of INT8 activations are taken from: `CALIBRATION_IMAGES` times standard-normal numbers in the
    place of floating-point ones."""
    rng = np.random.default_rng(seed)
    return [
        tuple(rng.standard_normal(part.shape, np.float32) if part.dtype == np.float32 else part for part in like)
        for _ in range(CALIBRATION_IMAGES)
    ]


@threads_given_back()
def measured_group(
    architectures: Sequence[Architecture],
    runtime: Runtime,
    config: MeasureConfig,
    visited: Callable[[], Any] = lambda: None,
    references: int = 0,
) -> list[Sample]:
    """One sample per architecture, timed in turns; calls `visited` whenever one of them was prepared, warmed up, or had
    a turn. The last `references` pad symmetrically, as they did when they were measured before."""
    settle_allocator()
    runs = []
    as_before = dataclasses.replace(config, padding="symmetric")
    for number, architecture in enumerate(architectures):
        is_reference = number >= len(architectures) - references
        runs.append(run_of(architecture, runtime, as_before if is_reference else config))
        visited()
    times = interleaved_times(runs, config.warmup, config.rounds, config.repeats, CLOCKS[config.clock], visited)
    setup = setup_of(architectures[0].space, runtime, config)
    turns = {"rounds": config.rounds, "repeats": config.repeats}
    return [
        Sample(architecture.space.name, architecture.text, **{**setup, **summary(of_one), **turns})
        for architecture, of_one in zip(architectures, times, strict=True)
    ]


def measured_with_references(
    architectures: Sequence[Architecture],
    references: Sequence[tuple[Architecture, float]],
    runtime: Runtime,
    config: MeasureConfig,
    visited: Callable[[], Any] = lambda: None,
) -> tuple[list[Sample], float]:
    """(one sample per architecture, the device's slowdown), in turn with networks that were measured before.

    A device's speed changes from one minute to the next, often by more than a good model's error.

    Args:
        references: (network, milliseconds that it took).

    Returns:
        The slowdown is the median over the references of the time that one takes now over the time that it took; 1
        without any.
    """
    everything = [*architectures, *(reference for reference, _ in references)]
    samples = measured_group(everything, runtime, config, visited, len(references))
    again = samples[len(architectures) :]
    return samples[: len(architectures)], slowdown_of([now.milliseconds for now in again], references)


def slowdown_of(milliseconds: Sequence[float], references: Sequence[tuple[Architecture, float]]) -> float:
    """The median over the references of the time that one takes now over the time that it took; 1 without any."""
    ratios = [now / before for now, (_, before) in zip(milliseconds, references, strict=True)]
    return float(np.median(ratios)) if ratios else 1.0
