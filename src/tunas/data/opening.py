"""From a `DataConfig` to `Data`: looks what lies in the directory."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from tunas.data import digits
from tunas.data.config import DIGITS_SIZE, IMAGENET_SIZE, DataConfig
from tunas.data.csv_table import EXTENSIONS, metadata_files, open_metadata, open_table
from tunas.data.decoder import Decoder
from tunas.data.decoding import default_workers
from tunas.data.examples import Examples, JoinedExamples, Source, digest
from tunas.data.folder import counted, extensions_in, has_class_folders, has_split_folders, open_folder
from tunas.data.formats import IMAGE_EXTENSIONS
from tunas.data.huggingface import looks_like_saved, open_parquet, open_saved, parquet_files
from tunas.data.identity import Identity, has_same_examples
from tunas.data.loader import Data
from tunas.data.parts import BadImages, FilePart, PixelPart
from tunas.data.shared import scratch_directory
from tunas.data.splits import HeldOut, choose_held_out
from tunas.data.storage import is_remote, write_whole
from tunas.data.tfds import looks_like_tfds, open_tfds
from tunas.data.webdataset import SEPARATOR, looks_like_webdataset, open_webdataset
from tunas.errors import InputError
from tunas.flags import refuse

log = logging.getLogger("tunas.data")
DATA_FILE = "data.json"
CACHE_NAME = "cache"
"""Directory of a run in which its caches lie where no other one is given."""


def open_data(
    config: DataConfig, *, run_dir: Path | None = None, describe: bool = True, run: Identity | None = None
) -> Data:
    """The dataset that `config` points at.

    Args:
        config: what the user said.
        run_dir: directory of the run; class names and sizes are written to `data.json` in it.
        describe: False leaves `data.json` to the caller, for whom `write_description` writes it.
        run: where weights are only evaluated, what they were trained on as far as it is known. Other images that name
            no split are then all evaluated on, as `test`, and so are those of a directory without training images.

    Raises:
        InputError: where there is nothing that can be read as a dataset, saying what was looked for.
    """
    config = _expanded(config)
    _check(config)
    if config.data_format == "digits" or (config.data_format == "auto" and config.dataset_dir is None):
        data = _digits(config)
    else:
        of_run = run_dir / CACHE_NAME if run_dir else scratch_directory()
        cache_dir = Path(config.cache_dir) if config.cache_dir else of_run
        data = _from_source(config, _source(config, cache_dir, evaluates=run is not None), cache_dir, run)
    if run_dir is not None and describe:
        write_description(data, config, Path(run_dir))
    return data


def _expanded(config: DataConfig) -> DataConfig:
    """The configuration with each ~ at the beginning of a path replaced: a shell leaves it alone in --flag=~/path."""
    paths = {name: getattr(config, name) for name in ("dataset_dir", "valid_filenames", "cache_dir")}
    return dataclasses.replace(
        config, **{name: os.path.expanduser(path) for name, path in paths.items() if path is not None}
    )


def _check(config: DataConfig) -> None:
    """Refuses values that cannot be or do not fit each other, wherever the images lie."""
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
    if config.dataset_dir is None and (config.valid_fraction is not None or config.test_fraction is not None):
        raise InputError(
            "the splits of the embedded digits are fixed; valid_fraction and test_fraction need a dataset_dir"
        )
    if config.dataset_dir is None:
        refuse(
            config,
            ["train_cache_size", "on_bad_image", "allow_empty_classes"],
            "to the embedded digits, which are no files",
        )
    if config.valid_filenames is not None and config.valid_fraction is not None:
        raise InputError("valid_filenames names what is held out for validation; leave out valid_fraction")


def _digits(config: DataConfig) -> Data:
    """The embedded digits with their fixed splits."""
    size = config.image_size or DIGITS_SIZE
    pixels, labels = digits.digit_images(size)
    test = len(labels) - digits.TEST_SIZE
    valid = test - digits.VALID_SIZE

    def part(start: int, stop: int | None) -> PixelPart:
        return PixelPart(pixels[start:stop], labels[start:stop])

    parts = {"train": part(0, valid), "valid": part(valid, test), "full_train": part(0, test), "test": part(test, None)}
    names = tuple(str(digit) for digit in range(10))
    return Data("digits", names, size, parts, identity=Identity(names, digest("digits"), test))


def _source(config: DataConfig, cache_dir: Path, *, evaluates: bool) -> Source:
    """The dataset on storage; `evaluates` says whether one without training images will do."""
    directory = config.dataset_dir
    assert directory is not None
    layout = config.data_format if config.data_format != "auto" else _layout(directory)
    if layout in ("folder", "csv") and is_remote(directory):
        raise InputError(
            f"image files must lie on this machine, unlike {directory}; at a URL use TFDS, parquet or WebDataset files"
        )
    if layout != "folder":
        refuse(config, ["allow_empty_classes"], f"to a dataset in the layout {layout}, which has no class directories")
    if layout == "folder":
        return open_folder(directory, allow_empty_classes=config.allow_empty_classes)
    if layout == "csv":
        return open_metadata(Path(directory)) if os.path.isdir(directory) else open_table(Path(directory))
    if layout == "huggingface":
        return open_saved(directory) if looks_like_saved(directory) else open_parquet(directory)
    if layout == "tfds":
        return open_tfds(directory, cache_dir, evaluates=evaluates)
    return open_webdataset(directory, cache_dir)


def _layout(directory: str) -> str:
    """The `data_format`, by what there is. What exists is taken as it is before it is read as a pattern.

    Raises:
        InputError: where it is none, saying what was seen.
    """
    if not is_remote(directory) and not os.path.exists(directory):
        if (
            any(sign in directory for sign in "{*?[")
            or SEPARATOR in directory
            or directory.endswith((".tar", ".parquet"))
        ):
            return "huggingface" if ".parquet" in directory else "webdataset"
        raise InputError(f"dataset_dir {directory} is not a directory")
    if os.path.isfile(directory):
        if directory.lower().endswith(EXTENSIONS):
            return "csv"
        if directory.endswith(".parquet"):
            return "huggingface"
        if looks_like_webdataset(directory):
            return "webdataset"
        raise InputError(f"{directory} is a file, but no list (.csv), shard (.tar) or .parquet file")
    path = Path(directory)
    if looks_like_saved(directory) or (is_remote(directory) and directory.endswith(".parquet")):
        return "huggingface"
    if is_remote(directory) and directory.endswith(".tar"):
        return "webdataset"
    here = not is_remote(directory)
    if here and metadata_files(path):
        return "csv"
    if here and has_split_folders(path):
        return "folder"
    if looks_like_tfds(directory):
        return "tfds"
    if here and has_class_folders(path):
        return "folder"
    if parquet_files(directory):
        return "huggingface"
    if looks_like_webdataset(directory):
        return "webdataset"
    raise InputError(f"{directory} holds no dataset: {_what_is_there(directory)}")


def _what_is_there(directory: str) -> str:
    """What was looked for in a directory that holds no dataset, and what is there."""
    layouts = (
        "neither train/<class>/ nor <class>/ with images (class folders), nor dataset_info.json (TFDS), nor *.tar "
        "(WebDataset), nor *.parquet (Hugging Face), nor metadata.csv (see docs/data.md)"
    )
    if is_remote(directory):
        return layouts
    found = extensions_in(Path(directory))
    if not found:
        return f"{layouts}; there are no files in it"
    seen = f"there are {counted(found)} files in it"
    lists = [name for name in sorted(os.listdir(directory)) if name.lower().endswith(EXTENSIONS)]
    if lists:
        return f"{seen}; if {lists[0]} lists names and labels, give --dataset_dir={os.path.join(directory, lists[0])}"
    if found.keys() & IMAGE_EXTENSIONS:
        return (
            f"{seen}, but no class directories: put the images of each class into a directory of its own, or list them "
            f"in a CSV file with the columns file_name and label"
        )
    return f"{layouts}; {seen}"


def _from_source(config: DataConfig, source: Source, cache_dir: Path, run: Identity | None) -> Data:
    """A dataset on storage with its splits."""
    reader = _Reader(config, source, cache_dir)
    if source.train is None:
        assert source.test is not None
        if run is None:
            raise InputError(
                f"{config.dataset_dir} holds no training images; images to evaluate on alone do for --mode=eval"
            )
        return reader.alone(source.test)
    out = choose_held_out(source, config.valid_filenames, config.valid_fraction, config.test_fraction)
    train, out = _joined(source, out)
    examples, choice = digest(source.layout, train.identity()), digest(*(np.packbits(mask).tobytes() for mask in out))
    identity = Identity(reader.class_names, f"{examples}-{choice}", len(train))
    if run is not None and not source.names_splits and not has_same_examples(identity, run):
        return reader.alone(source.train)
    if run is not None and has_same_examples(identity, run) and identity != run:
        raise InputError(
            "these are the images that the run was trained on, but others of them are held out than then: give the "
            "run's --valid_filenames, --valid_fraction and --test_fraction"
        )
    parts = reader.parts(train, out)
    missing = {}
    if source.no_test and "test" in parts:
        log.warning("%s", source.no_test)
    elif source.no_test:
        missing["test"] = source.no_test
    return reader.data(parts, identity, missing=missing)


class _Reader:
    """Makes the splits of a dataset as the configuration says they are read."""

    def __init__(self, config: DataConfig, source: Source, cache_dir: Path):
        self.config, self.source, self.cache_dir = config, source, cache_dir
        self.size = config.image_size or IMAGENET_SIZE
        self.workers = default_workers() if config.num_workers is None else config.num_workers
        self.bad_images = BadImages()
        self.class_names = tuple(source.class_names)

    def data(self, parts: dict[str, FilePart], identity: Identity, **facts: Any) -> Data:
        return Data(self.source.name, self.class_names, self.size, parts, self.bad_images, identity=identity, **facts)

    def alone(self, examples: Examples) -> Data:
        """Images to evaluate on, with none to train on."""
        identity = Identity(self.class_names, digest("alone", examples.identity()), 0)
        return self.data({"test": self._whole("test", examples, kept=True)}, identity, alone=True)

    def parts(self, train: Examples, out: HeldOut) -> dict[str, FilePart]:
        """The splits of a dataset with training images."""
        config, source = self.config, self.source
        parts = {
            "train": self._part("train", train, np.flatnonzero(~(out.valid | out.test)), kept=False),
            "valid": self._part("valid", train, np.flatnonzero(out.valid), kept=True),
            "full_train": self._part("full_train", train, np.flatnonzero(~out.test), kept=False),
        }
        if out.test.any():
            parts["test"] = self._part("test", train, np.flatnonzero(out.test), kept=True)
        elif source.test is not None and len(source.test):
            parts["test"] = self._whole("test", source.test, kept=True)
        if config.train_cache_size is not None:
            whole = self._whole("full_train", train, kept=False)
            cache = whole.kept_whole(config.train_cache_size, self.cache_dir)
            for split in ("train", "full_train", "valid"):
                parts[split].decoder.train_cache = cache
        return parts

    def _whole(self, split: str, examples: Examples, *, kept: bool) -> FilePart:
        return self._part(split, examples, np.arange(len(examples)), kept=kept)

    def _part(self, split: str, examples: Examples, indices: np.ndarray, *, kept: bool) -> FilePart:
        """Some of the examples; `kept` says whether their evaluation views are written into the cache."""
        decoder = Decoder(examples, indices, self.size, self.config.on_bad_image)
        name, cache_dir = self.source.name.replace("/", "-"), self.cache_dir if kept else None
        return FilePart(split, decoder, self.workers, self.bad_images, cache_dir, name)


def _joined(source: Source, out: HeldOut) -> tuple[Examples, HeldOut]:
    """The training images, and behind them those that the dataset itself sets apart to validate on."""
    assert source.train is not None
    if source.valid is None:
        return source.train, out
    more = len(source.valid)
    valid = np.concatenate([out.valid, np.ones(more, bool)])
    return JoinedExamples(source.train, source.valid), HeldOut(valid, np.concatenate([out.test, np.zeros(more, bool)]))


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
