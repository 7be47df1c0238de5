"""What an architecture costs: a bias plus table look-ups, many architectures at a time
(docs/algorithm.md#cost-models)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from tunas.errors import InputError
from tunas.files import read_json, write_text
from tunas.space import ALL, OP, Architecture, Space, get_space

FORMAT = "tunas-cost-model"
VERSION = 2
"""Since 2 a model carries a checksum; files of version 1, which had none, are still read."""
CHECKSUM = "checksum"
CHUNK = 4096
"""Architectures priced at a time, so that memory stays bounded and the work stays in cache."""
EXACT_FLOAT32 = 2**24
"""Integers up to this size are exact in float32."""


@dataclass(frozen=True, eq=False)
class CostTerm:
    """One table of a cost model.

    Args:
        positions: the OneOfs that pick an entry, by position in the space; none twice.
        values: cost in the model's unit, one axis per position, as long as that OneOf has choices.
        path: where in the tower the cost comes from, for people.
    """

    positions: tuple[int, ...]
    values: np.ndarray
    path: str = ""


class CostModel:
    """Cost of any architecture of a space: `bias` plus one entry of every term.

    Args:
        space: whose architectures it prices.
        bias: cost that every architecture has.
        terms: the tables.
        unit: what the numbers are, e.g. `ms`.
        device: what was measured.
        provenance: anything JSON can hold that says where the numbers come from.

    Raises:
        InputError: where a term does not fit the space, or a number is not finite.
    """

    def __init__(
        self,
        space: Space,
        bias: float,
        terms: Sequence[CostTerm],
        unit: str = "ms",
        device: str = "",
        provenance: Mapping[str, Any] | None = None,
    ):
        self.space = space
        self.bias = float(bias)
        self.terms = tuple(
            CostTerm(tuple(map(int, t.positions)), np.asarray(t.values, np.float64), t.path) for t in terms
        )
        self.unit = unit
        self.device = device
        self.provenance = dict(provenance or {})
        if not math.isfinite(self.bias):
            raise InputError(f"the bias of a cost model must be a finite number, not {self.bias}")
        for number, term in enumerate(self.terms):
            _check_term(term, space, f"term {number} ({term.path})" if term.path else f"term {number}")

        is_op = np.array([point.oneof.tag == OP for point in space.points], bool)
        self._lowest = np.where(is_op, ALL, 0)
        self._choices = np.array(space.sizes, np.int64) - self._lowest
        extended = [_with_mean_entries(term, is_op) for term in self.terms]
        strides = np.zeros((space.num_choices, len(self.terms)))
        for number, (term, table) in enumerate(zip(self.terms, extended, strict=True)):
            strides[list(term.positions), number] = np.array(table.strides) // table.itemsize
        largest = max((table.size for table in extended), default=0)
        self._strides = strides.astype(np.float32 if largest < EXACT_FLOAT32 else np.float64)
        starts = np.cumsum([0, *(table.size for table in extended)])[:-1]
        starts = starts - self._lowest @ strides  # the lowest index of every axis is its entry 0
        self._starts = starts.astype(np.int64)
        self._entries = np.concatenate([table.ravel() for table in extended]) if extended else np.zeros(0)

    def __repr__(self) -> str:
        return f"CostModel({self.space.name!r}, {len(self.terms)} terms, unit={self.unit!r}, device={self.device!r})"

    @overload
    def estimate(self, architectures: Architecture) -> float: ...
    @overload
    def estimate(self, architectures: np.ndarray) -> np.ndarray: ...
    def estimate(self, architectures: Architecture | np.ndarray) -> float | np.ndarray:
        """Cost in `unit`: one architecture -> float; an int array `[N, num_choices]` -> float64 array `[N]`.

        In an array, `ALL` (-1) in place of an OP index means every choice at once: the tables are averaged over that
        axis (docs/algorithm.md#cost-models), so a table of several enabled OneOfs is averaged under the product of
        their masks.

        Raises:
            InputError: where the architecture is of another space, or the array has a wrong type, shape or index.
        """
        if isinstance(architectures, Architecture):
            if architectures.space != self.space:
                raise InputError(
                    f"this cost model prices {self.space.name}, not architectures of {architectures.space.name}"
                )
            return float(self.estimate(np.array([architectures.indices], np.int64).reshape(1, -1))[0])
        indices = np.asarray(architectures)
        if indices.dtype.kind not in "iu":
            raise InputError(f"architectures are arrays of integers, not of {indices.dtype}")
        if indices.ndim != 2 or indices.shape[1] != self.space.num_choices:
            expected = f"[N, {self.space.num_choices}]"
            raise InputError(
                f"architectures of {self.space.name} are an array of shape {expected}, not {list(indices.shape)}"
            )
        costs = np.empty(len(indices))
        for start in range(0, len(indices), CHUNK):
            chunk = indices[start : start + CHUNK]
            self._check_range(chunk, start)
            entries = (chunk.astype(self._strides.dtype) @ self._strides).astype(np.int64)
            entries += self._starts
            costs[start : start + CHUNK] = self._entries[entries].sum(axis=1)
        return costs + self.bias

    def _check_range(self, indices: np.ndarray, first_row: int) -> None:
        """Refuses an index that a OneOf has not; `first_row` is the number of the first architecture."""
        # what lies below the lowest index wraps around to a huge number: one comparison instead of two
        offsets = np.subtract(indices, self._lowest, dtype=np.int64, casting="unsafe").view(np.uint64)
        wrong = offsets >= self._choices.view(np.uint64)
        if wrong.any():
            row, position = map(int, np.argwhere(wrong)[0])
            point = self.space.points[position]
            also = " (or -1 for all of them)" if point.oneof.tag == OP else ""
            raise InputError(
                f"index {indices[row, position]} of architecture {first_row + row} at position {position} "
                f"({point.path}) is out of range: "
                f"{self.space.name} has {point.size} choices there, 0 to {point.size - 1}{also}"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as JSON. A reader sees the old file or the whole new one, never a part."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "ssd": self.space.name,
            "sizes": list(self.space.sizes),
            "unit": self.unit,
            "device": self.device,
            "provenance": self.provenance,
            "bias": self.bias,
            "terms": [
                {
                    "path": term.path,
                    "positions": list(term.positions),
                    "shape": list(term.values.shape),
                    "values": term.values.ravel().tolist(),
                }
                for term in self.terms
            ],
        }
        write_text(path, json.dumps({**document, CHECKSUM: checksum_of(document)}, allow_nan=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: Space | str) -> CostModel:
        """The model that `save` wrote, for the space that it was saved for.

        Raises:
            InputError: where the file cannot be read, is not a cost model, belongs to another space or holds wrong
                values, naming the file and the place.
        """
        space = get_space(space) if isinstance(space, str) else space
        document = _read_document(path)
        if document.get("format") != FORMAT:
            raise InputError(f"{path} is not a cost model: its 'format' must be {FORMAT!r}")
        if document.get("version") not in (1, VERSION):
            raise InputError(
                f"{path}: the cost model has version {document.get('version')!r}; this program reads version {VERSION}"
            )
        checksum = document.pop(CHECKSUM, None)
        if checksum != (None if document["version"] == 1 else checksum_of(document)):
            raise InputError(
                f"{path} is damaged or was changed after it was written: its checksum does not match; fit it again, or "
                f"restore a copy"
            )
        if document.get("ssd") != space.name:
            raise InputError(f"{path}: the cost model is for {document.get('ssd')!r}, not for {space.name}")
        if document.get("sizes") != list(space.sizes):
            raise InputError(
                f"{path}: 'sizes' does not match {space.name}; the space has changed since the cost model was made"
            )
        provenance = document.get("provenance", {})
        terms = document.get("terms")
        if not isinstance(provenance, dict):
            raise InputError(f"{path}: 'provenance' must be an object")
        if not isinstance(terms, list):
            raise InputError(f"{path}: 'terms' must be a list")
        read = [_term_from_json(term, f"{path}: terms/{number}") for number, term in enumerate(terms)]
        text = {name: _typed(document.get(name), str, f"{path}: {name!r}") for name in ("unit", "device")}
        try:
            return cls(space, _number(document.get("bias"), f"{path}: 'bias'"), read, provenance=provenance, **text)
        except InputError as error:
            raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def checksum_of(document: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, however they are laid out in a file."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _check_term(term: CostTerm, space: Space, where: str) -> None:
    """Refuses a table that does not fit the space, or holds a number that is not finite."""
    for position in term.positions:
        if not 0 <= position < space.num_choices:
            raise InputError(
                f"{where}: there is no position {position} in {space.name}, which has {space.num_choices} OneOfs"
            )
    if len(set(term.positions)) != len(term.positions):
        raise InputError(f"{where}: a position is named twice in {list(term.positions)}")
    shape = tuple(space.sizes[position] for position in term.positions)
    if term.values.shape != shape:
        raise InputError(
            f"{where}: the table has shape {list(term.values.shape)}, but its positions have {list(shape)} choices"
        )
    if not np.isfinite(term.values).all():
        raise InputError(f"{where}: the table holds a value that is not finite")


def _with_mean_entries(term: CostTerm, is_op: np.ndarray) -> np.ndarray:
    """The table in which every OP axis starts with one more entry, the mean, which `ALL` picks."""
    table = term.values
    for axis, position in enumerate(term.positions):
        if is_op[position]:
            table = np.concatenate([table.mean(axis=axis, keepdims=True), table], axis=axis)
    return np.ascontiguousarray(table)


def _read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    document = read_json(path, "the cost model")
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a cost model: it must hold an object")
    return document


def _term_from_json(term: Any, where: str) -> CostTerm:
    """The table that an entry of `terms` describes."""
    _typed(term, dict, where)
    positions = [
        _integer(position, f"{where}/positions")
        for position in _typed(term.get("positions"), list, f"{where}/positions")
    ]
    shape = [_integer(size, f"{where}/shape") for size in _typed(term.get("shape"), list, f"{where}/shape")]
    values = [
        _number(value, f"{where}/values/{i}")
        for i, value in enumerate(_typed(term.get("values"), list, f"{where}/values"))
    ]
    if any(size < 0 for size in shape) or math.prod(shape) != len(values):
        raise InputError(f"{where}: {len(values)} values cannot fill a table of shape {shape}")
    return CostTerm(
        tuple(positions), np.array(values).reshape(shape), _typed(term.get("path", ""), str, f"{where}/path")
    )


def _typed(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        name = {"dict": "an object", "list": "a list", "str": "text"}[kind.__name__]
        raise InputError(f"{where} must be {name}, not {type(value).__name__}")
    return value


def _integer(value: Any, where: str) -> int:
    if type(value) is not int:
        raise InputError(f"{where} must hold integers, not {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{where} must be a finite number, not {value!r}")
    return float(value)


def with_unit(cost: float | None, unit: str, digits: int = 4) -> str:
    """A cost in words, such as `56.58 ms` or `3,932,560 parameters`; no words for None.

    Args:
        digits: significant ones, of costs below a million.
    """
    if cost is None:
        return ""
    return f"{f'{cost:.{digits}g}' if cost < 1e6 else f'{cost:,.0f}'} {unit}".rstrip()
