"""What a prediction is told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from tunas.errors import InputError


@dataclass(frozen=True)
class PredictConfig:
    """The class of images and its probability, by a training or by an exported model."""

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders of them, or - for standard input: an image, or names of images, one a line."""

    model: str = ""
    """Directory of a training, or of an exported model (or its file)."""

    which: Literal["auto", "best", "last", "ema"] = "auto"
    """Weights of the training: the best on held-out images, the last ones, or their moving average; auto: the average
    if one was kept, otherwise the last."""

    top: int = 1
    """How many classes to name for each image, the likeliest first."""

    output_format: Literal["table", "csv", "json"] = "table"
    """table, CSV with a header, or JSON."""

    threads: int = 1
    """Processor threads."""

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("--model names the directory of a training or of an exported model")
        if not self.images:
            raise InputError("name image files, folders of them, or - for standard input")
        for name in ("top", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
