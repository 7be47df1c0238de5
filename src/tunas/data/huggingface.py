"""Datasets of the Hugging Face hub: parquet files as the hub has them, and what `save_to_disk` writes (Arrow files).
Read without the `datasets` package."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunas.data.arrow import Columns, image_column, image_paths, rows_and_labels
from tunas.data.examples import BadImageError, Source, digest, place_among, source_of, stem
from tunas.data.index import shards_key
from tunas.data.labels import classes_of
from tunas.data.order import WINDOW, windows
from tunas.data.progress import progress
from tunas.data.shared import SharedArrays
from tunas.data.split_names import files_by_split, split_of_word
from tunas.data.storage import asked, concurrently, is_remote, join, list_names, read_json_object, storage_error
from tunas.data.webdataset import matching_files
from tunas.errors import InputError

PARQUET = ".parquet"
STATE, SPLITS = "state.json", "dataset_dict.json"
"""Of `save_to_disk`: for one split, and the list of several."""
KEPT_ROWS = 2 * WINDOW + 500
"""Rows whose row groups a process keeps: a window of the order and most of the next one."""
FEW_CLASSES = 4
"""Where row groups hold this many times fewer classes than they could, the rows are sorted by class."""
log = logging.getLogger("tunas.data")


class ArrowExamples:
    """Rows of parquet or Arrow files. A row group is read as a whole and kept for a while; an Arrow file is mapped.

    Args:
        files: paths.
        groups: int64 `[row groups, 3]`: file, number of the row group in it, rows. Of an Arrow file, the whole file.
        labels: int `[rows]`.
        columns: what to read.
        class_names: in the order of the labels.
    """

    def __init__(
        self, files: Sequence[str], groups: np.ndarray, labels: np.ndarray, columns: Columns, class_names: Sequence[str]
    ):
        self._files = list(files)
        self._groups = groups
        self._ends = np.cumsum(groups[:, 2])
        self._columns = columns
        self._class_names = tuple(class_names)
        self._tables = SharedArrays(labels=np.asarray(labels, np.int32))
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return len(self._tables["labels"])

    def _place(self, index: int) -> tuple[int, int]:
        """(row group of the table, row in it)."""
        return place_among(self._ends, index)

    def name(self, index: int) -> str:
        group, row = self._place(index)
        file, number, _ = self._groups[group]
        first = self._groups[(self._groups[:, 0] == file) & (self._groups[:, 1] < number), 2].sum()
        return f"row {first + row} of {self._files[file]}"

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        places = [self._place(index) for index in indices]
        found: list[bytes | OSError] = [b""] * len(places)
        for k in sorted(range(len(places)), key=lambda k: places[k]):
            group, row = places[k]
            try:
                found[k] = self._images(group)[row].as_py() or b""
            except OSError as error:
                found[k] = error
        return found

    def _images(self, group: int) -> Any:
        """The encoded images of a row group, a pyarrow array of bytes."""
        if group in self._open:
            self._open.move_to_end(group)
            return self._open[group]
        file, number, _ = self._groups[group].tolist()
        images = asked(lambda: image_column(self._files[file], number, self._columns))
        self._open[group] = images
        if not self._files[file].endswith(".arrow"):
            while len(self._open) > 1 and sum(map(len, self._open.values())) > KEPT_ROWS:
                self._open.popitem(last=False)
        return images

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        if not content:
            raise BadImageError("the row holds no image bytes")
        return content, int(self._tables["labels"][index])

    def labels(self) -> np.ndarray:
        return self._tables["labels"]

    def file_ids(self) -> list[tuple[int, str]]:
        """By the paths beside the images, where all have one; otherwise by number."""
        paths = [path for file in self._files for path in image_paths(file, self._columns)]
        names = [stem(path) for path in paths if path]
        if len(names) < len(self):
            names = [str(index) for index in range(len(self))]
        return list(zip(self._tables["labels"].tolist(), names, strict=True))

    def identity(self) -> str:
        names = (path.rpartition("/")[2] for path in self._files)
        return digest(*names, np.ascontiguousarray(self._groups).tobytes(), self._tables["labels"].tobytes())

    def fingerprint(self, indices: np.ndarray) -> str:
        labels = np.ascontiguousarray(self._tables["labels"][indices])
        return digest(
            shards_key("arrow", self._files), np.ascontiguousarray(indices, "<i8").tobytes(), labels.tobytes()
        )

    def read_groups(self) -> np.ndarray | None:
        if all(path.endswith(".arrow") for path in self._files):
            return None
        return np.repeat(np.arange(len(self._groups)), self._groups[:, 2])


def parquet_files(dataset_dir: str) -> list[str]:
    """Parquet files in a directory, in data/ or directories of splits below it, or that a pattern leads to."""
    if found := [path for path in matching_files(dataset_dir, (PARQUET,)) if path.endswith(PARQUET)]:
        return found
    for inner in ("data", "default"):
        if found := [path for path in matching_files(join(dataset_dir, inner), (PARQUET,)) if path.endswith(PARQUET)]:
            return found
    return []


def looks_like_saved(dataset_dir: str) -> bool:
    """Whether `save_to_disk` wrote the directory."""
    return bool({STATE, SPLITS} & set(list_names(dataset_dir)))


def open_parquet(dataset_dir: str) -> Source:
    """The dataset in parquet files.

    Raises:
        InputError: where pyarrow is not installed, only some files name a split, or columns are missing.
    """
    files = parquet_files(dataset_dir)
    if not files:
        raise InputError(f"{dataset_dir} leads to no parquet files")
    return _source(_title(dataset_dir), files_by_split(files))


def open_saved(dataset_dir: str) -> Source:
    """The dataset that `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Raises:
        InputError: where pyarrow is not installed, or files are missing or damaged.
    """
    if is_remote(dataset_dir):
        raise InputError(f"Arrow files must lie on this machine, unlike {dataset_dir}; parquet files need not")
    root = Path(dataset_dir)
    if (root / SPLITS).exists():
        listed = read_json_object(str(root / SPLITS)).get("splits")
        splits = {str(name): root / str(name) for name in listed} if isinstance(listed, list) else {}
    else:
        splits = {"all": root}
    by_split: dict[str, list[str]] = {}
    for name, directory in splits.items():
        split = "all" if name == "all" else split_of_word(name)
        if split is None:
            log.warning("the split %r of %s is not read", name, root)
            continue
        try:
            files: Any = read_json_object(str(directory / STATE))["_data_files"]
            by_split[split] = [str(directory / os.path.basename(file["filename"])) for file in files]
        except (KeyError, TypeError):
            raise InputError(f"{directory / STATE} lists no data files") from None
    return _source(_title(dataset_dir), by_split)


def _source(title: str, by_split: dict[str, list[str]]) -> Source:
    """The dataset in files of rows, split by split."""
    read = {split: _read_tables(split, files) for split, files in by_split.items()}
    read = {split: part for split, part in read.items() if len(part[1])}
    if not read:
        raise InputError(f"{title} holds no rows")
    no_test = ""
    for split in ("valid", "test"):
        if split in read and all(text == "-1" for text in np.unique(read[split][1])):
            no_test = f"the split {split} of {title} is not read: its images have no labels"
            del read[split]
    columns = next(iter(read.values()))[2]
    where = next(iter(by_split.values()))[0]
    if columns.class_names is not None:
        class_names = columns.class_names
        labels = {split: _numbers(texts, len(class_names), where) for split, (_, texts, _) in read.items()}
        if differing := next((s for s, (_, _, c) in read.items() if c.class_names != class_names), None):
            raise InputError(f"the {differing} files of {title} name other classes, or in another order, than {where}")
    else:
        class_names, found = classes_of([texts for _, texts, _ in read.values()], where)
        labels = dict(zip(read, found, strict=True))
    parts = {
        split: ArrowExamples(by_split[split], groups, labels[split], each, class_names)
        for split, (groups, _, each) in read.items()
    }
    if (train := parts.get("train", parts.get("all"))) is not None:
        _warn_where_sorted(title, train, len(class_names))
    return source_of(title, "huggingface", class_names, parts, no_test=no_test)


def _warn_where_sorted(title: str, train: ArrowExamples, classes: int) -> None:
    """Says where images that are read together are of few classes, because batches then are too (see `order.py`)."""
    groups = train.read_groups()
    if groups is None or windows(groups) is None:
        return
    pairs = len(np.unique(groups * classes + train.labels()))
    rows = len(groups) / (groups[-1] + 1)
    possible = min(classes, rows)
    if possible >= 2 and pairs / (groups[-1] + 1) <= max(1.5, possible / FEW_CLASSES):
        log.warning(
            "the rows of %s are sorted by class, and so are batches of them: shuffle the dataset before it is written, "
            "or write it with save_to_disk",
            title,
        )


def _numbers(texts: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels that are numbers of classes, of which there are `count`."""
    try:
        labels = texts.astype(np.int64)
    except ValueError:
        raise InputError(f"the labels of {where} are not the numbers that its metadata says") from None
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"a label of {where} is {wrong}; its metadata names {count} classes, from 0 to {count - 1}")
    return labels


def _read_tables(split: str, files: Sequence[str]) -> tuple[np.ndarray, np.ndarray, Columns]:
    """(row groups as `ArrowExamples` has them, labels as text, columns) of the files of a split."""
    with progress(f"indexing {split}", len(files)) as advance:

        def table(path: str) -> tuple[list[int], np.ndarray, Columns]:
            try:
                found = asked(lambda: rows_and_labels(path))
            except OSError as error:
                raise storage_error(path, error) from None
            advance(1)
            return found

        read = concurrently(table, files)
    groups = [(file, number, rows) for file, (counts, _, _) in enumerate(read) for number, rows in enumerate(counts)]
    texts = [texts for _, texts, _ in read if len(texts)]
    columns = read[0][2]
    for path, (_, _, other) in zip(files, read, strict=True):
        if other != columns:
            raise InputError(f"{path} has other columns or class names than {files[0]}")
    return np.array(groups, np.int64).reshape(-1, 3), np.concatenate(texts) if texts else np.empty(0, np.str_), columns


def _title(dataset_dir: str) -> str:
    """What to call a dataset: its directory's name, unless that is a pattern."""
    name = dataset_dir.rstrip("/").rpartition("/")[2]
    return name if name and not any(sign in name for sign in "*?[{") else "huggingface"
