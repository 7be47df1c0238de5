"""Files of architectures and their accuracies in the format of the released ones (docs/algorithm.md#released-data)."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from tunas.cost.catalog import has_pixel1, load_cost_model
from tunas.data.storage import read_bytes
from tunas.errors import InputError
from tunas.files import make_directory, write_whole, writing_to
from tunas.needs import need_packages
from tunas.space import Architecture, Space, get_space
from tunas.study.accuracy import FEWEST, AccuracyFit, fitted_accuracy

TIME = "simulated_pixel1_time_ms"
VALIDATION = "90epoch_validation_accuracy"
TEST = "360epoch_test_accuracy"
COLUMNS = ("ssd", "indices", TIME, VALIDATION, TEST)


@dataclass(frozen=True)
class Row:
    """One architecture of a file.

    Args:
        architecture: of a packaged space.
        time: milliseconds, as the file says.
        validation: accuracy on held-out images, 0 to 1; None where the file leaves it out.
        test: accuracy on the test images; None likewise.
    """

    architecture: Architecture
    time: float
    validation: float | None
    test: float | None


def read_rows(path: str) -> list[Row]:
    """The rows of a CSV file on this machine or behind a URL that fsspec understands; further columns are passed over.

    Raises:
        InputError: naming the file and the line, where a column is missing or a value does not fit its space.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a CSV file of architectures: it is no text") from None
    reader = csv.DictReader(io.StringIO(text))
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: the first line must name the columns {', '.join(COLUMNS)}; {missing[0]} is missing")
    rows = []
    for number, row in enumerate(reader, 2):
        try:
            rows.append(_row(row))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise InputError(f"{path} holds no architectures")
    return rows


def _row(row: dict[str, str | None]) -> Row:
    """The architecture in a row of the file."""
    space = get_space(str(row["ssd"]))
    if not has_pixel1(space):
        raise InputError(f"{space.name} has no Pixel-1 tables to compare its {TIME} with")
    time = _figure(row, TIME)
    if time is None:
        raise InputError(f"{TIME} is empty")
    accuracies = [_figure(row, name) for name in (VALIDATION, TEST)]
    for name, accuracy in zip((VALIDATION, TEST), accuracies, strict=True):
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise InputError(f"{name} is a part of 1, not {accuracy:g}")
    return Row(space.architecture(str(row["indices"])), time, *accuracies)


def _figure(row: dict[str, str | None], name: str) -> float | None:
    """The number in a cell; None where it is empty."""
    text = (row[name] or "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not math.isfinite(value):
        raise InputError(f"{name} must be a number, not {text!r}")
    return value


@dataclass(frozen=True)
class Summary:
    """What a file says about one space.

    Args:
        space: the space.
        kind: `random` or `searched`.
        rows: of the file that belong to it.
        difference: milliseconds between the file's times and ours, where they differ most.
        fit: of validation accuracy to architecture; None where too few random architectures have one.
    """

    space: Space
    kind: str
    rows: list[Row]
    difference: float
    fit: AccuracyFit | None

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracies of the rows that have one."""
        return [row.validation for row in self.rows if row.validation is not None]


def summaries(random: str, searched: str | None = None) -> list[Summary]:
    """What the two files say, space by space.

    Raises:
        InputError: as `read_rows`.
    """
    files = {"random": random} if searched is None else {"random": random, "searched": searched}
    found = [
        Summary(space, kind, rows, largest_difference(rows), _fit(space, rows) if kind == "random" else None)
        for kind, path in files.items()
        for space, rows in _by_space(read_rows(path)).items()
    ]
    return sorted(found, key=lambda summary: summary.space.name)


def _fit(space: Space, rows: Sequence[Row]) -> AccuracyFit | None:
    known = [row for row in rows if row.validation is not None]
    if len(known) < FEWEST:
        return None
    return fitted_accuracy(space, indices_of(known), np.array([row.validation for row in known]))


def largest_difference(rows: Sequence[Row]) -> float:
    """Milliseconds between the files' times and ours, where they differ most; all rows of one space."""
    ours = load_cost_model("pixel1", rows[0].architecture.space).estimate(indices_of(rows))
    return float(np.abs(ours - [row.time for row in rows]).max())


def indices_of(rows: Sequence[Row]) -> np.ndarray:
    """The architectures of the rows, int64 `[N, num_choices]`."""
    return np.array([row.architecture.indices for row in rows], np.int64)


def _by_space(rows: Sequence[Row]) -> dict[Space, list[Row]]:
    """The rows of every space that occurs, in the order of the file."""
    found: dict[Space, list[Row]] = {}
    for row in rows:
        found.setdefault(row.architecture.space, []).append(row)
    return found


def check_out(directory: str) -> None:
    """Whether `write_pictures_and_models` will be able to.

    Raises:
        InputError: where the directory cannot be written to, or matplotlib is not installed.
    """
    need_packages("--out", "matplotlib", install="tunas-torch[devices]")
    make_directory(directory)


def write_pictures_and_models(found: Sequence[Summary], directory: str) -> list[str]:
    """A picture and an accuracy model, `<space>.png` and `<space>.json`, of each space; the names written."""
    folder = make_directory(directory)
    rows = {(summary.space.name, summary.kind): summary.rows for summary in found}
    names = []
    with writing_to(folder):
        for space in dict.fromkeys(summary.space.name for summary in found):
            random, searched = rows.get((space, "random"), []), rows.get((space, "searched"), [])
            picture = functools.partial(save_picture, random, searched, title=space)
            write_whole(folder / f"{space}.png", picture)
            names.append(f"{space}.png")
        for summary in found:
            if summary.fit is not None:
                summary.fit.model.save(folder / f"{summary.space.name}.json")
                names.append(f"{summary.space.name}.json")
    return names


def save_picture(random: Sequence[Row], searched: Sequence[Row], file: BinaryIO, title: str) -> None:
    """A PNG of validation accuracy against simulated time, the searched architectures on top of the random ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for rows, name, mark, size in ((random, "random", ".", 5), (searched, "searched", "*", 11)):
        known = [(row.time, 100 * row.validation) for row in rows if row.validation is not None]
        if known:
            axes.plot(*zip(*known, strict=True), mark, markersize=size, label=f"{len(known)} {name}")
    axes.set(xlabel="simulated time on a Pixel 1, ms", ylabel="validation accuracy, %", title=title)
    axes.legend(frameon=False)
    figure.savefig(file, format="png", dpi=110)
