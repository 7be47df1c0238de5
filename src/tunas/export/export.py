"""The export: convert, quantise, check, time and write, for one runtime after the other."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tunas
from tunas.cost.catalog import conditions_note, has_pixel1, load_cost_model
from tunas.cost.samples import LOWER_DECILE
from tunas.cost.timing import interleaved_times, progress_bar, settle_allocator, summary
from tunas.errors import InputError
from tunas.export.check import Check, Reference, checked
from tunas.export.config import ExportConfig
from tunas.export.directory import (
    ABOUT,
    FAILED,
    MODEL,
    about_bytes,
    check_free,
    sha256,
    write_directory,
)
from tunas.export.source import Source, opened_source
from tunas.export.timm_model import TIMM, timm_files
from tunas.files import unless_refused
from tunas.nn.profile import count_macs, count_parameters
from tunas.run.session import warn
from tunas.runtime import Conversion, Runtime, Session, get_runtime
from tunas.runtime.registry import INT8, Arrays
from tunas.runtime.threads import threads_given_back
from tunas.space import Architecture, Space
from tunas.space.layers import Tower, scale_filters
from tunas.task.task import Task

WARMUP, ROUNDS, REPEATS = 5, 10, 5
"""How a file is timed: as `tunas measure` does by default."""
LATENCY_RUNS = WARMUP + ROUNDS * (REPEATS + 1)
"""Runs of a file while it is timed, those that do not count included."""
OUTPUT = "logits"


@dataclass(frozen=True)
class Exported:
    """An artifact that was written.

    Args:
        runtime: its name.
        directory: where it lies, with everything beside it.
        document: what its `model.json` says.
        check: what it computed.
        unit, quality_name: what its examples and their quality are called.
        size: of its files, in bytes.
        latency: `milliseconds`, `spread` and `half_difference` of one image on this machine.
        predicted: cost by the cost model, and its unit; None without one.
        complaint: why it did not pass; None where it did.
    """

    runtime: str
    directory: Path
    document: dict[str, Any]
    check: Check
    unit: str
    quality_name: str
    size: int
    latency: dict[str, float]
    predicted: tuple[float, str] | None
    complaint: str | None


@threads_given_back()
def export(config: ExportConfig, task: Task | None = None) -> list[Exported]:
    """Writes the network that `config` names for each of its runtimes.

    Args:
        task: what the network learned, where that is a task of one's own and `config` does not name it.

    Returns:
        One entry per runtime, in their order. Those that did not pass their check have a `complaint`, and lie in a
        directory whose name says so.

    Raises:
        InputError: where a runtime is missing, there is nothing finished to export, too few images to calibrate on, or
            nowhere to write to. Nothing has been written then.
    """
    runtimes = [exportable(name, config) for name in config.runtimes]
    out = Path(config.out).expanduser()
    check_free(out, config.runtimes)
    with unless_refused(out):
        return _exported(out, runtimes, config, task)


def _exported(out: Path, runtimes: list[Runtime], config: ExportConfig, task: Task | None) -> list[Exported]:
    source = opened_source(config, task)
    if TIMM in runtimes:
        timm_files(source.network)  # raises where timm has no words for it, before the others take their time
    predicted = _predicted(source, config)
    quantises = any(runtime.precision == INT8 for runtime in runtimes)
    calibration = source.inputs.calibration(config.calibration_images, config.seed) if quantises else []
    against = source.inputs.reference(source.network, config.images)
    settle_allocator()
    with progress_bar() as progress:
        steps = len(runtimes) * (len(against) + 1)
        advance = functools.partial(progress.advance, progress.add_task("converting and checking", total=steps))
        made = [_made(runtime, source, calibration, against, config, advance) for runtime in runtimes]
    latencies = _latencies([session for _, session, _ in made], runtimes, source, config)
    return [
        _written(out, runtime, files, check, latency, predicted, source, config)
        for runtime, (files, _, check), latency in zip(runtimes, made, latencies, strict=True)
    ]


def exportable(name: str, config: ExportConfig) -> Runtime:
    """The runtime of that name, which can make files of what `config` asks for.

    Raises:
        InputError: where it is not there or cannot.
    """
    runtime = TIMM if name == "timm" else get_runtime(name, "runtime", ("timm",))
    if runtime.files is None or runtime.read is None:
        raise InputError(f"{name} can be measured but not exported: it says nothing of files")
    if config.dynamic_batch and not runtime.any_batch:
        raise InputError(f"{name} takes one image at a time; leave out --dynamic_batch, or export it by itself")
    return runtime


def _made(
    runtime: Runtime,
    source: Source,
    calibration: list[Arrays],
    against: Reference,
    config: ExportConfig,
    advance: Callable[[int], Any],
) -> tuple[Mapping[str, bytes], Session, Check]:
    """(files, what opens them, what they compute): opened from the very bytes that are written."""
    assert runtime.files is not None and runtime.read is not None
    taken = source.inputs.taken(runtime)
    network = source.inputs.wrapped(source.network, runtime)
    examples = tuple(map(torch.from_numpy, taken(tuple(tensor[:1] for tensor in against.inputs))))
    quantising = calibration if runtime.precision == INT8 else ()
    conversion = Conversion(quantising, config.dynamic_batch, source.inputs.names, OUTPUT)
    files = runtime.files(runtime.convert(network, examples, conversion))
    session = runtime.open(runtime.read(files), config.threads)
    advance(1)
    return files, session, checked(session, against, taken, config.dynamic_batch, advance)


def _latencies(
    sessions: list[Session], runtimes: list[Runtime], source: Source, config: ExportConfig
) -> list[dict[str, float]]:
    """How long each artifact takes for one example, in turns with the others."""
    probe = source.inputs.probe(config.seed)
    runs = [
        session.bound(*source.inputs.taken(runtime)(probe)) for session, runtime in zip(sessions, runtimes, strict=True)
    ]
    if config.threads == 1:
        torch.set_num_threads(1)
    return [summary(times) for times in interleaved_times(runs, WARMUP, ROUNDS, REPEATS)]


def _predicted(source: Source, config: ExportConfig) -> tuple[float, str] | None:
    """The cost that is predicted of the network, and its unit; None without a cost model of its widths."""
    name = config.cost_model or source.cost_model or ("pixel1" if has_pixel1(source.architecture.space) else None)
    if name is None or source.filters_multiplier != 1:
        return None
    model = load_cost_model(name, source.architecture.space, **source.inputs.cost_arguments)
    if note := conditions_note(model, source.inputs.cost_arguments.get("image_size")):
        warn(note)
    return model.estimate(source.architecture), model.unit


def _written(
    out: Path,
    runtime: Runtime,
    files: Mapping[str, bytes],
    check: Check,
    latency: dict[str, float],
    predicted: tuple[float, str] | None,
    source: Source,
    config: ExportConfig,
) -> Exported:
    """Writes the directory of an artifact, under a name that says so where it did not pass."""
    unit, quality_name = source.inputs.unit, source.inputs.quality_name
    complaint = check.complaint(runtime.precision, config.max_accuracy_drop, unit, quality_name)
    named = {_file_name(suffix): content for suffix, content in files.items()}
    document = {
        **_network_facts(runtime, named, source, config),
        "check": {
            "passed": complaint is None,
            "complaint": complaint,
            "split": source.inputs.eval_split,
            "unit": unit,
            "quality": quality_name,
            unit: check.examples,
            quality_name: check.quality,
            f"torch_{quality_name}": check.torch_quality,
            "agreement": check.agreement,
            "largest_logit_difference": check.difference,
        },
        "latency": {**latency, **_latency_facts(runtime, config)},
        "predicted_cost": None if predicted is None else {"cost": predicted[0], "unit": predicted[1]},
        "versions": {"tunas": tunas.__version__, "torch": torch.__version__, "runtime": runtime.version()},
    }
    beside = {**source.inputs.beside(runtime), ABOUT: about_bytes(document)}
    directory = out / (runtime.name + (FAILED if complaint else ""))
    write_directory(directory, {**named, **beside})
    if complaint is None:
        shutil.rmtree(out / (runtime.name + FAILED), ignore_errors=True)  # of an earlier export
    size = sum(map(len, files.values()))
    return Exported(runtime.name, directory, document, check, unit, quality_name, size, latency, predicted, complaint)


def _network_facts(
    runtime: Runtime, named: Mapping[str, bytes], source: Source, config: ExportConfig
) -> dict[str, Any]:
    """What the files are, what they take, and which network they hold."""
    return {
        "runtime": runtime.name,
        "precision": runtime.precision,
        "file": next(iter(named)),
        "files": {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in named.items()},
        "dynamic_batch": config.dynamic_batch,
        **source.inputs.facts(runtime),
        "ssd": source.architecture.space.name,
        "indices": source.architecture.text,
        "filters_multiplier": source.filters_multiplier,
        **_sizes(source),
        "trained": source.facts,
        "calibration": _calibration_facts(source, config) if runtime.precision == INT8 else None,
    }


def _latency_facts(runtime: Runtime, config: ExportConfig) -> dict[str, Any]:
    """How the file was timed, and on what."""
    return {
        "device": runtime.describe(),
        "threads": config.threads,
        "batch": 1,
        "rounds": ROUNDS,
        "repeats": REPEATS,
        "clock": "wall",
        "statistic": LOWER_DECILE,
    }


def _file_name(suffix: str) -> str:
    """`model.onnx`; a whole name, such as timm's config.json, stays."""
    return MODEL + suffix if suffix.startswith(".") else suffix


def _sizes(source: Source) -> dict[str, int]:
    """Parameters of the network, and of a tower its multiply-accumulates."""
    if not isinstance(source.architecture.structure, Tower):
        return {"parameters": sum(parameter.numel() for parameter in source.network.parameters())}
    architecture, told = source.architecture, source.inputs.cost_arguments
    if source.filters_multiplier != 1:
        tower = scale_filters(architecture.tower, source.filters_multiplier)
        architecture = Architecture(Space(architecture.space.name, tower))
    return {
        "parameters": count_parameters(architecture, told["num_classes"]),
        "macs": count_macs(architecture, told["num_classes"], told["image_size"]),
    }


def _calibration_facts(source: Source, config: ExportConfig) -> dict[str, Any]:
    """What the ranges of INT8 activations were taken from."""
    return {
        source.inputs.unit: config.calibration_images,
        "split": source.inputs.train_split,
        "seed": config.seed,
        "view": "evaluation",
    }
