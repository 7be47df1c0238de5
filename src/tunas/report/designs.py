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
HEADER = ("target", "aimed at", "predicted", "measured, ms", "quality", "of the file", "architecture")
COMPARED = ("target", "networks", "quality, mean", "standard error", "best", "between trainings of one")


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
    figures = [Figure("Designed", [trace], x=unit, y=quality, comparable=True)] if len(rows) > 1 else []
    took = document["seconds"]
    lasted = f"{took / 60:.0f} minutes" if took >= 120 else f"{took:.0f} s"
    note = f"{document['ssd']}; {quality} of {document['split']} examples; {lasted} in all"
    table = [_row(row, unit) for row in rows]
    complaints = [f"{row['name']}: {row['complaint']}" for row in rows if row["complaint"]]
    told = [*complaints, *([document["other_device"]] if document["other_device"] else [])]
    compared = [line for row in rows for line in _comparison(row)]
    alike = "All trained alike; the network that ships is the first of its trainings."
    return [
        Section("What was designed", note=note, header=HEADER, rows=table, figures=figures, numbers=document),
        *([Section("Against random architectures", note=alike, header=COMPARED, rows=compared)] if compared else []),
        *([Section("To be said", note="; ".join(told), numbers=told)] if told else []),
    ]


def _row(row: dict[str, Any], unit: str) -> tuple[str, ...]:
    """The line of a target in the table."""
    return (
        str(row["name"]),
        with_unit(row["target"], unit),
        with_unit(row["predicted"], unit),
        _number(row["measured"], ".3g"),
        f"{row['quality']:.4f}",
        _number(row["file_quality"], ".4f"),
        str(row["indices"]),
    )


def _comparison(row: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Lines about the trainings of a target's winner and of random architectures, where there are any."""
    for kind, figures in (row["comparison"] or {}).items():
        count = figures.get("count", 1)
        named = "searched" if kind != "random" else f"{count} random one{'s' if count > 1 else ''} of the same cost"
        shown = (_number(figures.get(name), ".4f") for name in ("mean", "standard_error", "best", "seed_spread"))
        yield (str(row["name"]), named, *shown)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
