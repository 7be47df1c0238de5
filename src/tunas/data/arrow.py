"""Parquet and Arrow files of labelled images, read by pyarrow, an optional extra."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tunas.data.storage import DamagedFileError, is_remote, open_binary, state_of
from tunas.errors import InputError

IMAGE_COLUMNS = ("image", "img", "picture", "images", "image_bytes", "bytes", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "class_name", "target", "cls")
"""Names of columns; the first that is there counts where there are several of the right kind."""


class Columns(NamedTuple):
    """Where images and labels are in a file.

    Args:
        image, label: what the columns are called.
        is_struct: whether images are structures of `bytes` and perhaps a `path`.
        class_names: in the order of the labels, where the file's own metadata lists them.
    """

    image: str
    label: str
    is_struct: bool
    class_names: tuple[str, ...] | None


def rows_and_labels(path: str) -> tuple[list[int], np.ndarray, Columns]:
    """(rows of every row group, labels as text, columns) of a file."""
    _require_pyarrow(path)
    import pyarrow as pa

    try:
        if path.endswith(".arrow"):
            table = _mapped_table(path)
            columns = _columns(path, table.schema)
            return [len(table)], _texts(path, table.column(columns.label)), columns
        file = _parquet(path)
        columns = _columns(path, file.schema_arrow)
        labels = file.read([columns.label], use_threads=False).column(columns.label)
        rows = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        return rows, _texts(path, labels), columns
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is damaged, or no parquet or Arrow file: {str(error).splitlines()[0]}") from None


def _texts(path: str, column: Any) -> np.ndarray:
    """The labels in a column, as text."""
    import pyarrow as pa

    if column.null_count:
        raise InputError(f"{column.null_count} rows of {path} have no label")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(), dtype=np.str_)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.asarray(column.cast(pa.string()).to_numpy(zero_copy_only=False), dtype=np.str_)
    raise InputError(f"the labels of {path} are of type {column.type}; whole numbers or names are read")


def _columns(path: str, schema: Any) -> Columns:
    """The columns of images and of labels: by the file's own metadata, or else by type and name."""
    import pyarrow as pa

    features = _features(schema)
    kinds = {field.name: field.type for field in schema}

    def is_struct(kind: Any) -> bool:
        return pa.types.is_struct(kind) and any(child.name == "bytes" for child in kind)

    def is_bytes(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    images = [name for name, feature in features.items() if _type(feature) == "Image" and name in kinds]
    images = images or [name for name, kind in kinds.items() if is_struct(kind)]
    images = images or [name for name, kind in kinds.items() if is_bytes(kind)]
    labels = [name for name, feature in features.items() if _type(feature) == "ClassLabel" and name in kinds]
    labels = labels or [name for name in LABEL_COLUMNS if name in kinds]
    image = _chosen(path, "images", images, IMAGE_COLUMNS, kinds)
    label = _chosen(path, "labels", labels, LABEL_COLUMNS, kinds)
    if not is_struct(kinds[image]) and not is_bytes(kinds[image]):
        raise InputError(f"the column {image!r} of {path} is of type {kinds[image]}, which holds no encoded images")
    names = features.get(label, {}).get("names")
    class_names = tuple(map(str, names)) if isinstance(names, list) and names else None
    return Columns(image, label, is_struct(kinds[image]), class_names)


def _chosen(path: str, what: str, found: Sequence[str], preferred: Sequence[str], kinds: dict[str, Any]) -> str:
    """The only one of the columns found, or the first that is called as preferred."""
    if len(found) == 1:
        return found[0]
    if name := next((name for name in preferred if name in found), None):
        return name
    raise InputError(
        f"{path} must have one column of {what}, or one called {preferred[0]!r}; it has "
        f"{', '.join(f'{name} ({kind})' for name, kind in kinds.items())}"[:300]
    )


def _features(schema: Any) -> dict[str, Any]:
    """What the `datasets` package notes in the schema of its files: a description by column."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return found if isinstance(found, dict) else {}
    except (KeyError, ValueError, TypeError):
        return {}


def _type(feature: Any) -> str:
    return str(feature.get("_type")) if isinstance(feature, dict) else ""


def image_column(path: str, number: int, columns: Columns) -> Any:
    """The encoded images of a row group, or of a whole Arrow file, as a pyarrow array of bytes."""
    import pyarrow as pa

    try:
        if path.endswith(".arrow"):
            column = _mapped_table(path).column(columns.image)
        else:
            wanted = f"{columns.image}.bytes" if columns.is_struct else columns.image
            column = _parquet(path).read_row_group(number, [wanted], use_threads=False).column(columns.image)
    except pa.ArrowInvalid as error:
        raise DamagedFileError(f"it is damaged: {str(error).splitlines()[0]}") from None
    if not columns.is_struct:
        return column
    return pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])


def image_paths(path: str, columns: Columns) -> list[str | None]:
    """The file names that the images of a file once had; nothing where the file does not say."""
    if not columns.is_struct:
        return []
    if path.endswith(".arrow"):
        column = _mapped_table(path).column(columns.image)
    else:
        file = _parquet(path)
        if all(field.name != "path" for field in file.schema_arrow.field(columns.image).type):
            return []
        column = file.read([f"{columns.image}.path"], use_threads=False).column(columns.image)
    if all(field.name != "path" for field in column.type):
        return []
    return [name for chunk in column.chunks for name in chunk.field("path").to_pylist()]


def _parquet(path: str) -> Any:
    """The parquet file, opened once in this process as long as it stays the same."""
    import pyarrow.parquet as pq

    state = "" if is_remote(path) else state_of(path)
    if path not in _opened or _opened[path][0] != state:
        source = open_binary(path) if is_remote(path) else path
        _opened[path] = state, pq.ParquetFile(source, memory_map=not is_remote(path), pre_buffer=False)
    return _opened[path][1]


def _mapped_table(path: str) -> Any:
    """The table in an Arrow file of either kind, mapped into memory."""
    import pyarrow as pa

    with pa.memory_map(path) as file:
        try:
            return pa.ipc.open_stream(file).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(file).read_all()


_opened: dict[str, tuple[str, Any]] = {}
"""Parquet files of this process with their states, whose footers need not be read again."""


def _forget() -> None:
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a position in a file is not to be shared


def _require_pyarrow(path: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(f"{path} is read by pyarrow: pip install 'tunas-torch[huggingface]'") from None
