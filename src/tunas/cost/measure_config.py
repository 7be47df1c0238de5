"""What a measurement is told. Imports neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunas.errors import InputError
from tunas.flags import refuse_in_mode

if TYPE_CHECKING:
    from tunas.run.told import Told

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
    """How often each network's turn comes. A network counts with the lower decile of its turns, because what else runs
    on the machine only ever adds to a time; a turn with the median of its runs."""

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
