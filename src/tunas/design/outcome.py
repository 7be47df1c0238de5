"""What a design came to: a row for each target, and where everything lies."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.design import parts
from tunas.design.way import Target, Way
from tunas.files import write_text, writing_to
from tunas.needs import has_package
from tunas.report.designs import OUTCOME
from tunas.run.directory import quality_in
from tunas.search.objective import is_within
from tunas.space import Architecture
from tunas.study.jobs import seconds_of
from tunas.study.study import RANDOM, SEARCHED, Trained, compared

REPORT = "report.html"


@dataclass(frozen=True)
class Row:
    """What was made for one target.

    Args:
        name: of the target.
        target, predicted: costs, in the cost model's unit.
        architecture: that ships.
        within: whether predicted is within the tolerance.
        quality: of the network that ships, in its training's evaluation.
        training: its directory.
        file: directory of the export; None where nothing was exported.
        file_quality: accuracy of the file.
        complaint: why the file did not pass its check.
        measured: milliseconds of the file now.
        at_speed_of_then: the same at the speed that the device had when the cost model's networks were measured.
        comparison: the winner's trainings against those of random architectures, as `tunas.study.study.compared` has
            them; None without any.
    """

    name: str
    target: float
    predicted: float
    architecture: Architecture
    within: bool
    quality: float
    training: Path
    file: Path | None
    file_quality: float | None
    complaint: str | None
    measured: float | None
    at_speed_of_then: float | None
    comparison: dict[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """What a design came to.

    Args:
        rows: one for each target.
        ssd: the space.
        unit: of the costs.
        quality_name, split: what counts as quality, and of which examples.
        out: the directory.
        seconds: that all parts took.
        seeds: trainings of each architecture.
        exports: whether there are files.
        other_device: why measured times are not of what was predicted; None where they are.
        report: the page; None where none could be drawn.
    """

    rows: tuple[Row, ...]
    ssd: str
    unit: str
    quality_name: str
    split: str
    out: Path
    seconds: float
    seeds: int
    exports: bool
    other_device: str | None
    report: Path | None


def outcome_of(way: Way, seconds: float) -> Outcome:
    """Reads the parts back, and writes `outcome.json`."""
    first = parts.trained_document(way, way.targets[0].name)
    rows = tuple(_row(way, target) for target in way.targets)
    found = Outcome(
        rows,
        way.space.name,
        way.cost_model().unit,
        str(first.get("quality_name", "accuracy")),
        str(first["split"]),
        way.out,
        seconds,
        way.sizes.seeds,
        way.exports,
        way.prices_this_device() if way.exports else None,
        way.out / REPORT if (way.out / REPORT).is_file() else None,
    )
    with writing_to(way.out):
        write_text(way.out / OUTCOME, json.dumps(_as_json(found), indent=1) + "\n")
    return found


def report(way: Way, seconds: float) -> None:
    """Draws the page about what has come of it, where that can be drawn here."""
    outcome_of(way, seconds)
    if not (has_package("plotly") and has_package("jinja2")):
        print("no report: pip install 'tunas-torch[report]' draws one", file=sys.stderr)
        return
    from tunas.report.page import write_page

    write_page([way.out, *([way.cost_model_name] if way.measures else [])], way.out / REPORT)


def _row(way: Way, target: Target) -> Row:
    """What was made for a target."""
    architecture, model, sizes = parts.winner(way, target), way.cost_model(), way.sizes
    aimed, predicted = parts.aimed_at(way, target), float(model.estimate(architecture))
    figures = compared(_trainings(way, target, architecture)) if sizes.random else None
    directory, about, time = None, None, None
    if way.exports:
        directory, about = parts.exported(way, target)
        time = parts.timed_file(way, target)
    return Row(
        name=target.name,
        target=aimed,
        predicted=predicted,
        architecture=architecture,
        within=is_within(predicted, aimed, way.config.tolerance),
        quality=quality_in(parts.trained_document(way, target.name)),
        training=way.out / parts.TRAININGS / target.name,
        file=directory,
        file_quality=about["check"]["accuracy"] if about else None,
        complaint=about["check"]["complaint"] if about else None,
        measured=time.milliseconds if time else None,
        at_speed_of_then=time.at_speed_of_then if time and time.references else None,
        comparison=figures,
    )


def _trainings(way: Way, target: Target, architecture: Architecture) -> list[Trained]:
    """The winner's trainings and those of the random architectures, as a study compares them."""
    search = seconds_of(way.search_directory) / len(way.targets)
    rows = []
    for number in (None, *range(way.sizes.random)):
        for seed in range(way.sizes.seeds):
            name = parts.training_name(target, seed, number)
            document = parts.trained_document(way, name)
            rows.append(
                Trained(
                    SEARCHED if number is None else f"random-{number}",
                    SEARCHED if number is None else RANDOM,
                    way.space.architecture(str(document["indices"])),
                    cost=float(document["predicted_cost"]),
                    accuracy=quality_in(document),
                    epochs=float(document["epochs"]),
                    seconds=seconds_of(way.out / parts.TRAININGS / name),
                    search_seconds=0.0 if number is not None else search,
                    seed=seed,
                )
            )
    return rows


def _as_json(found: Outcome) -> dict[str, Any]:
    document = dataclasses.asdict(dataclasses.replace(found, rows=()))
    document["rows"] = []
    for row in found.rows:
        plain = dataclasses.asdict(dataclasses.replace(row, architecture=None))  # type: ignore[arg-type]
        plain.pop("architecture")
        document["rows"].append({**plain, "indices": row.architecture.text})
    return json.loads(json.dumps(document, default=str))  # type: ignore[no-any-return]
