"""The export: convert, quantise, check, time and write, for one runtime after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tunas
from tunas.cost.catalog import has_pixel1, load_cost_model
from tunas.cost.measure import interleaved_times, progress_bar, settle_allocator, summary
from tunas.data.images import EVALUATION_CROP, MEAN, STD
from tunas.errors import InputError
from tunas.export.camera import Camera, as_taken
from tunas.export.check import Check, Reference, checked, reference
from tunas.export.config import ExportConfig
from tunas.export.directory import (
    ABOUT,
    FAILED,
    LABELS,
    MODEL,
    PROGRAM,
    about_bytes,
    labels_bytes,
    sha256,
    writable,
    write_directory,
)
from tunas.export.source import Source, opened_source
from tunas.export.standalone import predict_program
from tunas.export.timm_model import TIMM
from tunas.nn.profile import count_macs, count_parameters
from tunas.runtime import Conversion, Runtime, Session, get_runtime
from tunas.runtime.registry import INT8, Arrays
from tunas.runtime.threads import threads_given_back
from tunas.space import Architecture, Space
from tunas.space.layers import Tower, scale_filters

WARMUP, ROUNDS, REPEATS = 5, 10, 5
"""Of the timing, as `tunas measure` has them by default."""
LATENCY_RUNS = WARMUP + ROUNDS * (REPEATS + 1)
"""Of one image: with those that are not timed."""
OUTPUT = "logits"
WHOLE = ("digits",)
"""Datasets whose images are shown whole, not their central part."""


@dataclass(frozen=True)
class Exported:
    """An artifact that was written.

    Args:
        runtime: its name.
        directory: where it lies, with everything beside it.
        document: what its `model.json` says.
        check: what it computed.
        size: of its files, in bytes.
        latency: `milliseconds`, `spread` and `half_difference` of one image on this machine.
        predicted: cost by the cost model, and its unit; None without one.
        complaint: why it did not pass; None where it did.
    """

    runtime: str
    directory: Path
    document: dict[str, Any]
    check: Check
    size: int
    latency: dict[str, float]
    predicted: tuple[float, str] | None
    complaint: str | None


@threads_given_back()
def export(config: ExportConfig) -> list[Exported]:
    """Writes the network that `config` names for each of its runtimes.

    Returns:
        One entry per runtime, in their order. Those that did not pass their check have a `complaint`, and lie in a
        directory whose name says so.

    Raises:
        InputError: where a runtime is missing, there is nothing finished to export, too few images to calibrate on, or
            nowhere to write to. Nothing has been written then.
    """
    runtimes = [exportable(name, config) for name in config.runtimes]
    out = writable(Path(config.out).expanduser(), config.runtimes)
    source = opened_source(config)
    predicted = _predicted(source, config)
    calibration = _calibration(source, config) if any(runtime.precision == INT8 for runtime in runtimes) else []
    against = reference(source, config.images)
    settle_allocator()
    with progress_bar() as progress:
        steps = len(runtimes) * (len(against.labels) + 1)
        task = progress.add_task("converting and checking", total=steps)
        advance = functools.partial(progress.advance, task)
        made = [_made(runtime, source, calibration, against, config, advance) for runtime in runtimes]
    latencies = _latencies([session for _, session, _ in made], runtimes, source.data.image_size, config)
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
    network = source.network if runtime.name == "timm" else Camera(source.network, config.input).eval()
    example = torch.from_numpy(as_taken(against.images[:1], _input_of(runtime, config)))
    conversion = Conversion(calibration if runtime.precision == INT8 else (), config.dynamic_batch, ("image",), OUTPUT)
    files = runtime.files(runtime.convert(network, (example,), conversion))
    session = runtime.open(runtime.read(files), config.threads)
    advance(1)
    return files, session, checked(session, against, _input_of(runtime, config), config.dynamic_batch, advance)


def _input_of(runtime: Runtime, config: ExportConfig) -> Any:
    return "normalized" if runtime.name == "timm" else config.input


def _calibration(source: Source, config: ExportConfig) -> list[Arrays]:
    count, there = config.calibration_images, source.data.size(source.train_split)
    if count > there:
        raise InputError(
            f"calibration takes {count} training images and there are {there}; say --calibration_images={there}"
        )
    images, _ = next(source.data.stream(source.train_split, count, seed=config.seed, augment=False))
    return [(as_taken(image[None], config.input),) for image in images]


def _latencies(
    sessions: list[Session], runtimes: list[Runtime], size: int, config: ExportConfig
) -> list[dict[str, float]]:
    """Of one image, the artifacts in turns."""
    pixels = torch.from_numpy(np.random.default_rng(config.seed).integers(0, 256, (1, 3, size, size), np.uint8))
    runs = [
        session.bound(as_taken(pixels, _input_of(runtime, config)))
        for session, runtime in zip(sessions, runtimes, strict=True)
    ]
    if config.threads == 1:
        torch.set_num_threads(1)
    return [summary(times) for times in interleaved_times(runs, WARMUP, ROUNDS, REPEATS)]


def _predicted(source: Source, config: ExportConfig) -> tuple[float, str] | None:
    name = config.cost_model or source.cost_model or ("pixel1" if has_pixel1(source.architecture.space) else None)
    if name is None or source.filters_multiplier != 1:
        return None
    data = source.data
    space = source.architecture.space
    model = load_cost_model(name, space, image_size=data.image_size, num_classes=data.num_classes)
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
    complaint = check.complaint(runtime.precision, config.max_accuracy_drop)
    named = {_file_name(suffix): content for suffix, content in files.items()}
    document = {
        "runtime": runtime.name,
        "precision": runtime.precision,
        "file": next(iter(named)),
        "files": {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in named.items()},
        "input": _input_of(runtime, config),
        "dynamic_batch": config.dynamic_batch,
        "image_size": source.data.image_size,
        "crop": 1.0 if source.data.name in WHOLE else EVALUATION_CROP,
        "mean": MEAN,
        "std": STD,
        "classes": source.data.num_classes,
        "class_names": source.data.class_names,
        "ssd": source.architecture.space.name,
        "indices": source.architecture.text,
        "filters_multiplier": source.filters_multiplier,
        **_sizes(source),
        "trained": source.facts,
        "calibration": _calibration_facts(source, config) if runtime.precision == INT8 else None,
        "check": {
            "passed": complaint is None,
            "complaint": complaint,
            "split": source.eval_split,
            "images": check.images,
            "accuracy": check.accuracy,
            "torch_accuracy": check.torch_accuracy,
            "agreement": check.agreement,
            "largest_logit_difference": check.difference,
        },
        "latency": {
            **latency,
            "device": runtime.describe(),
            "threads": config.threads,
            "batch": 1,
            "rounds": ROUNDS,
            "repeats": REPEATS,
            "clock": "wall",
        },
        "predicted_cost": None if predicted is None else {"cost": predicted[0], "unit": predicted[1]},
        "versions": {"tunas": tunas.__version__, "torch": torch.__version__, "runtime": runtime.version()},
    }
    program = predict_program(runtime.package, config.input)
    beside = {LABELS: labels_bytes(source.data.class_names), ABOUT: about_bytes(document)}
    if program is not None:
        beside[PROGRAM] = program.encode()
    directory = out / (runtime.name + (FAILED if complaint else ""))
    write_directory(directory, {**named, **beside})
    size = sum(map(len, files.values()))
    return Exported(runtime.name, directory, document, check, size, latency, predicted, complaint)


def _file_name(suffix: str) -> str:
    """`model.onnx`; a whole name, such as timm's config.json, stays."""
    return MODEL + suffix if suffix.startswith(".") else suffix


def _sizes(source: Source) -> dict[str, int]:
    if not isinstance(source.architecture.structure, Tower):
        return {"parameters": sum(parameter.numel() for parameter in source.network.parameters())}
    architecture, data = source.architecture, source.data
    if source.filters_multiplier != 1:
        tower = scale_filters(architecture.tower, source.filters_multiplier)
        architecture = Architecture(Space(architecture.space.name, tower))
    return {
        "parameters": count_parameters(architecture, data.num_classes),
        "macs": count_macs(architecture, data.num_classes, data.image_size),
    }


def _calibration_facts(source: Source, config: ExportConfig) -> dict[str, Any]:
    return {
        "images": config.calibration_images,
        "split": source.train_split,
        "seed": config.seed,
        "view": "evaluation",
    }
