"""What a search came to for each of its targets, and the frontier that several of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.report.analyze import analyze
from tunas.report.section import Figure, Section
from tunas.run.directory import RESULT, read_json_object
from tunas.search.aims import places
from tunas.space import Architecture, Space


@dataclass(frozen=True)
class SearchTarget:
    """One target of a search, and what was found for it.

    Args:
        name: of several targets, this one's; empty where there is one.
        place: what stands before the names of its scalars.
        params: of the search, as if for this target alone.
        target, cost: in `unit`; None where cost does not count, or is not known yet.
        architecture: None of a search for several targets that has not ended.
        quality: of the last sampled architectures, by shared weights; None where it is not known.
        step: the last one that was done; None where that is not known.
    """

    name: str
    place: str
    params: dict[str, Any]
    target: float | None
    cost: float | None
    unit: str
    architecture: Architecture | None
    quality: float | None = None
    step: int | None = None

    def rows(self, steps: int) -> list[tuple[str, str]]:
        """For a table of names and values."""
        return [
            ("architecture", self.architecture.text if self.architecture else "not known before the end"),
            ("step", f"{self.step} of {steps or '?'}"),
            ("cost", _with_unit(self.cost, self.unit)),
            ("target", _with_unit(self.target, self.unit)),
        ]


def search_targets(directory: Path, params: dict[str, Any], space: Space) -> list[SearchTarget]:
    """What the search in `directory` came to for each of its targets.

    Raises:
        InputError: as `analyze`, of a search for one target.
    """
    targets = params.get("rl_cost_model_target")
    if not isinstance(targets, list):
        found = analyze(directory)
        return [
            SearchTarget("", "", params, targets, found.cost, found.unit, found.architecture, None, found.step),
        ]
    models = params.get("cost_model")
    documents: list[dict[str, Any]] = []
    if (directory / RESULT).is_file():
        documents = read_json_object(directory / RESULT).get("targets", [])
    units = params.get("cost_unit")
    found_for = []
    for number, (target, place) in enumerate(zip(targets, places(len(targets)), strict=True)):
        model = models[number] if isinstance(models, list) else models
        own = {**params, "rl_cost_model_target": target, "cost_model": model}
        unit = str(units[number] if isinstance(units, list) else units or "")
        document = documents[number] if number < len(documents) else {}
        quality = next((value for name, value in document.items() if name.startswith("shared_weights_")), None)
        named = (
            _with_unit(target, unit) if not isinstance(models, list) else f"{Path(str(model)).stem} {target:g} {unit}"
        )
        found_for.append(
            SearchTarget(
                named,
                place,
                own,
                target,
                document.get("cost"),
                str(document.get("unit", unit)),
                space.architecture(str(document["indices"])) if document else None,
                quality,
            )
        )
    return found_for


def frontier(targets: Sequence[SearchTarget]) -> Section:
    """Quality against cost of what was found for several targets, in a picture for each unit."""
    rows = []
    for target in targets:
        assert target.target is not None and target.cost is not None and target.architecture is not None
        off = f"{100 * (target.cost / target.target - 1):+.2f} %"
        quality = "" if target.quality is None else f"{target.quality:.4f}"
        rows.append((target.name, _with_unit(target.cost, target.unit), off, quality, target.architecture.text))
    figures = []
    for unit in dict.fromkeys(target.unit for target in targets):
        own = sorted((t for t in targets if t.unit == unit and t.quality is not None), key=lambda t: t.cost or 0.0)
        points = {"x": [t.cost for t in own], "y": [t.quality for t in own], "text": [t.name for t in own]}
        trace = {"type": "scatter", "mode": "lines+markers", **points}
        figures.append(Figure(f"Frontier, {unit}", [trace], x=unit, y="held-out, shared weights", comparable=True))
    header = ("target", "cost", "off target", "quality", "architecture")
    return Section(
        "The frontier",
        note="Quality is that of the last sampled architectures with shared weights: train them to compare.",
        figures=figures,
        header=header,
        rows=rows,
        numbers=[dict(zip(header, row, strict=True)) for row in rows],
    )


def _with_unit(value: float | None, unit: str) -> str:
    return f"{value:.4g} {unit}" if isinstance(value, int | float) else ""
