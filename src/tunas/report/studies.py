"""What a page says about a study: searched against random architectures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from tunas.errors import InputError
from tunas.report.section import Figure, Section
from tunas.run.directory import read_json_object
from tunas.study.study import RANDOM, RANDOM_CSV, SEARCHED_CSV, STUDY, expected_best

MOST_TRIALS = 100
"""Random trainings that the curve at equal compute goes up to, at most."""


def is_study(path: Path) -> bool:
    """Whether the directory is that of a study that has ended."""
    return (path / STUDY).is_file()


def study_sections(directory: Path) -> list[Section]:
    """The sections about a study.

    Raises:
        InputError: where one of its files is missing or damaged.
    """
    figures = read_json_object(directory / STUDY)
    rows = [row for name in (RANDOM_CSV, SEARCHED_CSV) for row in _trainings(directory / name)]
    kinds: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        kinds.setdefault(row["name"].rpartition("-")[0], {}).setdefault(row["name"], []).append(row)
    if RANDOM not in kinds:
        raise InputError(f"{directory / RANDOM_CSV} names no random architecture")
    qualities = {kind: [_mean(each) for each in found.values()] for kind, found in kinds.items()}
    low, high = figures["range"]
    return [
        _summary(figures, f"{figures['ssd']}, {low:.4g} to {high:.4g} {figures['unit']}"),
        Section(
            "Every architecture",
            figures=[_against_cost(kinds, qualities, figures["unit"]), _ranks(qualities)],
            numbers=rows,
        ),
        Section(
            "At equal compute",
            note="What the best of so many random trainings is expected to reach, and what the winners of a search "
            "that takes as long reach.",
            figures=[_best_of_trials(figures, np.array(qualities[RANDOM]))],
        ),
    ]


def _trainings(path: Path) -> list[dict[str, str]]:
    """The rows of a study's CSV file."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        for row in rows:
            float(row["accuracy"]), float(row["cost"]), row["name"], row["indices"]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not as `tunas study` writes it: {error}") from None
    return rows


def _mean(rows: list[dict[str, str]]) -> float:
    return float(np.mean([float(row["accuracy"]) for row in rows]))


def _summary(figures: dict[str, Any], title: str) -> Section:
    """The figures of a study in a table."""
    header = ("architectures", "trained", "mean", "best", "spread", "random better", "search = random trainings",
              "their best")  # fmt: skip
    rows = []
    for kind, found in figures.items():
        if not isinstance(found, dict):
            continue
        error = f" ± {found['standard_error']:.4f}" if "standard_error" in found else ""
        spread = f"{found['spread']:.4f}" if "spread" in found else ""
        row = [kind, str(found["count"]), f"{found['mean']:.4f}{error}", f"{found['best']:.4f}", spread]
        if "random_trainings_for_one_search" in found:
            row += [f"{100 * found['probability_that_random_is_better']:.0f} %",
                    f"{found['random_trainings_for_one_search']:.1f}",
                    f"{found['expected_best_of_so_many']:.4f}"]  # fmt: skip
        rows.append([*row, *[""] * (len(header) - len(row))])
    return Section("Searched against random", note=title, header=header, rows=rows, numbers=figures)


def _against_cost(
    kinds: dict[str, dict[str, list[dict[str, str]]]], qualities: dict[str, list[float]], unit: str
) -> Figure:
    """Every architecture by its cost and quality."""
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": kind,
            "x": [float(rows[0]["cost"]) for rows in found.values()],
            "y": qualities[kind],
            "text": [f"{name} {rows[0]['indices']}" for name, rows in found.items()],
            "marker": {"size": 6 if kind == RANDOM else 10},
        }
        for kind, found in kinds.items()
    ]
    return Figure("Quality and cost", traces, x=unit, y="quality, trained alone")


def _ranks(qualities: dict[str, list[float]]) -> Figure:
    """Where winners lie among the random ones."""
    random = np.sort(qualities[RANDOM])
    traces: list[dict[str, Any]] = []
    for kind, found in qualities.items():
        part = [float((random <= value).mean()) for value in np.sort(found)]
        steps = {"mode": "lines", "line": {"shape": "hv"}} if kind == RANDOM else {"mode": "markers"}
        traces.append({"type": "scatter", "name": kind, "x": np.sort(found).tolist(), "y": part, **steps})
    return Figure("Among the random ones", traces, x="quality, trained alone", y="random ones that are no better")


def _best_of_trials(figures: dict[str, Any], random: np.ndarray) -> Figure:
    """What random trainings are expected to reach by their number, beside the searches."""
    searches = {kind: found for kind, found in figures.items()
                if isinstance(found, dict) and "random_trainings_for_one_search" in found}  # fmt: skip
    most = max([10.0, *(1.5 * found["random_trainings_for_one_search"] for found in searches.values())])
    trials = np.arange(1, min(MOST_TRIALS, int(most)) + 1)
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": "best random one", "x": trials.tolist(),
         "y": [expected_best(random, float(count)) for count in trials]}
    ]  # fmt: skip
    traces += [
        {"type": "scatter", "mode": "markers", "name": kind, "x": [found["random_trainings_for_one_search"]],
         "y": [found["mean"]], "marker": {"size": 10}}
        for kind, found in searches.items()
    ]  # fmt: skip
    return Figure("Best of so many random trainings", traces, x="random trainings", y="expected best quality")
