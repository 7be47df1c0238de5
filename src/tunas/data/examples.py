"""What every source of images looks like to the rest: a table of encoded images with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tunas.data.storage import Range


class BadImageError(Exception):
    """One image cannot be had; the message says why, without its name."""


class Examples(Protocol):
    """A table of encoded images, in a fixed order. Pickled into the processes that decode."""

    def __len__(self) -> int: ...

    def range(self, index: int) -> Range:
        """Where the bytes of an example lie."""
        ...

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        """Encoded image and label, out of the bytes of `range(index)`.

        Raises:
            BadImageError: where the bytes are damaged.
        """
        ...

    def name(self, index: int) -> str:
        """What to call an example in a message: its file, and where in it."""
        ...

    def file_ids(self) -> list[tuple[int, str]]:
        """(label, file name without directory and extension) of every example."""
        ...

    def fingerprint(self, indices: np.ndarray) -> str:
        """Changes where one of these examples is another one, as far as names, places and sizes tell."""
        ...


@dataclass(frozen=True)
class Source:
    """A dataset as it lies on storage, before it is divided into `train` and `valid`.

    Attributes:
        name: for people.
        layout: folder, tfds or webdataset.
        class_names: in the order of the labels.
        train: all training examples.
        test: the official validation examples, or None where there are none.
        in_order: the first examples are held out (TFDS), rather than a fixed choice.
    """

    name: str
    layout: str
    class_names: Sequence[str]
    train: Examples
    test: Examples | None
    in_order: bool = False


def stem(file_name: str) -> str:
    """The file's name without directory and without an image's extension."""
    base = file_name.replace("\\", "/").rpartition("/")[2]
    front, dot, extension = base.rpartition(".")
    return front if dot and f".{extension.lower()}" in IMAGE_EXTENSIONS else base


IMAGE_EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"))
