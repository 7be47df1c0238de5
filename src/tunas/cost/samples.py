"""Measured architectures as CSV rows: drawn, written, read back and checked."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.errors import InputError
from tunas.space import Architecture, Space, active_positions

if TYPE_CHECKING:
    from tunas.cost.additive import PeakCost
    from tunas.cost.model import CostModel
    from tunas.cost.own import FunctionCost

REQUIRED = ("ssd", "indices", "milliseconds")
SETUP = ("backend", "version", "device", "image_size", "num_classes", "threads", "clock", "statistic")
"""Columns that must not change within a file: times of different set-ups are different quantities."""
TIMES = ("milliseconds", "spread", "half_difference")
"""Columns that are milliseconds."""
LOWER_DECILE = "lower decile"
"""What `tunas.cost.timing.latency` takes over the rounds."""
REFERENCES = 10
"""Samples that are measured again in turn with others, to tell by how much the device's speed has changed."""
TRIES = 1000
"""Networks drawn in a row that were all drawn before, after which hardly any other is left."""


@dataclass(frozen=True)
class Sample:
    """One measured architecture; the fields are the columns of the CSV.

    Args:
        ssd: the space.
        indices: colon-separated, with 0 wherever an index is not in use.
        backend, version, device: what ran it, of which version, and on what.
        image_size: pixels along one side; the batch is one image.
        num_classes: outputs of the classifier.
        threads: how many the backend was allowed.
        clock: `wall`, or `processor` where only the time counts that the process itself ran.
        statistic: which of its turns a network counts with: `LOWER_DECILE`, or nothing in files of before, where it was
            the median of them.
        milliseconds: latency, that statistic over rounds of the median over a round's runs.
        spread: interquartile range of the single runs, in milliseconds.
        half_difference: between the latency that only odd and only even rounds give, in milliseconds; half of it is
            about the error that is left in the latency.
        rounds, repeats: how often the network's turn came, and how many runs were timed in each turn.
        slowdown: time that the file's first networks took in turn with this one, over the time that they took at first.
            The times above are divided by it already: they are those of the device at the speed that it had for the
            first rows.
    """

    ssd: str
    indices: str
    backend: str = ""
    device: str = ""
    image_size: int | None = None
    threads: int | None = None
    clock: str = ""
    milliseconds: float = math.nan
    spread: float | None = None
    half_difference: float | None = None
    rounds: int | None = None
    repeats: int | None = None
    slowdown: float | None = None
    num_classes: int | None = None
    version: str = ""
    statistic: str = ""

    def divided_by(self, slowdown: float) -> Sample:
        """The same measurement, had the device been that many times as fast."""
        scaled = {name: value / slowdown for name in TIMES if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **scaled, slowdown=slowdown)


COLUMNS = tuple(field.name for field in dataclasses.fields(Sample))
CHECKSUM = "checksum"
"""Last column of what `tunas measure` wrote: of the row's other cells. Rows that somebody filled in have none."""
HEADER = (*COLUMNS, CHECKSUM)


def draw_architectures(space: Space, seed: int = 0) -> Iterator[Architecture]:
    """Different networks without end, or until hardly any is left, pruned; the first n never depend on how many follow.

    Every other one is drawn uniformly. Those in between are stratified: from the outermost OneOf inwards, each takes
    the choice that has been in use least often so far, so that rare choices (inside a choice, inside a choice) come up
    as often as their parents allow.
    """
    rng = np.random.default_rng(seed)
    used = [np.zeros(size, np.int64) for size in space.sizes]
    seen: set[tuple[int, ...]] = set()
    failures = 0
    while failures < TRIES:
        stratified = len(seen) % 2 == 1 and not failures
        architecture = (_rarest(space, used, rng) if stratified else space.sample(rng)).pruned()
        if architecture.indices in seen:
            failures += 1
            continue
        failures = 0
        seen.add(architecture.indices)
        for position in in_use(architecture):
            used[position][architecture.indices[position]] += 1
        yield architecture


def in_use(architecture: Architecture) -> list[int]:
    """Positions of the OneOfs that the choices taken around them lead to."""
    return [
        position for position, active in enumerate(active_positions(architecture.space, architecture.indices)) if active
    ]


def _rarest(space: Space, used: list[np.ndarray], rng: np.random.Generator) -> Architecture:
    """The architecture whose every choice has been in use least often; ties are drawn."""
    indices = [0] * space.num_choices
    for position in reversed(range(space.num_choices)):
        counts = used[position]
        indices[position] = int(rng.choice(np.flatnonzero(counts == counts.min())))
    return Architecture(space, tuple(indices))


def append_samples(path: str | os.PathLike[str], samples: Iterable[Sample]) -> None:
    """Adds rows to a CSV file, with a header where it is new; each is on the disk before the next is written."""
    path = Path(path)
    is_new = not path.is_file() or path.stat().st_size == 0
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for sample in samples:
            cells = {name: _cell(value) for name, value in dataclasses.asdict(sample).items()}
            writer.writerow({**cells, CHECKSUM: checksum_of(cells)})
            file.flush()
            os.fsync(file.fileno())


