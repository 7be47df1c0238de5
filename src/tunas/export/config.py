"""What an export is told. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunas.data.config import DataConfig
from tunas.errors import InputError
from tunas.task.config import TaskConfig

if TYPE_CHECKING:
    from tunas.run.told import Told

CALIBRATION_IMAGES = 512
"""Training images that the ranges of INT8 activations are taken from (docs/algorithm.md#int8)."""
MAX_ACCURACY_DROP = 0.01


@dataclass(frozen=True, kw_only=True)
class ExportConfig(TaskConfig):
    """Turn a trained network into the files that a device runs, and check them in the runtime that will run them."""

    out: str
    """Directory to write to: a directory in it for each runtime, with the model, labels.txt, model.json and
    predict.py."""

    checkpoint_dir: str | None = None
    """Directory of a finished training. Its images are found where the training found them, unless --dataset_dir says
    otherwise."""

    runtime: tuple[str, ...] = ()
    """What shall run it: onnxruntime, onnxruntime-int8, openvino, openvino-int8, executorch, executorch-int8,
    torch-cpu, or timm for a directory that timm opens. May be given several times. onnxruntime where left out."""

    which: Literal["best", "last", "ema"] | None = None
    """Weights of the training: the best on held-out images, the last ones, or their moving average. Where left out, the
    average if one was kept, otherwise the last."""

    checkpoint: str | None = None
    """In place of a training: a file of weights, ours or timm's, of the architecture --ssd --indices."""

    ssd: str | None = None
    """With --checkpoint: a reference architecture, or the search space that --indices belong to."""

    indices: str = ""
    """With --checkpoint: colon-separated indices of the architecture."""

    timm_model: str | None = None
    """With --checkpoint: name of the timm model that it comes from; decides gate, padding and batch norm."""

    padding: Literal["symmetric", "same"] = "symmetric"
    """With --checkpoint: how the convolutions of its training pad."""

    allow_unfinished: bool = False
    """Export what a training has come to that is not finished."""

    input: Literal["bytes", "unit", "normalized"] | None = None
    """What files take that are given images. bytes, or left out: what a camera gives, uint8 [1, S, S, 3], normalised
    inside. unit: float32 [1, 3, S, S] from 0 to 1, normalised inside. normalized: what the network itself takes. Of a
    task of your own they take what the task prepares."""

    dynamic_batch: bool = False
    """Files that take any number of images at once, instead of one."""

    calibration_images: int = CALIBRATION_IMAGES
    """INT8: training images, seen as in evaluation, that the ranges of activations are taken from."""

    images: int | None = None
    """Images of the split that the training was evaluated on that the files are checked on. All where left out."""

    max_accuracy_drop: float = MAX_ACCURACY_DROP
    """How much less accurate than in PyTorch a file may be, from 0 to 1. Below, it is kept under a name that says so,
    and the exit code is 1."""

    cost_model: str | None = None
    """Cost to predict next to the measured time: pixel1, params, macs, …, or a file that `tunas fit` wrote. That of the
    training where left out."""

    threads: int = 1
    """Processor threads while the time is measured."""

    seed: int = 0
    """Which images the ranges are taken from."""

    def __post_init__(self) -> None:
        for name in ("calibration_images", "images", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.max_accuracy_drop <= 1:
            raise InputError(f"max_accuracy_drop must be from 0 to 1, not {self.max_accuracy_drop}")
        if (self.checkpoint_dir is None) == (self.checkpoint is None):
            raise InputError("give one of --checkpoint_dir RUN (a training) and --checkpoint FILE (weights)")
        if self.checkpoint is not None and self.ssd is None:
            raise InputError("--checkpoint needs --ssd, and --indices where that is a search space")
        if self.checkpoint_dir is not None and (self.ssd or self.indices or self.timm_model or self.padding == "same"):
            raise InputError(
                "--ssd, --indices, --timm_model and --padding say what a --checkpoint is; a training knows it itself"
            )

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The named ones, each once; `a,b` counts as two."""
        names = (name.strip() for text in self.runtime for name in text.split(","))
        return tuple(dict.fromkeys(name for name in names if name)) or ("onnxruntime",)


def of_run(told: Told, given: Mapping[str, str]) -> dict[str, Any]:
    """What an export takes from a run: a training itself, or with --checkpoint what these weights are of, and the
    images."""
    if "checkpoint_dir" in given:
        raise InputError("--from says what a --checkpoint is; a training knows it itself: leave out --from")
    if "checkpoint" not in given:
        return {"checkpoint_dir": str(told.directory)}
    names = [field.name for field in dataclasses.fields(DataConfig)]
    return told.values([*names, "cost_model", "padding"]) | told.network(given)
