"""How long networks take on a device, architecture by architecture, into a CSV file that `tunas fit` reads."""

from __future__ import annotations

import csv
import dataclasses
import functools
import gc
import io
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.cost.samples import (
    COLUMNS,
    HEADER,
    REFERENCES,
    SETUP,
    Sample,
    append_samples,
    draw_architectures,
    drop_torn_row,
    read_samples,
    references_of,
)
from tunas.errors import InputError
from tunas.files import check_writable, make_directory, write_text, write_whole
from tunas.flags import refuse_in_mode
from tunas.needs import need_packages
from tunas.runtime import Conversion, Runtime, get_runtime
from tunas.runtime.onnx_file import onnx_bytes
from tunas.runtime.registry import INT8, Arrays, Run
from tunas.runtime.threads import threads_given_back
from tunas.space import Architecture, Space, Tower, get_space

if TYPE_CHECKING:
    from rich.progress import Progress

    from tunas.cost.additive import PeakCost
    from tunas.cost.model import CostModel
    from tunas.run.told import Told

MANIFEST = "manifest.csv"
CLOCKS = {"wall": time.perf_counter_ns, "processor": time.process_time_ns}


VISITS_BEFORE = 2
"""Before its turns, a network is prepared and warmed up."""
CALIBRATION_IMAGES = 4
INPUTS, OUTPUT = ("image",), "logits"
"""What the files of exported networks call them."""
LARGEST_KEPT_BLOCK = 31 * 2**20
"""Bytes, just below glibc's upper limit of 32 MiB."""


MEANT_FOR = {
    **dict.fromkeys(("cost_model", "padding"), frozenset({"indices"})),
    "num_architectures": frozenset({"out", "export"}),
    "group": frozenset({"out"}),
    **dict.fromkeys(("device", "threads", "clock", "warmup", "rounds", "repeats"), frozenset({"out", "indices"})),
}
"""Flag -> what is measured where it means something: many architectures, one, or none here but exported ones. Flags
that are not named mean something for all."""


@dataclass(frozen=True)
class MeasureConfig:
    """Measures the latency of architectures at batch 1 on a device, or exports them for a device that is not here."""

    ssd: str
    """Search space: a name that `tunas spaces` lists, module:function or path/to/file.py:function."""

    device: str = "torch-cpu"
    """What runs the networks: torch-cpu, torch-cuda, torch-cpu-compile, torch-cuda-compile, onnxruntime, openvino,
    executorch; or in INT8 onnxruntime-int8, openvino-int8, executorch-int8, calibrated on four random images, because
    time depends neither on the weights nor on the ranges."""

    out: str | None = None
    """CSV file that the measurements are appended to. What it holds already is not measured again."""

    num_architectures: int = 500
    """How many different architectures the file shall hold in the end."""

    indices: str | None = None
    """Measure this architecture only, and print the result."""

    cost_model: str | None = None
    """With indices: a cost model whose prediction is printed next to what was measured. If `tunas fit` made it of
    samples of the same device and settings, ten of these take turns with the architecture and tell by how much the
    device's speed has changed since."""

    export: str | None = None
    """Directory to write the architectures to as ONNX files instead, with a manifest.csv whose empty column
    'milliseconds' takes the times that you measure elsewhere."""

    image_size: int = 224
    """Pixels a side."""

    num_classes: int = 1000
    """Outputs of the classifier."""

    padding: Literal["symmetric", "same"] = "symmetric"
    """With indices: how its convolutions pad. What cost models are fitted to pads symmetrically."""

    threads: int = 1
    """Processor threads that the runtime may use."""

    clock: Literal["wall", "processor"] = "wall"
    """What is counted: the time that passes, or the time that this process itself ran, without waiting for a core. The
    latter is steadier on a machine that other work shares, for one thread on a processor; it means nothing for a GPU or
    for several threads."""

    warmup: int = 5
    """Runs of each network before the first that is timed."""

    rounds: int = 10
    """How often each network's turn comes. A network counts with the median of its turns, a turn with the median of its
    runs."""

    repeats: int = 5
    """Timed runs in each turn, after one that is not timed."""

    group: int = 100
    """Networks that take turns, so that what disturbs the machine for a while falls on all of them. The larger the
    better; they are all in memory, at some 5 to 30 MB each, and an interrupted command loses the times of its last
    group. From the second group on, the file's first ten networks take turns with it and tell by how much the device's
    speed has changed."""

    seed: int = 0
    """Which architectures are drawn. The first n are the same for every num_architectures."""

    def __post_init__(self) -> None:
        for name in ("num_architectures", "image_size", "num_classes", "threads", "repeats", "group"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.rounds < 2:
            raise InputError(f"rounds must be at least 2, because the halves are compared, not {self.rounds}")
        if self.clock == "processor" and (self.threads > 1 or "cuda" in self.device):
            raise InputError(
                "the processor clock adds up the time of all threads; it measures latency only for one thread on a "
                "processor"
            )
        if self.warmup < 0:
            raise InputError(f"warmup must not be negative, but is {self.warmup}")
        modes = [name for name in ("out", "indices", "export") if getattr(self, name) is not None]
        if len(modes) != 1:
            raise InputError("give one of out (measure many), indices (measure one) and export (write ONNX files)")
        refuse_in_mode(self, MEANT_FOR, modes[0], f"with --{modes[0]}")


def of_run(told: Told, given: Mapping[str, str]) -> dict[str, Any]:
    """What a measurement takes from a run: the space, image size and classes, and to measure one architecture, that,
    how it pads, and the cost model to compare with."""
    found = told.values(["image_size", "num_classes"])
    if "out" in given or "export" in given:
        return found if "ssd" in given else found | {"ssd": told.space()}
    multiplier = told.params.get("filters_multiplier", 1.0)
    if multiplier != 1:
        raise InputError(
            f"the network of {told.directory} has {multiplier:g} times the widths of its search space, and only "
            f"architectures of a search space can be measured"
        )
    return found | told.values(["padding", "cost_model"]) | told.network(given)


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
    setup = setup_of(space, runtime, config)
    measured = _already_measured(config.out, space, setup)
    done = {sample.indices for sample in measured}
    wanted = _wanted(space, config)
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
    """What differs between the set-up of a cost model's samples and this one, in words; what the model does not say is
    not compared."""
    return tuple(
        f"{name} was {then[name]!r} and is now {value!r}"
        for name, value in now.items()
        if name in then and then[name] != value
    )


def export(config: MeasureConfig) -> Path:
    """Writes `0000.onnx`, … and a manifest to the directory `config.export`; files that are there already are kept.

    Returns:
        The manifest: the CSV that `tunas fit` reads, once its column `milliseconds` is filled in.

    Raises:
        InputError: where the space is unknown or `onnx` is missing, or the manifest in that directory is of other
        architectures.
    """
    need_packages("--export", "onnx", install="tunas-torch[devices]")
    assert config.export is not None
    space = get_space(config.ssd)
    directory = Path(config.export)
    wanted = _wanted(space, config)
    make_directory(directory)
    rows = [(f"{number:04d}.onnx", architecture) for number, architecture in enumerate(wanted)]
    manifest = _written_manifest(directory / MANIFEST, rows, config)
    with progress_bar() as progress:
        for name, architecture in progress.track(rows, description=f"exporting {space.name}"):
            path = directory / name
            if not path.is_file():
                network, inputs, names = network_and_inputs(architecture, config)
                content = onnx_bytes(network, inputs, Conversion(inputs=names, output=OUTPUT))
                write_whole(path, functools.partial(_write, content))
    return manifest


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _written_manifest(path: Path, rows: Sequence[tuple[str, Architecture]], config: MeasureConfig) -> Path:
    header = ["file", *COLUMNS]
    kept: list[list[str]] = []
    if path.is_file():
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            kept = [[row.get(name) or "" for name in header] for row in reader]
        ours = {(name, architecture.text) for name, architecture in rows}
        indices_column = header.index("indices")
        if any((row[0], row[indices_column]) not in ours for row in kept):
            raise InputError(f"{path} lists other architectures than this export would; give an empty directory")
    known = {row[0] for row in kept}
    new = []
    for name, architecture in rows:
        if name not in known:
            cells = {
                "file": name,
                "ssd": config.ssd,
                "indices": architecture.text,
                **{name: _cell(value) for name, value in conditions_of(architecture.space, config).items()},
            }
            new.append([cells.get(column, "") for column in header])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *kept, *new])
    write_text(path, text.getvalue())
    return path


