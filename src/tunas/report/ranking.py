"""What `tunas rank` said of a search."""

from __future__ import annotations

from pathlib import Path

from tunas.report.section import Figure, Section
from tunas.run.directory import read_json_object
from tunas.study.rank import RANK


def rank_sections(directory: Path) -> list[Section]:
    """The ranking by shared weights against that of stand-alone trainings; nothing where none was made.

    Raises:
        InputError: where the file is damaged.
    """
    if not (directory / RANK).is_file():
        return []
    document = read_json_object(directory / RANK)
    checkpoints = document["checkpoints"]
    rows = [
        (str(found["step"]), _signed(found["spearman"]), _signed(found["kendall"]), *_interval(found["interval"]))
        for found in checkpoints
    ]
    newest, indices = checkpoints[-1], document["architectures"]
    points = {"type": "scatter", "mode": "markers", "x": newest["shared"], "y": document["stand_alone"]}
    quality = document["quality_name"]
    pictures = [
        Figure("Each architecture", [{**points, "text": indices}], x=f"{quality} with shared weights", y="alone"),
        Figure(
            "Rank correlation over the search",
            [{"type": "scatter", "mode": "lines+markers", "x": [found["step"] for found in checkpoints],
              "y": [found["spearman"] for found in checkpoints]}],
            y="Spearman",
            comparable=True,
        ),
    ]  # fmt: skip
    return [
        Section(
            "Is the ranking by shared weights real?",
            note=f"{len(indices)} architectures, trained alone and measured with the weights of each kept checkpoint.",
            figures=pictures,
            header=("step", "Spearman", "Kendall", "95 % from", "to"),
            rows=rows,
            numbers=document,
        )
    ]


def _signed(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3f}"


def _interval(value: list[float] | None) -> tuple[str, str]:
    return (f"{value[0]:+.2f}", f"{value[1]:+.2f}") if value else ("", "")
