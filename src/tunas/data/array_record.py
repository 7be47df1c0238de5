"""Files of the array_record format, which newer versions of TFDS write; read by the package of that name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunas.data.examples import digest, place_among
from tunas.data.index import shards_key
from tunas.data.storage import DamagedFileError, is_remote
from tunas.errors import InputError


class ArrayRecords:
    """Records by number. Files are opened by the process that reads them."""

    def __init__(self, shards: Sequence[str], counts: Sequence[int]):
        self._shards = list(shards)
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._readers: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    def _place(self, index: int) -> tuple[int, int]:
        """(shard, record in it)."""
        return place_among(self._ends, index)

    def name(self, index: int) -> str:
        shard, record = self._place(index)
        return f"record {record} of {self._shards[shard]}"

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        return [self._read(*self._place(index)) for index in indices]

    def _read(self, shard: int, record: int) -> bytes | OSError:
        try:
            if shard not in self._readers:
                self._readers[shard] = _reader_class(self._shards[shard])(self._shards[shard])
            return self._readers[shard].read([record])[0]
        except (RuntimeError, ValueError, IndexError) as error:  # what the package raises of damaged files
            return DamagedFileError(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def payload(self, content: bytes, *, checked: bool = True) -> bytes:
        return content  # the package has compared the checksums

    def identity(self) -> str:
        return digest(*(shard.rpartition("/")[2] for shard in self._shards), self._ends.astype("<i8").tobytes())

    def fingerprint(self, indices: np.ndarray) -> str:
        return digest(self.key("array_record"), np.ascontiguousarray(indices, "<i8").tobytes())

    def key(self, kind: str) -> str:
        return shards_key(kind, self._shards)


def open_array_records(shards: Sequence[str], expected: Sequence[int]) -> ArrayRecords:
    """The records of a split.

    Args:
        shards: paths.
        expected: how many records each holds.

    Raises:
        InputError: where the package is not installed, or a file is missing, damaged, remote, or holds another number.
    """
    for path, wanted in zip(shards, expected, strict=True):
        if is_remote(path):
            raise InputError(f"{path}: array_record files must lie on this machine; behind a URL use tfrecord")
        try:
            reader = _reader_class(path)
            open(path, "rb").close()
            count = reader(path).num_records()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} is damaged, or no array_record file: {str(error).splitlines()[0]}") from None
        if count != wanted:
            raise InputError(f"{path} holds {count} records, but dataset_info.json says {wanted}")
    return ArrayRecords(shards, expected)


def _reader_class(path: str) -> Any:
    """The package's reader; a refusal of `path` where there is no package."""
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError:
        raise InputError(
            f"{path} is stored as array_record; only tfrecord can be read without the package: `pip install "
            f"array_record`, or prepare the dataset again with `tfds build --file_format=tfrecord`"
        ) from None
    return ArrayRecordReader
