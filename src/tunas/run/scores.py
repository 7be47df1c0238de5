"""Held-out scores during a run: when they are taken, and `summary.csv`, one row each."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunas.files import write_text, writing_to

SUMMARY = "summary.csv"
FIRST_COLUMNS = ("epoch", "step", "target", "train_loss", "learning_rate", "reward", "entropy", "cost")
"""Columns that come first, in this order; the others follow by name, as rows out of a checkpoint have lost their order.
"""

Row = dict[str, Any]
"""Column -> number."""


def is_due(done: int, steps: int, every: float | None) -> bool:
    """Whether a run of `steps` steps is scored after `done` of them.

    Args:
        every: steps between two scorings, not necessarily whole; None scores at the end alone.
    """
    return done == steps or (every is not None and int(done / every) > int((done - 1) / every))


def write_summary(directory: Path, rows: Sequence[Row]) -> None:
    """Writes the rows as `summary.csv`.

    Raises:
        InputError: where the disk is full or the directory cannot be written.
    """
    names = {name for row in rows for name in row}
    columns = [name for name in FIRST_COLUMNS if name in names] + sorted(names - set(FIRST_COLUMNS))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with writing_to(directory):
        write_text(os.path.join(directory, SUMMARY), text.getvalue())
