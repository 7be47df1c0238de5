"""A TFDS directory: dataset_info.json, features.json and TFRecord shards, as tensorflow_datasets prepares them; read
without TensorFlow."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunas.data.array_record import open_array_records
from tunas.data.examples import Source, source_of
from tunas.data.formats import IMAGE_EXTENSIONS
from tunas.data.index import ShardIndex, kept_arrays, shards_key
from tunas.data.progress import progress
from tunas.data.split_names import split_of_word
from tunas.data.storage import concurrently, is_remote, join, list_names, read_json_object, read_text
from tunas.data.tfds_examples import Records, Schema, TfdsExamples, TfRecords
from tunas.data.tfrecord import record_places
from tunas.errors import InputError

INFO = "dataset_info.json"
FEATURES = "features.json"
TRAIN = "train"
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DEFAULT_LABELS = "label.labels.txt"
log = logging.getLogger("tunas.data")


def tfds_directories(dataset_dir: str, depth: int = 2) -> list[str]:
    """Directories that hold a prepared dataset: `dataset_dir` itself, or else those at most two levels below it."""
    names = _names_unless_images(dataset_dir)
    if INFO in names:
        return [dataset_dir]
    if depth == 0:
        return []
    below = [join(dataset_dir, name) for name in names if "." not in name or re.fullmatch(r"\d+\.\d+\.\d+", name)]
    return [found for directory in below for found in tfds_directories(directory, depth - 1)]


def _names_unless_images(directory: str) -> list[str]:
    """What lies in a directory; nothing where that is images, which may be a million."""
    if is_remote(directory):
        return list_names(directory)
    names = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:
                    return []
                names.append(entry.name)
    except OSError:
        return []
    return sorted(names)


def open_tfds(dataset_dir: str, cache_dir: Path | None, *, evaluates: bool) -> Source:
    """The dataset in `dataset_dir`, in its newest version.

    Args:
        dataset_dir: directory of a version, of a dataset, or of several versions, on this machine or behind a URL.
        cache_dir: where the index of the records is kept.
        evaluates: whether a dataset without a training split will do.

    Raises:
        InputError: where files are missing, damaged, or of another kind than images with one label.
    """
    directory = _newest_version(dataset_dir, tfds_directories(dataset_dir))
    info = read_json_object(join(directory, INFO))
    schema = _schema(directory)
    by_split, names = _splits(directory, info)
    without_train = InputError(f"{join(directory, INFO)} has no split {TRAIN!r}; it has {names}")
    if TRAIN not in by_split and not (evaluates and by_split):
        raise without_train
    title = f"{info.get('name', 'dataset')}/{info.get('version', '?')}"
    parts: dict[str, TfdsExamples] = {}
    no_test = ""
    for name, split in by_split.items():
        examples = TfdsExamples(schema, _records(directory, info, split, cache_dir), cache_dir)
        if name != TRAIN and (not len(examples) or examples.first_label() == -1):
            no_test = f"the split {split.get('name')!r} of {title} is not read: its images have no labels"
        else:
            parts[name] = examples
    if not parts:
        raise without_train
    return source_of(title, "tfds", schema.class_names, parts, in_order=True, no_test=no_test)


def _splits(directory: str, info: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], str]:
    """(`train`, `valid` and `test` -> what `info` says of it, of those that there are; the names of all in words)."""
    splits = info.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise InputError(f"{join(directory, INFO)} lists no splits")
    by_split: dict[str, dict[str, Any]] = {}
    unread = []
    for split in splits:
        name = split_of_word(str(split.get("name")))
        if name is None:
            unread.append(str(split.get("name")))
        else:
            by_split.setdefault(name, split)
    if unread:
        log.warning("the splits %s of %s are not read", ", ".join(unread), directory)
    names = ", ".join(sorted(str(split.get("name")) for split in splits)) or "none"
    return {name: by_split[name] for name in (TRAIN, "valid", "test") if name in by_split}, names


def _newest_version(dataset_dir: str, found: Sequence[str]) -> str:
    """The directory of the newest version of the one dataset that was found."""
    if not found:
        raise InputError(f"there is no {INFO} in {dataset_dir} or up to two directories below it")
    parents = {re.sub(r"/\d+\.\d+\.\d+/?$", "", directory) for directory in found}
    if len(parents) > 1:
        raise InputError(
            f"{dataset_dir} holds several datasets, {', '.join(sorted(parents))}; give the directory of one of them"
        )
    return max(
        found,
        key=lambda directory: [int(part) for part in re.findall(r"\d+", directory.rstrip("/").rpartition("/")[2])],
    )


def _schema(directory: str) -> Schema:
    """What the features file says, or the list of labels alone where TFDS wrote no such file."""
    path = join(directory, FEATURES)
    names = list_names(directory)
    if FEATURES not in names and DEFAULT_LABELS in names:  # as TFDS wrote it before version 4
        return Schema("image", "label", tuple(read_text(join(directory, DEFAULT_LABELS)).splitlines()))
    document = read_json_object(path)
    try:
        features = document["featuresDict"]["features"]
        types = {name: feature.get("pythonClassName", feature.get("type")) for name, feature in features.items()}
        kinds = {name: str(kind).rpartition(".")[2] for name, kind in types.items()}
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} does not describe a dictionary of features") from None

    def only(kind: str, preferred: str) -> str:
        names = [name for name in kinds if kinds[name] == kind]
        if preferred in names or len(names) == 1:
            return preferred if preferred in names else names[0]
        raise InputError(
            f"{path} must have one feature of type {kind}, or one called {preferred!r}; it has {', '.join(kinds)}"
        )

    image = only("Image", "image")
    if "ClassLabel" not in kinds.values() and "label" in kinds:
        raise InputError(
            f"the feature 'label' of {path} is a {kinds['label']}, not a ClassLabel: only images with one class each "
            f"can be learned; declare it as tfds.features.ClassLabel and prepare the dataset again"
        )
    label = only("ClassLabel", "label")
    try:
        count = int(features[label]["classLabel"]["numClasses"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} does not say how many classes {label!r} has") from None
    described = features[image].get("image")
    dtype = str(described.get("dtype", "uint8")) if isinstance(described, dict) else "uint8"
    if dtype not in ("uint8", "uint16", "float32"):
        raise InputError(
            f"the feature {image!r} of {path} has pixels of type {dtype}; uint8, uint16 and float32 are read"
        )
    return Schema(image, label, _class_names(directory, label, count), floats=dtype == "float32")


def _class_names(directory: str, label: str, count: int) -> tuple[str, ...]:
    """The names in the file beside the features; the numbers where there is none."""
    listed = list_names(directory)
    file_name = next(
        (name for name in (f"{label}.labels.txt", DEFAULT_LABELS, "image.labels.txt") if name in listed), None
    )
    if file_name is None:
        return tuple(str(number) for number in range(count))
    path = join(directory, file_name)
    names = tuple(read_text(path).splitlines())
    if len(names) != count:
        raise InputError(f"{path} names {len(names)} classes, but {FEATURES} says {count}")
    return names


def _records(directory: str, info: dict[str, Any], split: dict[str, Any], cache_dir: Path | None) -> Records:
    """The records of a split, in the format that the dataset was prepared in."""
    file_format = str(info.get("fileFormat") or "tfrecord")
    if file_format not in ("tfrecord", "array_record"):
        raise InputError(
            f"{directory} is stored as {file_format}; only tfrecord and array_record can be read: prepare it with "
            f"`tfds build --file_format=tfrecord`"
        )
    try:
        expected = [int(length) for length in split["shardLengths"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{join(directory, INFO)} does not give the shard lengths of its split {split.get('name')!r}"
        ) from None
    template = str(split.get("filepathTemplate") or DEFAULT_TEMPLATE)
    names = str(info.get("name")), str(split["name"]), file_format
    shards = [join(directory, _shard_name(template, *names, number, len(expected))) for number in range(len(expected))]
    if file_format == "array_record":
        return open_array_records(shards, expected)
    return TfRecords(_index(split, shards, expected, cache_dir))


def _index(split: dict[str, Any], shards: Sequence[str], expected: Sequence[int], cache_dir: Path | None) -> ShardIndex:
    """Where the records of a split lie, of whose shards each must hold as many as `expected`."""

    def build() -> dict[str, np.ndarray]:
        with progress(f"indexing {split['name']}", len(shards)) as advance:

            def places(path: str) -> np.ndarray:
                found = record_places(path)
                advance(1)
                return found

            per_shard = concurrently(places, shards)
        return {"counts": np.array([len(each) for each in per_shard], np.int64), "places": np.concatenate(per_shard)}

    arrays = kept_arrays(
        cache_dir, f"tfds-{split['name']}", shards_key("tfrecord", shards), ("counts", "places"), build
    )
    for path, count, wanted in zip(shards, arrays["counts"], expected, strict=True):
        if count != wanted:
            raise InputError(f"{path} holds {count} records, but {INFO} says {wanted}")
    return ShardIndex(shards, arrays["counts"], arrays["places"])


def _shard_name(template: str, dataset: str, split: str, file_format: str, number: int, count: int) -> str:
    """The file of a shard, by a template of TFDS."""
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": file_format,
        "SHARD_INDEX": f"{number:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{number:05d}-of-{count:05d}",
    }
    name = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
    if "/" in name or "\\" in name:
        raise InputError(f"the file name template {template!r} in {INFO} leads out of the dataset's directory")
    return name


def looks_like_tfds(dataset_dir: str) -> bool:
    """Whether TFDS prepared a dataset in a directory, or up to two directories below it."""
    return bool(tfds_directories(dataset_dir))