def _cell(value: int | None) -> str:
    return "" if value is None else str(value)


def _wanted(space: Space, config: MeasureConfig) -> list[Architecture]:
    wanted = list(itertools.islice(draw_architectures(space, config.seed), config.num_architectures))
    if len(wanted) < config.num_architectures:
        raise InputError(
            f"{space.name} has only some {len(wanted)} different networks, not the {config.num_architectures} asked for"
        )
    return wanted


def _already_measured(path: str, space: Space, setup: dict[str, Any]) -> list[Sample]:
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


def settle_allocator() -> None:
    """Makes glibc keep freed memory, as it does in a process that has run for a while.

    At first it takes every block above 128 KiB from the system and hands it back, so that each operator pays for fresh
    pages; freeing one large block raises that limit to 32 MiB for good (mallopt(3), M_MMAP_THRESHOLD). Without this,
    small networks were timed at two to three times of what they take in a process that had trained before.
    """
    block = bytearray(LARGEST_KEPT_BLOCK)
    del block


def interleaved_times(
    runs: Sequence[Callable[[], Any]],
    warmup: int,
    rounds: int,
    repeats: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    visited: Callable[[], Any] = lambda: None,
) -> np.ndarray:
    """Milliseconds `[len(runs), rounds, repeats]`. Every turn begins with one run that is not timed, to fill the caches
    again. `visited` is called, untimed, after each one's warmup and each of its turns."""
    times = np.empty((len(runs), rounds, repeats))
    for run in runs:
        for _ in range(warmup):
            run()
        visited()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for number, run in enumerate(runs):
                run()
                for repeat in range(repeats):
                    start = clock()
                    run()
                    times[number, turn, repeat] = clock() - start
                visited()
    finally:
        if collecting:
            gc.enable()
    return times / 1e6


def summary(times: np.ndarray) -> dict[str, float]:
    """`milliseconds`, `spread` and `half_difference` of one network's times `[rounds, repeats]` (see `Sample`)."""
    medians = np.median(times, axis=1)
    low, high = np.percentile(times, [25, 75])
    return {
        "milliseconds": float(np.median(medians)),
        "spread": float(high - low),
        "half_difference": float(abs(np.median(medians[0::2]) - np.median(medians[1::2]))),
    }


def progress_bar() -> Progress:
    """A bar with the rate and the time left, on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed * 60:.0f} a minute" if task.speed else "")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
