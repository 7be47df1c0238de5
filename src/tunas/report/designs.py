"""What a page says about a design: a row for each target, beside its search, trainings, files and cost model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunas.cost.model import with_unit
from tunas.report.exports import exported_models
from tunas.report.section import Figure, Section
from tunas.run.directory import PARAMS, read_json_object

OUTCOME = "outcome.json"
"""In the directory of a design that has ended."""
HEADER = ("target", "aimed at", "predicted", "measured, ms", "quality", "of the file", "random, mean", "architecture")


def is_design(path: Path) -> bool:
    """Whether the directory is that of a design that has ended."""
    return (path / OUTCOME).is_file()


def parts_of(path: Path) -> Iterator[Path]:
    """Of a design itself, its search, and for each target the training and the file; anything else alone."""
    yield path
    if not is_design(path):
        return
    names = [str(row["name"]) for row in read_json_object(path / OUTCOME)["rows"]]
    places = [path / "search", *(path / "train" / name for name in names)]
    yield from (place for place in places if (place / PARAMS).is_file())
    yield from (place for place in (path / "export" / name for name in names) if exported_models(place))


def design_sections(directory: Path) -> list[Section]:
    """The sections about a design.

    Raises:
        InputError: where its outcome cannot be read.
    """
    document = read_json_object(directory / OUTCOME)
    rows, unit, quality = document["rows"], str(document["unit"]), str(document["quality_name"])
    points = {"x": [row["predicted"] for row in rows], "y": [row["quality"] for row in rows],
              "text": [row["name"] for row in rows]}  # fmt: skip
    trace = {"type": "scatter", "mode": "lines+markers", **points}
    figure = Figure("Designed", [trace], x=unit, y=quality, comparable=True)
    note = (
        f"{document['ssd']}; {quality} of {document['split']} examples; {document['seconds'] / 60:.0f} minutes in all"
    )
    table = [_row(row, unit) for row in rows]
    complaints = [f"{row['name']}: {row['complaint']}" for row in rows if row["complaint"]]
    told = [*complaints, *([document["other_device"]] if document["other_device"] else [])]
    return [
        Section("What was designed", note=note, header=HEADER, rows=table, figures=[figure], numbers=document),
        *([Section("To be said", note="; ".join(told), numbers=told)] if told else []),
    ]


def _row(row: dict[str, Any], unit: str) -> tuple[str, ...]:
    comparison = (row["comparison"] or {}).get("random")
    return (
        str(row["name"]),
        with_unit(row["target"], unit),
        with_unit(row["predicted"], unit),
        _number(row["measured"], ".3g"),
        f"{row['quality']:.4f}",
        _number(row["file_quality"], ".4f"),
        "" if comparison is None else f"{comparison['mean']:.4f}",
        str(row["indices"]),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
