"""What a search came to for each of its targets, and the frontier that several of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunas.cost.model import with_unit
from tunas.report.analyze import Finding, findings
from tunas.report.section import Figure, Section
from tunas.run.directory import RESULT, read_json_object
from tunas.search.places import params_by_target


@dataclass(frozen=True)
class SearchTarget:
    """One target of a search, and what was found for it.

    Args:
        name: of several targets, this one's; empty where there is one.
        finding: what was found.
        params: of the search, as if for this target alone.
        quality: of the last sampled architectures, by shared weights; None where it is not known.
    """

    name: str
    finding: Finding
    params: dict[str, Any]
    quality: float | None = None

    @property
    def aim(self) -> float | None:
        """The cost to land on; None where cost does not count."""
        value = self.params.get("rl_cost_model_target")
        return value if isinstance(value, int | float) else None

    def rows(self) -> list[tuple[str, str]]:
        """For a table of names and values."""
        found = self.finding
        return [
            ("architecture", found.architecture.text),
            ("step", f"{found.step} of {self.params.get('steps', '?')}"),
            ("cost", with_unit(found.cost, found.unit)),
            ("target", with_unit(self.aim, found.unit)),
        ]


def search_targets(directory: Path, params: dict[str, Any]) -> list[SearchTarget]:
    """What the search in `directory` came to for each of its targets.

    Raises:
        InputError: as `findings`.
    """
    found, told = findings(directory), params_by_target(params)
    if len(found) == 1:
        return [SearchTarget("", found[0], told[0])]
    documents = read_json_object(directory / RESULT).get("targets", []) if (directory / RESULT).is_file() else []
    qualities = [
        next((value for name, value in document.items() if name.startswith("shared_weights_")), None)
        for document in documents
    ] or [None] * len(found)
    return [
        SearchTarget(f"{Path(each.device).stem} {with_unit(each.target, each.unit)}".strip(), each, own, quality)
        for each, own, quality in zip(found, told, qualities, strict=True)
    ]


def frontier(targets: Sequence[SearchTarget]) -> Section:
    """Quality against cost of what was found for several targets, in a picture for each unit."""
    rows = []
    for target in targets:
        found, aim = target.finding, target.aim
        off = f"{100 * (found.cost / aim - 1):+.2f} %" if aim and found.cost is not None else ""
        quality = "" if target.quality is None else f"{target.quality:.4f}"
        rows.append((target.name, with_unit(found.cost, found.unit), off, quality, found.architecture.text))
    figures = []
    for unit in dict.fromkeys(target.finding.unit for target in targets):
        own = [each for each in targets if each.finding.unit == unit and each.quality is not None]
        own.sort(key=lambda each: each.finding.cost or 0.0)
        points = {"x": [each.finding.cost for each in own], "y": [each.quality for each in own],
                  "text": [each.name for each in own]}  # fmt: skip
        trace = {"type": "scatter", "mode": "lines+markers", **points}
        if own:
            name = f"Frontier, {unit}"
            figures.append(Figure(name, [trace], x=unit, y="held-out, shared weights", comparable=True))
    header = ("target", "cost", "off target", "quality", "architecture")
    return Section(
        "The frontier",
        note="Quality is that of the last sampled architectures with shared weights: train them to compare.",
        figures=figures,
        header=header,
        rows=rows,
        numbers=[dict(zip(header, row, strict=True)) for row in rows],
    )
