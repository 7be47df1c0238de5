"""Every Python block in the documentation runs, page by page, in a fresh directory; its references and lines hold."""

import json
import re
from pathlib import Path

import prose
import pytest

from support.jobs import Program

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages_with_code() -> list[Path]:
    return [page for page in PAGES if BLOCK.search(page.read_text())]


@pytest.mark.parametrize("page", pages_with_code(), ids=lambda page: page.name)
def test_the_code_on_the_page_runs(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "blocks.py"
    script.write_text("\n\n".join(BLOCK.findall(page.read_text())))
    Program(script, directory=tmp_path).result()


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the documentation site make them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def sources() -> list[Path]:
    folders = ("src", "tests", "benchmarks", "docs", "examples", "tools")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.suffix in (".py", ".md")]
    return [*found, *ROOT.glob("*.md")]


def test_every_reference_to_what_is_computed_leads_to_a_heading() -> None:
    anchors = headings(ROOT / "docs" / "algorithm.md")
    for path in sources():
        for anchor in re.findall(r"algorithm\.md#([\w-]+)", path.read_text()):
            assert anchor in anchors, f"{path} refers to #{anchor}"


def test_every_page_that_code_refers_to_exists_with_the_heading() -> None:
    for path in sources():
        for page, anchor in re.findall(r"\b((?:docs|benchmarks)/\w+\.md)(?:#([\w-]+))?", path.read_text()):
            assert (ROOT / page).is_file(), f"{path} refers to {page}"
            assert not anchor or anchor in headings(ROOT / page), f"{path} refers to {page}#{anchor}"


def too_long(page: Path) -> bool:
    """Whether prose, or a line of Python, ends beyond 120 columns; tables, commands and output may."""
    text = page.read_text()
    code = (line for block in BLOCK.findall(text) for line in block.splitlines())
    return prose.wrapped(text) != text or any(len(line) > prose.WIDTH for line in code)


def test_no_page_has_prose_or_code_beyond_120_columns() -> None:
    assert [page.name for page in prose.pages() if too_long(page)] == []


def test_no_cell_of_the_tutorial_goes_beyond_120_columns() -> None:
    cells = json.loads((ROOT / "examples" / "tutorial.ipynb").read_text())["cells"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    assert lines and [line for line in lines if len(line) > prose.WIDTH] == []