def checksum_of(cells: dict[str, str]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a row's cells, whatever other columns somebody added."""
    text = json.dumps({name: cells[name] for name in COLUMNS if cells.get(name)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def drop_torn_row(path: str | os.PathLike[str]) -> None:
    """Cuts off a last row that was not written to its end, so that a resumed run can append."""
    content = Path(path).read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def read_samples(path: str | os.PathLike[str], space: Space) -> list[Sample]:
    """The rows of a CSV file of measurements of `space`; columns of other names are ignored, those with defaults may be
    missing.

    Raises:
        InputError: where the file cannot be read, a column is missing, or a row (counted from 1 below the header) has a
            time that is not a positive number, another space, indices that are not of it, a different set-up from the
            first row's, the same network as an earlier row, or a checksum that its cells do not have.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"cannot read the samples {os.fspath(path)}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if missing := [name for name in REQUIRED if name not in columns]:
        found = ", ".join(columns) or "none"
        raise InputError(
            f"{path}: there is no column {missing[0]!r}; needed are {', '.join(REQUIRED)}, found were {found}"
        )
    samples: list[Sample] = []
    first_seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        _check_whole(row, where)
        sample = _sample_of(row, space, where)
        if sample.indices in first_seen:
            raise InputError(f"{where}: the same network as row {first_seen[sample.indices]}; keep one of the two")
        first_seen[sample.indices] = number
        for name in SETUP:
            here, first = getattr(sample, name), getattr(samples[0] if samples else sample, name)
            if here != first:
                raise InputError(f"{where}: {name} is {here!r}, but {first!r} in row 1; fit one set-up at a time")
        samples.append(sample)
    return samples


def references(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """`REFERENCES` samples from the fastest to the slowest, evenly spaced, as a cost model's provenance names them."""
    by_time = sorted(samples, key=lambda sample: sample.milliseconds)
    chosen = [by_time[int((number + 0.5) / REFERENCES * len(by_time))] for number in range(REFERENCES)]
    return [{"indices": sample.indices, "milliseconds": sample.milliseconds} for sample in chosen]


def references_of(model: CostModel | PeakCost | FunctionCost) -> list[tuple[Architecture, float]]:
    """(architecture, milliseconds that it took) of the samples that a cost model names; none where it names none.

    Raises:
        InputError: where its provenance names something else.
    """
    found = []
    named = model.provenance.get("references", [])
    for number, reference in enumerate(named if isinstance(named, list) else [named]):
        where = f"the cost model's provenance, references/{number}"
        fields: dict[str, Any] = reference if isinstance(reference, dict) else {}
        text, milliseconds = fields.get("indices", ""), fields.get("milliseconds", 0)
        if not isinstance(text, str) or type(milliseconds) not in (int, float) or not 0 < milliseconds < math.inf:
            raise InputError(
                f"{where} must hold indices as text and a positive number of milliseconds, not {reference!r}"
            )
        try:
            found.append((model.space.architecture(text), float(milliseconds)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return found


def _check_whole(row: dict[str, Any], where: str) -> None:
    if None in row or None in row.values():
        raise InputError(f"{where}: the number of cells differs from the header's")
    checksum = row.get(CHECKSUM, "")
    if checksum and checksum != checksum_of(row):
        raise InputError(
            f"{where} is not as `tunas measure` wrote it: its checksum does not match; take the row out, or empty its "
            f"cell {CHECKSUM!r} if you changed it on purpose"
        )


def _sample_of(row: dict[str, Any], space: Space, where: str) -> Sample:
    """The measurement in a row of a CSV file, with 0 for indices that are not in use."""
    if row["ssd"] != space.name:
        raise InputError(f"{where}: a measurement of {row['ssd']!r}, not of {space.name}")
    try:
        indices = space.architecture(row["indices"]).pruned().text
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    milliseconds = _number(row, "milliseconds", where)
    if milliseconds is None:
        raise InputError(f"{where}: milliseconds is empty; fill it in or take the row out")
    if not 0 < milliseconds < math.inf:
        raise InputError(f"{where}: milliseconds must be a positive number, not {row['milliseconds']}")
    numbers: dict[str, Any] = {name: _number(row, name, where) for name in ("spread", "half_difference", "slowdown")}
    whole = ("image_size", "num_classes", "threads", "rounds", "repeats")
    counts: dict[str, Any] = {name: _count(row, name, where) for name in whole}
    texts = {name: row.get(name, "") for name in ("backend", "version", "device", "clock", "statistic")}
    return Sample(space.name, indices, milliseconds=milliseconds, **texts, **numbers, **counts)


def _number(row: dict[str, str], name: str, where: str) -> float | None:
    text = row.get(name, "").strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise InputError(f"{where}: {name} must be a number, not {text!r}") from None


def _count(row: dict[str, str], name: str, where: str) -> int | None:
    number = _number(row, name, where)
    if number is not None and not (number.is_integer() and number > 0):
        raise InputError(f"{where}: {name} must be a positive whole number, not {row[name]!r}")
    return None if number is None else int(number)
