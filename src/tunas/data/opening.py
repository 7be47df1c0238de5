"""From a `DataConfig` to `Data`: looks what lies in the directory."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from tunas.data import digits
from tunas.data.config import DIGITS_SIZE, IMAGENET_SIZE, DataConfig
from tunas.data.decoding import Decoder, default_workers
from tunas.data.examples import Examples, Source
from tunas.data.folder import looks_like_folder, open_folder
from tunas.data.loader import BadImages, Data, FilePart, PixelPart
from tunas.data.splits import held_out
from tunas.data.storage import is_remote, write_whole
from tunas.data.tfds import INFO, looks_like_tfds, open_tfds
from tunas.data.webdataset import looks_like_webdataset, open_webdataset
from tunas.errors import InputError

DATA_FILE = "data.json"
CACHE_NAME = "cache"
"""Directory of a run in which its caches lie where no other one is given."""


def open_data(config: DataConfig, *, run_dir: Path | None = None, describe: bool = True) -> Data:
    """The dataset that `config` points at.

    Args:
        config: what the user said.
        run_dir: directory of the run; class names and sizes are written to `data.json` in it.
        describe: False leaves `data.json` to the caller, for whom `write_description` writes it.

    Raises:
        InputError: where there is nothing that can be read as a dataset, saying what was looked for.
    """
    config = _expanded(config)
    _check(config)
    if config.data_format == "digits" or (config.data_format == "auto" and config.dataset_dir is None):
        data = _digits(config)
    else:
        cache_dir = (
            Path(config.cache_dir) if config.cache_dir else run_dir / CACHE_NAME if run_dir else _scratch_directory()
        )
        data = _from_source(config, _source(config, cache_dir), cache_dir)
    if run_dir is not None and describe:
        write_description(data, config, Path(run_dir))
    return data


def _expanded(config: DataConfig) -> DataConfig:
    """With ~ at the beginning of a path replaced, which a shell leaves alone in --flag=~/path."""
    paths = {name: getattr(config, name) for name in ("dataset_dir", "valid_filenames", "cache_dir")}
    return dataclasses.replace(
        config, **{name: os.path.expanduser(path) for name, path in paths.items() if path is not None}
    )


def _check(config: DataConfig) -> None:
    if config.image_size is not None and config.image_size < 1:
        raise InputError(f"image_size is a number of pixels, at least 1, not {config.image_size}")
    if config.num_workers is not None and config.num_workers < 0:
        raise InputError(f"num_workers is a number of processes, at least 0, not {config.num_workers}")
    size = config.image_size or IMAGENET_SIZE
    if config.train_cache_size is not None and config.train_cache_size < size:
        raise InputError(f"train_cache_size must be at least the image size, {size}, not {config.train_cache_size}")
    if config.data_format == "digits" and config.dataset_dir is not None:
        raise InputError("the embedded digits lie in no directory; leave out dataset_dir or give another data_format")
    if config.dataset_dir is None and config.data_format not in ("auto", "digits"):
        raise InputError(f"data_format {config.data_format} needs a dataset_dir")
    if config.dataset_dir is None and config.valid_filenames is not None:
        raise InputError("the embedded digits have no file names; valid_filenames needs a dataset_dir")


def _digits(config: DataConfig) -> Data:
    size = config.image_size or DIGITS_SIZE
    pixels, labels = digits.digit_images(size)
    test = len(labels) - digits.TEST_SIZE
    valid = test - digits.VALID_SIZE

    def part(start: int, stop: int | None) -> PixelPart:
        return PixelPart(pixels[start:stop], labels[start:stop])

    parts = {"train": part(0, valid), "valid": part(valid, test), "full_train": part(0, test), "test": part(test, None)}
    return Data("digits", tuple(str(digit) for digit in range(10)), size, parts)


def _source(config: DataConfig, cache_dir: Path) -> Source:
    directory = config.dataset_dir
    assert directory is not None
    layout = config.data_format if config.data_format != "auto" else _layout(directory)
    if layout == "folder":
        if is_remote(directory):
            raise InputError(
                f"an image folder must lie on this machine, unlike {directory}; at a URL use TFDS or WebDataset files"
            )
        return open_folder(directory)
    return open_tfds(directory, cache_dir) if layout == "tfds" else open_webdataset(directory, cache_dir)


def _layout(directory: str) -> str:
    """folder, tfds or webdataset, by what there is."""
    if "{" not in directory and "::" not in directory and not is_remote(directory) and not directory.endswith(".tar"):
        if not Path(directory).is_dir():
            raise InputError(f"dataset_dir {directory} is not a directory")
        if looks_like_folder(Path(directory)):
            return "folder"
    elif looks_like_webdataset(directory):
        return "webdataset"
    if looks_like_tfds(directory):
        return "tfds"
    if looks_like_webdataset(directory):
        return "webdataset"
    raise InputError(
        f"{directory} holds no dataset: neither train/<class>/ (an image folder), nor {INFO} (TFDS), nor *.tar "
        f"(WebDataset)"
    )


def _from_source(config: DataConfig, source: Source, cache_dir: Path) -> Data:
    size = config.image_size or IMAGENET_SIZE
    workers = default_workers() if config.num_workers is None else config.num_workers
    bad_images = BadImages()
    out = held_out(source, config.valid_filenames)

    def part(split: str, examples: Examples, indices: np.ndarray, *, kept: bool) -> FilePart:
        decoder = Decoder(examples, indices, size, config.on_bad_image)
        return FilePart(split, decoder, workers, bad_images, cache_dir if kept else None, source.name.replace("/", "-"))

    whole = part("full_train", source.train, np.arange(len(source.train)), kept=False)
    parts = {
        "train": part("train", source.train, np.flatnonzero(~out), kept=False),
        "valid": part("valid", source.train, np.flatnonzero(out), kept=True),
        "full_train": whole,
    }
    if source.test is not None and len(source.test):
        parts["test"] = part("test", source.test, np.arange(len(source.test)), kept=True)
    if config.train_cache_size is not None:
        cache = whole.kept_whole(config.train_cache_size, cache_dir)
        for split in ("train", "full_train", "valid"):
            parts[split].decoder.train_cache = cache
    return Data(source.name, tuple(source.class_names), size, parts, bad_images)


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tunas-cache-")


def _scratch_directory() -> Path:
    """Goes with the process."""
    return Path(_scratch().name)


def write_description(data: Data, config: DataConfig, run_dir: Path) -> None:
    """Class names and sizes, as `data.json` in the directory of a run."""
    description = {
        "name": data.name,
        "dataset_dir": config.dataset_dir,
        "image_size": data.image_size,
        "sizes": {split: data.size(split) for split in data.splits},
        "num_classes": data.num_classes,
        "class_names": data.class_names,
    }
    text = json.dumps(description, indent=1, ensure_ascii=False)
    write_whole(run_dir / DATA_FILE, lambda file: file.write(text.encode(errors="surrogateescape")))
