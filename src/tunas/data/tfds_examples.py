"""The records of a TFDS dataset as examples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tunas.data.examples import BadImageError, digest, stem
from tunas.data.index import ShardIndex, kept_arrays, shards_key
from tunas.data.progress import progress
from tunas.data.storage import Range, read_ranges, storage_error
from tunas.data.tfrecord import FOOTER, HEADER, parse_example, record_payload
from tunas.errors import InputError

FILE_NAME_FEATURE = "file_name"
_NAME_BATCH = 64
"""Records that are read at a time for their labels and names."""


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
        """The label of the first record, whatever it is: test sets without labels have -1. None where it cannot be
        had."""
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
        """Labels, and names without directory and extension, of all records."""
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
    """The label of a record's features, which must have an image too."""
    if schema.label not in features or schema.image not in features:
        raise BadImageError(f"the record has no {schema.image!r} with a {schema.label!r}")
    values = features[schema.label].int64_list.value
    if len(values) != 1 or not 0 <= values[0] < len(schema.class_names):
        raise BadImageError(
            f"the record's label {list(values)} is not one number from 0 to {len(schema.class_names) - 1}"
        )
    return values[0]
