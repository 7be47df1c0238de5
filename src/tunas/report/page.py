"""One HTML page about any number of runs: no network, no other file; the numbers lie beside it as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.files import check_writable, make_directory, write_text, writing_to
from tunas.needs import need_packages
from tunas.report.designs import design_sections, is_design, parts_of
from tunas.report.exports import export_sections, exported_models
from tunas.report.section import Figure, Section
from tunas.report.sections import fit_sections, is_fit, is_run, run_sections
from tunas.report.studies import is_study, study_sections

TEMPLATE = Path(__file__).parent / "page.html.j2"


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Args:
        title: of the page.
        runs: (name, sections) of each run.
        together: sections about all of them.
    """

    title: str
    runs: list[tuple[str, list[Section]]]
    together: list[Section] = field(default_factory=list)


def write_page(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Writes the page about run directories, studies, designs, exported models and fitted cost models, and its numbers
    under the same name with `.json`.

    Raises:
        InputError: where a path is none of these, or the page cannot be written, or plotly or jinja2 is not installed.
    """
    need_packages("tunas report", "plotly", "jinja2", install="tunas-torch[report]")
    out = Path(out)
    numbers_out = out.with_suffix(".json")
    for each in (out, numbers_out):
        check_writable(each)
    if not paths:
        raise InputError("name at least one run directory, study, exported model or cost model to report on")
    runs = [(str(part), _sections(part)) for path in paths for part in parts_of(Path(path))]
    names = dict.fromkeys(Path(path).resolve().name for path in paths)
    page = Page(f"tunas: {', '.join(names)}", runs, _side_by_side(runs))
    numbers = {name: {section.title: section.numbers for section in sections} for name, sections in runs}
    make_directory(out.parent)
    with writing_to(out.parent):
        write_text(numbers_out, json.dumps(numbers, indent=1, default=str) + "\n")
        write_text(out, rendered(page))
    return out


def _sections(path: Path) -> list[Section]:
    """The sections about what lies at a path."""
    if is_design(path):
        return design_sections(path)
    if is_study(path):
        return study_sections(path)
    if is_run(path):
        return run_sections(path)
    if models := exported_models(path):
        return export_sections(models)
    if is_fit(path):
        return fit_sections(path)
    raise InputError(
        f"{path} is no run directory, nor a study or design that has ended, nor an exported model, nor a cost model of "
        f"`tunas fit`"
    )


def _side_by_side(runs: list[tuple[str, list[Section]]]) -> list[Section]:
    """The curves that several runs have in common, in one picture each."""
    if len(runs) < 2:
        return []
    shared: dict[str, list[dict[str, Any]]] = {}
    layouts: dict[str, Figure] = {}
    for name, sections in runs:
        for figure in (figure for section in sections for figure in section.figures if figure.comparable):
            traces = [dict(trace, name=f"{Path(name).name} {trace.get('name', '')}".strip()) for trace in figure.data]
            shared.setdefault(figure.title, []).extend(traces)
            layouts[figure.title] = figure
    figures = [
        layouts[title].with_data(traces)
        for title, traces in shared.items()
        if len({trace["name"] for trace in traces}) > 1
    ]
    return [Section("Side by side", figures=figures)] if figures else []


def rendered(page: Page) -> str:
    """The page's HTML; every text in it is escaped."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(page=page, plotly=get_plotlyjs().replace("</script", "<\\/script"))
