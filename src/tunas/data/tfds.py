"""A TFDS directory: dataset_info.json, features.json and TFRecord shards, as tensorflow_datasets prepares them; read
without TensorFlow."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tunas.data.array_record import open_array_records
from tunas.data.examples import BadImageError, Source, digest, stem
from tunas.data.formats import IMAGE_EXTENSIONS
from tunas.data.index import ShardIndex, kept_arrays, shards_key
from tunas.data.progress import progress
from tunas.data.split_names import split_of_word
from tunas.data.storage import Range, concurrently, is_remote, join, list_names, read_ranges, read_text, storage_error
from tunas.data.tfrecord import FOOTER, HEADER, parse_example, record_payload, record_places
from tunas.errors import InputError

INFO = "dataset_info.json"
FEATURES = "features.json"
TRAIN = "train"
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
DEFAULT_LABELS = "label.labels.txt"
FILE_NAME_FEATURE = "file_name"
_NAME_BATCH = 64
log = logging.getLogger("tunas.data")


@dataclass(frozen=True)
class Schema:
    """What the features are called, and the names of the classes.

    Attributes:
        floats: whether pixels are float32, which TFDS stores as the bytes of a PNG of four channels.
    """

    image: str
    label: str
    class_names: tuple[str, ...]
    floats: bool = False


class Records(Protocol):
    """The records of a split, one serialized tf.Example each."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where a record lies, for people."""
        ...

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]: ...

    def payload(self, content: bytes, *, checked: bool = True) -> bytes | memoryview:
        """The example in what `read` gave; `BadImageError` where a checksum says that it is damaged."""
        ...

    def identity(self) -> str: ...

    def fingerprint(self, indices: np.ndarray) -> str: ...

    def key(self, kind: str) -> str:
        """Changes where a file is another one."""
        ...


class TfRecords:
    """Records of TFRecord shards, read by their places."""

    def __init__(self, index: ShardIndex):
        self._index = index
        self.identity = index.identity
        self.fingerprint = index.fingerprint

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        path, offset, _ = self._index.place(index)
        return f"{path} at byte {offset}"

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        return read_ranges([Range(*self._index.place(index)) for index in indices])

    def payload(self, content: bytes, *, checked: bool = True) -> memoryview:
        return record_payload(content) if checked else memoryview(content)[HEADER:-FOOTER]

    def key(self, kind: str) -> str:
        return shards_key(kind, self._index.shards)


class TfdsExamples:
    """Records in the order in which TFDS slices them: shard by shard, record by record."""

    def __init__(self, schema: Schema, records: Records, cache_dir: Path | None):
        self._schema = schema
        self._records = records
        self._cache_dir = cache_dir
        self.name = records.name
        self.read = records.read

    def __len__(self) -> int:
        return len(self._records)

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        features = parse_example(self._records.payload(content))
        label = _label(features, self._schema)
        images = features[self._schema.image].bytes_list.value
        if len(images) != 1:
            raise BadImageError(f"the record holds {len(images)} images under {self._schema.image!r}")
        return float_image(images[0]) if self._schema.floats else images[0], label

    def first_label(self) -> int | None:
        """Of the first record, whatever it is; test sets without labels have -1. None where it cannot be had."""
        (content,) = self.read([0])
        if isinstance(content, OSError):
            return None
        try:
            values = parse_example(self._records.payload(content))[self._schema.label].int64_list.value
        except BadImageError:
            return None
        return int(values[0]) if len(values) == 1 else None

    def labels(self) -> np.ndarray:
        return self._labels_and_names()["labels"]

    def file_ids(self) -> list[tuple[int, str]]:
        found = self._labels_and_names()
        names = [name.decode() for name in found["names"]]
        if not all(names):
            missing = names.index("")
            raise InputError(f"{self.name(missing)} has no {FILE_NAME_FEATURE!r}, which a list of file names needs")
        return list(zip(found["labels"].tolist(), names, strict=True))

    def _labels_and_names(self) -> dict[str, np.ndarray]:
        """Reads every record once, and keeps what it finds in the cache directory."""
        key = self._records.key(f"names {self._schema.label}")
        return kept_arrays(self._cache_dir, "tfds-names", key, ("labels", "names"), self._read_all)

    def _read_all(self) -> dict[str, np.ndarray]:
        labels, names = [], []
        with progress("reading labels", len(self)) as advance:
            for start in range(0, len(self), _NAME_BATCH):
                places = range(start, min(start + _NAME_BATCH, len(self)))
                for place, content in zip(places, self.read(places), strict=True):
                    if isinstance(content, OSError):
                        raise storage_error(self.name(place), content)
                    try:
                        features = parse_example(self._records.payload(content, checked=False))
                        labels.append(_label(features, self._schema))
                    except BadImageError as error:
                        raise InputError(f"{self.name(place)}: {error}") from None
                    value = features[FILE_NAME_FEATURE].bytes_list.value if FILE_NAME_FEATURE in features else ()
                    names.append(stem(value[0].decode(errors="replace")).encode() if value else b"")
                advance(len(places))
        return {"labels": np.array(labels, np.int64), "names": np.array(names, np.bytes_)}

    def identity(self) -> str:
        return digest(self._records.identity(), "\0".join(self._schema.class_names))

    def fingerprint(self, indices: np.ndarray) -> str:
        return self._records.fingerprint(indices)

    def read_groups(self) -> None:
        return None


