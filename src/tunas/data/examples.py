"""What every source of images looks like to the rest: a table of encoded images with labels."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tunas.data.formats import IMAGE_EXTENSIONS


class BadImageError(Exception):
    """One image cannot be had; the message says why, without its name."""


class Examples(Protocol):
    """A table of encoded images, in a fixed order. Pickled into the processes that decode."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        """The stored bytes of examples, or the error that reading one of them raised."""
        ...

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        """Encoded image and label, out of what `read` gave for `index`.

        Raises:
            BadImageError: where the bytes are damaged.
        """
        ...

    def name(self, index: int) -> str:
        """What to call an example in a message: its file, and where in it."""
        ...

    def labels(self) -> np.ndarray:
        """int `[examples]`. May read every record once."""
        ...

    def file_ids(self) -> Iterable[tuple[int, str]]:
        """(label, file name without directory and extension) of every example, or its number where it has no name."""
        ...

    def identity(self) -> str:
        """Changes where the table lists other examples; not where the same files lie elsewhere or are copied."""
        ...

    def fingerprint(self, indices: np.ndarray) -> str:
        """Changes where one of these examples is another one or has another label, as far as names, places, sizes and
        what the storage says of changes (time or etag) tell."""
        ...

    def read_groups(self) -> np.ndarray | None:
        """int `[examples]`, ascending: examples of the same number are read together, one with all others; None where
        each is read alone."""
        ...


@dataclass(frozen=True)
class Source:
    """A dataset as it lies on storage.

    Attributes:
        name: for people.
        layout: folder, csv, tfds, webdataset or huggingface.
        class_names: in the order of the labels.
        train: all training examples; None where there are only images to evaluate on.
        test: the official validation examples, or None where there are none.
        in_order: the first examples are held out (TFDS), rather than a choice.
        valid: examples to validate on that the dataset itself sets apart, beside a test set.
        names_splits: False where nothing says which images are for training: a test set is then taken from them.
        no_test: what could have been a test set and is not read, and why.
    """

    name: str
    layout: str
    class_names: Sequence[str]
    train: Examples | None
    test: Examples | None
    in_order: bool = False
    valid: Examples | None = None
    names_splits: bool = True
    no_test: str = ""


def source_of(
    name: str,
    layout: str,
    class_names: Sequence[str],
    parts: Mapping[str, Examples],
    *,
    in_order: bool = False,
    no_test: str = "",
) -> Source:
    """A dataset of the splits `train`, `valid` and `test`, of those that there are, or of `all`, where none is named.

    Where there are both of the latter beside training images, the examples of `valid` are to validate on; otherwise the
    first that is there is the test set.
    """
    train = parts.get("train", parts.get("all"))
    held = [parts[split] for split in ("valid", "test") if split in parts and len(parts[split])]
    valid = held.pop(0) if len(held) == 2 and train is not None else None
    return Source(
        name,
        layout,
        class_names,
        train,
        held[0] if held else None,
        in_order=in_order,
        valid=valid,
        names_splits="all" not in parts,
        no_test=no_test,
    )


def place_among(ends: np.ndarray, index: int) -> tuple[int, int]:
    """(table, place in it) of an index over several tables, one after the other.

    Args:
        ends: the index behind the last one of each table, ascending.
    """
    table = int(np.searchsorted(ends, index, side="right"))
    return table, index - (int(ends[table - 1]) if table else 0)


class JoinedExamples:
    """The examples of several tables, one table after the other."""

    def __init__(self, *tables: Examples):
        self._tables = tables
        self._ends = np.cumsum([len(table) for table in tables])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int) -> tuple[Examples, int]:
        number, place = place_among(self._ends, index)
        return self._tables[number], place

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        found: list[bytes | OSError] = [b""] * len(indices)
        for table in self._tables:
            here = [(k, place[1]) for k, index in enumerate(indices) if (place := self._place(index))[0] is table]
            contents = table.read([index for _, index in here])
            for (k, _), content in zip(here, contents, strict=True):
                found[k] = content
        return found

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        table, place = self._place(index)
        return table.parse(place, content)

    def name(self, index: int) -> str:
        table, place = self._place(index)
        return table.name(place)

    def labels(self) -> np.ndarray:
        return np.concatenate([table.labels() for table in self._tables])

    def file_ids(self) -> Iterable[tuple[int, str]]:
        return itertools.chain.from_iterable(table.file_ids() for table in self._tables)

    def identity(self) -> str:
        return digest(*(table.identity() for table in self._tables))

    def fingerprint(self, indices: np.ndarray) -> str:
        bounds = np.concatenate([[0], self._ends])
        parts = [
            table.fingerprint(indices[(indices >= bounds[k]) & (indices < bounds[k + 1])] - bounds[k])
            for k, table in enumerate(self._tables)
        ]
        return digest(np.ascontiguousarray(indices, "<i8").tobytes(), *parts)

    def read_groups(self) -> np.ndarray | None:
        groups = [table.read_groups() for table in self._tables]
        if all(each is None for each in groups):
            return None
        found, first = [], 0
        for table, each in zip(self._tables, groups, strict=True):
            each = np.arange(len(table)) if each is None else each
            found.append(each + first)
            first += int(each[-1]) + 1 if len(each) else 0
        return np.concatenate(found)


def digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits that depend on every part and on where one ends."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little") + content)
    return total.hexdigest()


def stem(file_name: str) -> str:
    """The file's name without directory and without an image's extension."""
    base = file_name.replace("\\", "/").rpartition("/")[2]
    front, dot, extension = base.rpartition(".")
    return front if dot and f".{extension.lower()}" in IMAGE_EXTENSIONS else base
