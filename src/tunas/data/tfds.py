"""A TFDS directory: dataset_info.json, features.json and TFRecord shards, as tensorflow_datasets prepares them; read
without TensorFlow."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunas.data.examples import BadImageError, Examples, Source, stem
from tunas.data.index import ShardIndex, kept_arrays, shards_key
from tunas.data.progress import progress
from tunas.data.storage import Range, concurrently, join, list_names, read_ranges, read_text
from tunas.data.tfrecord import FOOTER, HEADER, parse_example, record_payload, record_places
from tunas.errors import InputError

INFO = "dataset_info.json"
FEATURES = "features.json"
TRAIN = "train"
TEST_NAMES = ("validation", "test")
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DEFAULT_LABELS = "label.labels.txt"
FILE_NAME_FEATURE = "file_name"
_NAME_BATCH = 64


@dataclass(frozen=True)
class Schema:
    """What the features are called, and the names of the classes."""

    image: str
    label: str
    class_names: tuple[str, ...]


class TfdsExamples:
    """Records of TFRecord shards, in the order in which TFDS slices them: shard by shard, record by record."""

    def __init__(self, schema: Schema, index: ShardIndex, cache_dir: Path | None):
        self._schema = schema
        self._index = index
        self._cache_dir = cache_dir

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        path, offset, _ = self._index.place(index)
        return f"{path} at byte {offset}"

    def range(self, index: int) -> Range:
        return Range(*self._index.place(index))

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        features = parse_example(record_payload(content))
        label = _label(features, self._schema)
        images = features[self._schema.image].bytes_list.value
        if len(images) != 1:
            raise BadImageError(f"the record holds {len(images)} images under {self._schema.image!r}")
        return images[0], label

    def file_ids(self) -> list[tuple[int, str]]:
        """Reads every record once, and keeps the names in the cache directory."""
        key = shards_key(f"names {self._schema.label}", self._index.shards)
        arrays = kept_arrays(self._cache_dir, "tfds-names", key, ("labels", "names"), self._read_names)
        return list(zip(arrays["labels"].tolist(), (name.decode() for name in arrays["names"]), strict=True))

    def _read_names(self) -> dict[str, np.ndarray]:
        labels, names = [], []
        with progress("reading file names", len(self)) as advance:
            for start in range(0, len(self), _NAME_BATCH):
                places = [self.range(index) for index in range(start, min(start + _NAME_BATCH, len(self)))]
                for place, content in zip(places, read_ranges(places), strict=True):
                    where = f"{place.path} at byte {place.offset}"
                    if isinstance(content, OSError):
                        raise InputError(f"cannot read {where}: {content}")
                    try:
                        features = parse_example(memoryview(content)[HEADER:-FOOTER])
                        labels.append(_label(features, self._schema))
                    except BadImageError as error:
                        raise InputError(f"{where}: {error}") from None
                    if FILE_NAME_FEATURE not in features:
                        raise InputError(f"{where} has no {FILE_NAME_FEATURE!r}, which a list of file names needs")
                    names.append(
                        stem(features[FILE_NAME_FEATURE].bytes_list.value[0].decode(errors="replace")).encode()
                    )
                advance(len(places))
        return {"labels": np.array(labels, np.int64), "names": np.array(names, np.bytes_)}

    def fingerprint(self, indices: np.ndarray) -> str:
        return self._index.fingerprint(indices)


def _label(features: Any, schema: Schema) -> int:
    if schema.label not in features or schema.image not in features:
        raise BadImageError(f"the record has no {schema.image!r} with a {schema.label!r}")
    values = features[schema.label].int64_list.value
    if len(values) != 1 or not 0 <= values[0] < len(schema.class_names):
        raise BadImageError(
            f"the record's label {list(values)} is not one number from 0 to {len(schema.class_names) - 1}"
        )
    return values[0]


def tfds_directories(dataset_dir: str, depth: int = 2) -> list[str]:
    """Directories that hold a prepared dataset: `dataset_dir` itself, or else those at most two levels below it."""
    names = list_names(dataset_dir)
    if INFO in names:
        return [dataset_dir]
    if depth == 0:
        return []
    below = [join(dataset_dir, name) for name in names if "." not in name or re.fullmatch(r"\d+\.\d+\.\d+", name)]
    return [found for directory in below for found in tfds_directories(directory, depth - 1)]


def open_tfds(dataset_dir: str, cache_dir: Path | None) -> Source:
    """The dataset in `dataset_dir`, in its newest version.

    Args:
        dataset_dir: directory of a version, of a dataset, or of several versions, on this machine or behind a URL.
        cache_dir: where the index of the records is kept.

    Raises:
        InputError: where files are missing, damaged, or of another kind than images with one label.
    """
    directory = _newest_version(dataset_dir, tfds_directories(dataset_dir))
    info = _json(join(directory, INFO))
    schema = _schema(directory)
    splits = info.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise InputError(f"{join(directory, INFO)} lists no splits")
    by_name = {str(split.get("name")): split for split in splits}
    if TRAIN not in by_name:
        raise InputError(
            f"{join(directory, INFO)} has no split {TRAIN!r}; it has {', '.join(sorted(by_name)) or 'none'}"
        )

    def examples(name: str) -> Examples:
        return TfdsExamples(schema, _index(directory, info, by_name[name], cache_dir), cache_dir)

    test = next((name for name in TEST_NAMES if name in by_name), None)
    title = f"{info.get('name', 'dataset')}/{info.get('version', '?')}"
    return Source(title, "tfds", schema.class_names, examples(TRAIN), examples(test) if test else None, in_order=True)


def _newest_version(dataset_dir: str, found: Sequence[str]) -> str:
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


def _json(path: str) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return document


def _schema(directory: str) -> Schema:
    path = join(directory, FEATURES)
    names = list_names(directory)
    if FEATURES not in names and DEFAULT_LABELS in names:  # as TFDS wrote it before version 4
        return Schema("image", "label", tuple(read_text(join(directory, DEFAULT_LABELS)).splitlines()))
    document = _json(path)
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

    image, label = only("Image", "image"), only("ClassLabel", "label")
    try:
        count = int(features[label]["classLabel"]["numClasses"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path} does not say how many classes {label!r} has") from None
    return Schema(image, label, _class_names(directory, label, count))


def _class_names(directory: str, label: str, count: int) -> tuple[str, ...]:
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


def _index(directory: str, info: dict[str, Any], split: dict[str, Any], cache_dir: Path | None) -> ShardIndex:
    file_format = str(info.get("fileFormat") or "tfrecord")
    if file_format != "tfrecord":
        raise InputError(f"{directory} is stored as {file_format}; only tfrecord can be read")
    try:
        expected = [int(length) for length in split["shardLengths"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{join(directory, INFO)} does not give the shard lengths of its split {split.get('name')!r}"
        ) from None
    template = str(split.get("filepathTemplate") or DEFAULT_TEMPLATE)
    names = str(info.get("name")), str(split["name"])
    shards = [join(directory, _shard_name(template, *names, number, len(expected))) for number in range(len(expected))]

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


def _shard_name(template: str, dataset: str, split: str, number: int, count: int) -> str:
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": f"{number:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{number:05d}-of-{count:05d}",
    }
    name = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
    if "/" in name or "\\" in name:
        raise InputError(f"the file name template {template!r} in {INFO} leads out of the dataset's directory")
    return name


def looks_like_tfds(dataset_dir: str) -> bool:
    return bool(tfds_directories(dataset_dir))
