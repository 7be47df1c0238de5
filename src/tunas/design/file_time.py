"""How long the exported file takes, in turn with networks that the cost model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunas.cost.measure import run_of, slowdown_of
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import references_of
from tunas.cost.timing import CLOCKS, interleaved_times, settle_allocator, summary
from tunas.errors import InputError
from tunas.export.camera import as_taken
from tunas.export.directory import read_about, read_files
from tunas.runtime import Runtime
from tunas.runtime.threads import threads_given_back


@dataclass(frozen=True)
class FileTime:
    """The time of an exported file for one image.

    Args:
        milliseconds: now.
        spread: interquartile range of its single runs, in milliseconds.
        slowdown: time that the cost model's networks take now over the time that they took when they were measured;
            1 where none was measured beside it.
        references: how many of these were.
    """

    milliseconds: float
    spread: float
    slowdown: float
    references: int

    @property
    def at_speed_of_then(self) -> float:
        """What the file would take at the speed that the device had when it was measured."""
        return self.milliseconds / self.slowdown


@threads_given_back()
def file_time(directory: Path, runtime: Runtime, config: MeasureConfig, model: Any | None) -> FileTime:
    """Times the file in an exported directory, opened from its own bytes.

    Args:
        model: a cost model that was fitted to measurements of this device, or None.

    Raises:
        InputError: where the file is damaged.
    """
    _, about = read_about(directory)
    if runtime.read is None:
        raise InputError(f"{runtime.name} reads no files")
    session = runtime.open(runtime.read(read_files(directory, about)), config.threads)
    size = about["image_size"]
    image = np.random.default_rng(config.seed).integers(0, 256, (1, 3, size, size), np.uint8)
    named = references_of(model) if model is not None and runtime.interleaves else []
    settle_allocator()
    runs = [session.bound(as_taken(_tensor(image), about["input"]))]
    runs += [run_of(architecture, runtime, config) for architecture, _ in named]
    times = interleaved_times(runs, config.warmup, config.rounds, config.repeats, CLOCKS[config.clock])
    found, *again = [summary(of_one) for of_one in times]
    slowdown = slowdown_of([now["milliseconds"] for now in again], named)
    return FileTime(found["milliseconds"], found["spread"], slowdown, len(named))


def _tensor(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(image)
