"""What a runtime is, and the runtimes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from tunas.errors import InputError, nearest
from tunas.needs import need_packages

Arrays = tuple[np.ndarray, ...]
"""One array per input of a network."""
Run = Callable[[], Any]
"""Runs a network once on inputs that are in place, and returns when the result is there."""

FLOAT32 = "float32"
INT8 = "int8"


@dataclass(frozen=True)
class Conversion:
    """What a conversion is told beside the network and an example of its inputs.

    Args:
        calibration: inputs that the ranges of activations are taken from, for runtimes that quantise.
        dynamic_batch: whether the artifact takes any number of examples at once, not only as many as the example holds.
        inputs, output: what the artifact calls them, where its format has names.
    """

    calibration: Sequence[Arrays] = ()
    dynamic_batch: bool = False
    inputs: tuple[str, ...] = ("input",)
    output: str = "output"


@dataclass(frozen=True)
class Session:
    """An opened artifact.

    Args:
        run: `run(placed)` computes the output of inputs that are in place, and returns when it is there.
        place: puts arrays where `run` reads them, such as on the device.
        fetch: makes an array of what `run` returned.
    """

    run: Callable[[Any], Any]
    place: Callable[[Arrays], Any] = lambda arrays: arrays
    fetch: Callable[[Any], np.ndarray] = np.asarray

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        """The output for one array per input of the network."""
        return self.fetch(self.run(self.place(inputs)))

    def bound(self, *inputs: np.ndarray) -> Run:
        """What is timed: one run on inputs that are in place already."""
        run, placed = self.run, self.place(inputs)
        return lambda: run(placed)


def _no_reason() -> str | None:
    return None


@dataclass(frozen=True)
class Runtime:
    """A runtime on a device.

    What is timed is what ships: `tunas measure` and `tunas export` both call `convert` and `open`.

    Args:
        name: what `--device` and `--runtime` call it.
        convert: `convert(network, examples, conversion)` makes an artifact, whatever `open` takes, of a module in eval
            mode; `examples` is a tuple of tensors, one per input.
        open: `open(artifact, threads)` makes it ready to run; only the first output counts.
        describe: names the device, e.g. the processor.
        precision: `float32`, or `int8` where `convert` quantises and therefore needs calibration.
        files: `files(artifact)` is the artifact's files, suffix -> content, of which the first is the one to name.
            Where left out, it can be measured but not exported.
        read: `read({suffix: content})` is the artifact again. Raises whatever it likes for damaged files.
        suffix: of the artifact's first file; there is one artifact in a directory for each suffix.
        package: what runs the artifact, as package indexes call it.
        requires: modules that must be importable.
        install: what to install where one is missing.
        unavailable: why it cannot be used on this machine although it is installed; None where it can.
        interleaves: whether several networks can be open at the same time, so that they are timed in turn.
        sets_threads: whether the number of threads means anything to it.
        any_batch: whether it knows `dynamic_batch`.
    """

    name: str
    convert: Callable[[Any, Any, Conversion], Any]
    open: Callable[[Any, int], Session]
    describe: Callable[[], str]
    precision: str = FLOAT32
    files: Callable[[Any], Mapping[str, bytes]] | None = None
    read: Callable[[Mapping[str, bytes]], Any] | None = None
    suffix: str = ""
    package: str = "torch"
    requires: tuple[str, ...] = ()
    install: str = "tunas-torch[devices]"
    unavailable: Callable[[], str | None] = field(default=_no_reason)
    interleaves: bool = True
    sets_threads: bool = True
    any_batch: bool = True

    def version(self) -> str:
        """What runs the artifact and its version, such as `onnxruntime 1.23.0`."""
        try:
            return f"{self.package} {metadata.version(self.package)}"
        except metadata.PackageNotFoundError:
            return self.package


def one_file(suffix: str) -> dict[str, Any]:
    """The settings of a `Runtime` whose artifact is the content of one file."""
    return {
        "files": lambda content: {suffix: content},
        "read": lambda files: files[suffix],
        "suffix": suffix,
    }


_runtimes: dict[str, Runtime] = {}


def register_runtime(runtime: Runtime) -> None:
    """Makes a runtime known under its name; a later one of the same name replaces it."""
    _runtimes[runtime.name] = runtime


def runtime_names() -> tuple[str, ...]:
    """Every name that `get_runtime` knows now, whether it can be used here or not."""
    return tuple(_runtimes)


def get_runtime(name: str, what: str = "device", others: tuple[str, ...] = ()) -> Runtime:
    """The runtime of that name, which can be used here.

    Args:
        what: what the caller calls a runtime, for messages.
        others: names that the caller takes as well, for messages.

    Raises:
        InputError: where there is none (with the nearest names), or it is not installed, or cannot be used on this
            machine.
    """
    if name not in _runtimes:
        raise InputError(f"unknown {what} {name!r}; {nearest(name, (*_runtimes, *others), 2)}")
    runtime = _runtimes[name]
    need_packages(f"{what} {name!r}", *runtime.requires, install=runtime.install)
    if reason := runtime.unavailable():
        raise InputError(f"{what} {name!r} {reason}")
    return runtime
