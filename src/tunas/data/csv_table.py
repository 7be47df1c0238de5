"""A table of file names and labels: a CSV file of one's own, or metadata.csv / metadata.jsonl beside the images, as
Hugging Face's imagefolder has it."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunas.data.examples import Source, source_of
from tunas.data.file_table import FileExamples
from tunas.data.labels import classes_of
from tunas.data.split_names import WORDS, named_splits, split_of_word
from tunas.data.storage import json_object, read_text
from tunas.errors import InputError

METADATA = ("metadata.csv", "metadata.jsonl")
EXTENSIONS = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "filepath",
    "file_path",
    "path",
    "image",
    "image_path",
    "name",
    "image_id",
    "id",
)
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category", "target", "labels", "class_id", "label_id")
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "data_set", "data set")
"""Names of the columns of files, labels and splits; the first that is there counts, in upper or lower case."""


class Row(NamedTuple):
    """One image: its path below the table's directory, label as text, and split, `all` where none is named."""

    path: str
    label: str
    split: str


def metadata_files(root: Path) -> list[Path]:
    """The metadata file of a directory, or those of its splits' directories, which must have a label column."""
    paths = _metadata_in(root)[:1] or [path for place in _split_places(root) for path in _metadata_in(place)]
    return paths if all(_has_labels(path) for path in paths) else []


def _metadata_in(directory: Path) -> list[Path]:
    return [directory / name for name in METADATA if (directory / name).is_file()]


def open_table(path: Path) -> Source:
    """The dataset in a CSV, TSV or JSON Lines file.

    Raises:
        InputError: where columns are missing, a file is listed twice or is not there, or a split's name is unknown.
    """
    return _source(path.resolve().stem, path.parent, [(path, "")])


def open_metadata(root: Path) -> Source:
    """The dataset of an imagefolder with metadata files; the splits' directories name the splits."""
    return _source(
        root.resolve().name, root, [(path, os.path.relpath(path.parent, root)) for path in metadata_files(root)]
    )


def _source(title: str, root: Path, tables: Sequence[tuple[Path, str]]) -> Source:
    """The dataset in tables of (path, directory below `root` that the paths in it are relative to)."""
    by_split: dict[str, list[Row]] = {}
    for path, below in tables:
        for row in _rows(path):
            place = os.path.normpath(os.path.join(below, row.path))
            split = row.split if row.split != "all" else split_of_word(place.split(os.sep)[0]) or "all"
            by_split.setdefault(split, []).append(row._replace(path=place))
    where = str(tables[0][0])
    if len(by_split) > 1 and "all" in by_split:
        raise InputError(
            f"{where} names a split for some images but none for others, such as {by_split['all'][0].path}"
        )
    if not by_split:
        raise InputError(f"{where} lists no images")
    class_names, labels = classes_of([[row.label for row in rows] for rows in by_split.values()], where)
    parts = {
        split: _examples(where, root, rows, part, class_names)
        for (split, rows), part in zip(by_split.items(), labels, strict=True)
    }
    return source_of(title, "csv", class_names, parts)


def _examples(
    where: str, root: Path, rows: Sequence[Row], labels: np.ndarray, class_names: Sequence[str]
) -> FileExamples:
    """The images of a split, ordered by class and then by path, as class folders are.

    Raises:
        InputError: where a file is listed twice, or is not there.
    """
    order = sorted(range(len(rows)), key=lambda k: (int(labels[k]), rows[k].path))
    numbers: dict[str, int] = {}
    places = []
    for k in order:
        directory, _, name = rows[k].path.rpartition(os.sep)
        places.append((numbers.setdefault(directory, len(numbers)), os.fsencode(name)))
    paths = sorted(row.path for row in rows)
    if twice := next((a for a, b in itertools.pairwise(paths) if a == b), None):
        raise InputError(f"{where} lists {twice} more than once")
    known = {directory: _names_in(root / directory) for directory in numbers}
    missing = [path for path in paths if path.rpartition(os.sep)[2] not in known[path.rpartition(os.sep)[0]]]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(rows)} files that {where} lists are not there, such as {root / missing[0]}; paths "
            f"are relative to the directory of the list"
        )
    return FileExamples(str(root), list(numbers), places, labels[order], class_names)


def _names_in(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a table, each with a file and a label."""
    for number, row in enumerate(_records(path), start=1):
        name, label = (_value(row, columns) for columns in (FILE_COLUMNS, LABEL_COLUMNS))
        if not name or label is None or not label.strip():
            raise InputError(
                f"row {number} of {path} has no {'file name' if not name else 'label'}; columns are found by name, "
                f"such as file_name and label"
            )
        split = (_value(row, SPLIT_COLUMNS) or "").strip()
        canonical = split_of_word(split) if split else "all"
        if canonical is None:
            raise InputError(f"row {number} of {path} is of split {split!r}; known are {', '.join(WORDS)}")
        yield Row(name.strip(), label.strip(), canonical)


def _value(row: Mapping[str, str], columns: Sequence[str]) -> str | None:
    return next((row[column] for column in columns if column in row), None)


def _records(path: Path) -> Iterator[dict[str, str]]:
    """Rows by lower-case column name."""
    text = read_text(str(path))
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                row = json_object(line, f"line {number} of {path}")
                yield {name.lower(): str(value) for name, value in row.items() if isinstance(value, str | int | float)}
        return
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=_delimiter(header), skipinitialspace=True)
    columns = {(column or "").strip().lower() for column in reader.fieldnames or ()}
    for kind, known in (("file names", FILE_COLUMNS), ("labels", LABEL_COLUMNS)):
        if not columns & set(known):
            raise InputError(
                f"{path} has no column of {kind}: it has {', '.join(sorted(columns)) or 'none'}; name one of them "
                f"{known[0]}"
            )
    for row in reader:
        if any(row.values()):
            yield {(name or "").strip().lower(): value or "" for name, value in row.items() if isinstance(value, str)}


def _has_labels(path: Path) -> bool:
    """Whether there is a column of labels; captions and the like have none, and then directories are the classes."""
    if path.suffix == ".jsonl":
        row = next(_records(path), {})
        return bool(set(row) & set(LABEL_COLUMNS))
    header = read_text(str(path)).partition("\n")[0]
    return bool({name.strip().strip('"').lower() for name in header.split(_delimiter(header))} & set(LABEL_COLUMNS))


def _delimiter(header: str) -> str:
    return max(",;\t|", key=header.count)


def _split_places(root: Path) -> list[Path]:
    """The directories in a directory that are named like splits."""
    try:
        names = [name for name in sorted(os.listdir(root)) if (root / name).is_dir()]
    except OSError:
        return []
    return [root / name for name in named_splits(names, str(root)).values()]