def float_image(encoded: bytes) -> bytes:
    """A TIFF file of the float32 pixels that TFDS hides in a PNG of four channels: the four bytes of each
    (tensorflow_datasets/core/features/image_feature.py).

    Raises:
        BadImageError: where it is no such PNG.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
            pixels = np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != 4:
            raise BadImageError("the record holds no float pixels, though the features say so")
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels).view("<f4")[..., 0]).save(buffer, "TIFF")
        return buffer.getvalue()
    except (OSError, ValueError, SyntaxError) as error:
        raise BadImageError(str(error) or type(error).__name__) from None


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


def open_tfds(dataset_dir: str, cache_dir: Path | None, *, evaluates: bool = False) -> Source:
    """The dataset in `dataset_dir`, in its newest version.

    Args:
        dataset_dir: directory of a version, of a dataset, or of several versions, on this machine or behind a URL.
        cache_dir: where the index of the records is kept.
        evaluates: whether images to evaluate on do, without a training split.

    Raises:
        InputError: where files are missing, damaged, or of another kind than images with one label.
    """
    directory = _newest_version(dataset_dir, tfds_directories(dataset_dir))
    info = _json(join(directory, INFO))
    schema = _schema(directory)
    splits = info.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise InputError(f"{join(directory, INFO)} lists no splits")
    by_split: dict[str, dict[str, Any]] = {}
    for split in splits:
        name = split_of_word(str(split.get("name")))
        if name is not None and name not in by_split:
            by_split[name] = split
    if unread := [name for split in splits if split_of_word(name := str(split.get("name"))) is None]:
        log.warning("the splits %s of %s are not read", ", ".join(unread), directory)
    names = ", ".join(sorted(str(split.get("name")) for split in splits)) or "none"
    if TRAIN not in by_split and not (evaluates and by_split):
        raise InputError(f"{join(directory, INFO)} has no split {TRAIN!r}; it has {names}")

    def examples(name: str) -> TfdsExamples:
        return TfdsExamples(schema, _records(directory, info, by_split[name], cache_dir), cache_dir)

    title = f"{info.get('name', 'dataset')}/{info.get('version', '?')}"
    train = examples(TRAIN) if TRAIN in by_split else None
    held = {name: examples(name) for name in ("valid", "test") if name in by_split}
    no_test = ""
    for name in [name for name, part in held.items() if not len(part) or part.first_label() == -1]:
        no_test = f"the split {by_split[name].get('name')!r} of {title} is not read: its images have no labels"
        del held[name]
    if train is None and not held:
        raise InputError(f"{join(directory, INFO)} has no split {TRAIN!r}; it has {names}")
    valid = held.pop("valid") if len(held) == 2 and train is not None else None
    test = next(iter(held.values()), None)
    return Source(title, "tfds", schema.class_names, train, test, in_order=True, valid=valid, no_test=no_test)


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
    return bool(tfds_directories(dataset_dir))
