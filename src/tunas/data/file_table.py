"""A table of image files: names, directories and labels, as arrays rather than a million strings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tunas.data.examples import digest, stem
from tunas.data.shared import SharedArrays
from tunas.data.storage import Range, concurrently, read_ranges


class FileExamples:
    """Image files below one directory.

    Args:
        root: the directory.
        directories: paths below it, each listed once.
        places: (number of the directory, file name) of every file.
        labels: int `[files]`.
        class_names: in the order of the labels.
    """

    def __init__(
        self,
        root: str,
        directories: Sequence[str],
        places: Iterable[tuple[int, bytes]],
        labels: np.ndarray,
        class_names: Sequence[str],
    ):
        self.root = root
        self._directories = list(directories)
        self._class_names = tuple(class_names)
        numbers, names = [], []
        for number, name in places:
            numbers.append(number)
            names.append(name)
        self._tables = SharedArrays(
            directories=np.array(numbers, np.int32),
            labels=np.asarray(labels, np.int32),
            ends=np.cumsum([len(name) for name in names], dtype=np.int64),
            text=np.frombuffer(b"".join(names), np.uint8),
        )

    def __len__(self) -> int:
        return len(self._tables["labels"])

    def _file_name(self, index: int) -> str:
        ends = self._tables["ends"]
        start = ends[index - 1] if index else 0
        return os.fsdecode(self._tables["text"][start : ends[index]].tobytes())

    def _below_root(self, index: int) -> str:
        return os.path.join(self._directories[self._tables["directories"][index]], self._file_name(index))

    def name(self, index: int) -> str:
        return os.path.join(self.root, self._below_root(index))

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        return read_ranges([Range(self.name(index)) for index in indices])

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        return content, int(self._tables["labels"][index])

    def labels(self) -> np.ndarray:
        return self._tables["labels"]

    def file_ids(self) -> Iterator[tuple[int, str]]:
        return ((int(label), stem(self._file_name(index))) for index, label in enumerate(self._tables["labels"]))

    def identity(self) -> str:
        tables = (self._tables[name].tobytes() for name in ("directories", "labels", "ends", "text"))
        return digest("\0".join(self._directories), "\0".join(self._class_names), *tables)

    def fingerprint(self, indices: np.ndarray) -> str:
        """From class, path below the root, size and time of change of the files."""

        def state(index: int) -> str:
            try:
                found = os.stat(self.name(index))
                return f"{found.st_size}\0{found.st_mtime_ns}"
            except OSError:
                return "-1"

        shares = np.array_split(indices, 64)
        states = concurrently(lambda share: [state(index) for index in share], shares)
        lines = (
            f"{self._class_names[self._tables['labels'][index]]}\0{self._below_root(index)}\0{each}"
            for share, found in zip(shares, states, strict=True)
            for index, each in zip(share.tolist(), found, strict=True)
        )
        return digest("\n".join(lines))

    def read_groups(self) -> None:
        return None
