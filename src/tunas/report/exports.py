"""What a page says about exported models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunas.cost.model import with_unit
from tunas.errors import InputError
from tunas.export.directory import ABOUT, FAILED, FORMAT
from tunas.report.section import Figure, Section
from tunas.run.directory import read_json_object

HEADER = ("artifact", "checked", "quality", "in torch", "same answer", "ms", "MB", "predicted")


def exported_models(path: Path) -> list[Path]:
    """The exported models at `path`: itself, or those right below it."""
    return [found for found in (path, *sorted(path.glob("*"))) if (found / ABOUT).is_file()]


def export_sections(paths: Sequence[Path]) -> list[Section]:
    """The sections about exported models.

    Raises:
        InputError: where one of them is damaged.
    """
    documents = {path.name: _document(path) for path in paths}
    rows = [_row(name, document) for name, document in documents.items()]
    names, times = list(documents), [found["latency"]["milliseconds"] for found in documents.values()]
    qualities = [found["check"][_quality_of(found)] for found in documents.values()]
    first = next(iter(documents.values()))
    quality = _quality_of(first)
    trace = {"type": "scatter", "mode": "markers+text", "textposition": "top center",
             "x": times, "y": qualities, "text": names}  # fmt: skip
    figure = Figure(
        f"{quality.capitalize()} and time of the files", [trace], x="ms, one at a time", y=quality, comparable=True
    )
    unit = first["check"].get("unit", "images")
    facts = [
        ("space", first["ssd"]),
        ("architecture", first["indices"]),
        *([("image size", str(first["image_size"]))] if "image_size" in first else []),
        ("parameters", f"{first['parameters']:,}"),
        ("timed on", str(first["latency"]["device"])),
        ("checked on", f"{first['check'][unit]} {unit} of {first['check']['split']}"),
    ]
    complaints = [f"{name}: {found['check']['complaint']}" for name, found in documents.items()
                  if found["check"]["complaint"]]  # fmt: skip
    return [
        Section("Exported models", header=HEADER, rows=rows, figures=[figure], numbers=documents),
        *([Section("Not as it should be", note="; ".join(complaints), numbers=complaints)] if complaints else []),
        Section("What was exported", header=("", ""), rows=facts, numbers=dict(facts)),
    ]


def _document(path: Path) -> dict[str, Any]:
    document = read_json_object(path / ABOUT)
    if document.get("format") != FORMAT:
        raise InputError(f"{path / ABOUT} is not that of an exported model")
    return document


def _quality_of(document: dict[str, Any]) -> str:
    """What the check counted; before tasks of one's own were exported, always the accuracy."""
    return document["check"].get("quality", "accuracy")


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """The line of an exported model in the table."""
    check, cost = found["check"], found["predicted_cost"]
    size = sum(file["bytes"] for file in found["files"].values()) / 2**20
    return (
        name.removesuffix(FAILED),
        "passed" if check["passed"] else "FAILED",
        f"{check[_quality_of(found)]:.4f}",
        f"{check[f'torch_{_quality_of(found)}']:.4f}",
        "" if check["agreement"] is None else f"{check['agreement']:.2%}",
        f"{found['latency']['milliseconds']:.3g}",
        f"{size:.1f}",
        with_unit(cost["cost"], cost["unit"]) if cost else "",
    )
