"""The qualities of architectures that were trained alone, from the CSV files of a study."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np

from tunas.data.storage import read_text
from tunas.errors import InputError
from tunas.run.session import warn
from tunas.space import Architecture, Space
from tunas.study.released import TEST, VALIDATION
from tunas.study.study import RANDOM_CSV, SEARCHED_CSV

FEWEST = 5
"""Architectures that a correlation takes."""
ACCURACY_COLUMNS = ("accuracy", VALIDATION, TEST)
"""Columns of a study's CSV file that hold qualities; the first of them that is filled counts."""


def stand_alone_qualities(path: str, space: Space) -> tuple[list[Architecture], np.ndarray]:
    """The architectures of `space` in a study's CSV files and their qualities `[N]`, each the mean of its trainings.

    Args:
        path: the directory of a study, or one CSV file.

    Raises:
        InputError: naming the file and line, where something cannot be read; where there are too few architectures.
    """
    found: dict[Architecture, list[float]] = {}
    others = 0
    for file in _csv_files(path):
        reader = csv.DictReader(io.StringIO(read_text(str(file))))
        columns = reader.fieldnames or ()
        needed = next((name for name in ("ssd", "indices") if name not in columns), None)
        if needed or not set(ACCURACY_COLUMNS) & set(columns):
            missing = needed or f"one of {', '.join(ACCURACY_COLUMNS)}"
            raise InputError(f"{file}: the first line must name the columns of a study; {missing} is missing")
        for number, row in enumerate(reader, 2):
            if row["ssd"] != space.name:
                others += 1
                continue
            try:
                found.setdefault(space.architecture(str(row["indices"])), []).append(_quality(row))
            except InputError as error:
                raise InputError(f"{file}, line {number}: {error}") from None
    if others:
        warn(f"{others} architectures in {path} are of other spaces than {space.name}, and are not used")
    if len(found) < FEWEST:
        raise InputError(
            f"a ranking takes at least {FEWEST} different architectures of {space.name}; {path} holds {len(found)}"
        )
    return list(found), np.array([np.mean(values) for values in found.values()])


def _csv_files(path: str) -> list[Path | str]:
    """The CSV files of a study, or the one that is named."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [path]
    files: list[Path | str] = [folder / name for name in (RANDOM_CSV, SEARCHED_CSV) if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"{folder} holds no {RANDOM_CSV}; name the --out directory of a `tunas study` that has ended, or a CSV file"
        )
    return files


def _quality(row: dict[str, str | None]) -> float:
    """The quality in a row."""
    texts = [(row.get(name) or "").strip() for name in ACCURACY_COLUMNS]
    text = next(filter(None, texts), "")
    try:
        accuracy = float(text)
    except ValueError:
        accuracy = math.nan
    if not math.isfinite(accuracy):
        raise InputError(f"the accuracy must be a number, not {text!r}")
    return accuracy
