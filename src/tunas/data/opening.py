"""From a `DataConfig` to `Data`: looks what lies in the directory."""

from __future__ import annotations

from pathlib import Path

from tunas.data import digits
from tunas.data.config import DIGITS_SIZE, DataConfig
from tunas.data.loader import Data, PixelPart
from tunas.errors import InputError


def open_data(config: DataConfig, *, run_dir: Path | None = None, seed: int = 0) -> Data:
    """The dataset that `config` points at.

    Args:
        config: what the user said.
        run_dir: directory of the run; class names and sizes are written to `data.json` in it.
        seed: of the run. The splits do not depend on it.

    Raises:
        InputError: where there is nothing that can be read as a dataset, saying what was looked for.
    """
    if config.image_size is not None and config.image_size < 1:
        raise InputError(f"image_size is a number of pixels, at least 1, not {config.image_size}")
    if config.data_format == "digits" or (config.data_format == "auto" and config.dataset_dir is None):
        return _digits(config)
    raise InputError("only the embedded digits can be read yet")


def _digits(config: DataConfig) -> Data:
    size = config.image_size or DIGITS_SIZE
    pixels, labels = digits.digit_images(size)
    test = len(labels) - digits.TEST_SIZE
    valid = test - digits.VALID_SIZE

    def part(start: int, stop: int | None) -> PixelPart:
        return PixelPart(pixels[start:stop], labels[start:stop])

    parts = {"train": part(0, valid), "valid": part(valid, test), "full_train": part(0, test), "test": part(test, None)}
    return Data("digits", tuple(str(digit) for digit in range(10)), size, parts)
