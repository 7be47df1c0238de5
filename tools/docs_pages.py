"""Puts the README, the benchmarks' page and the tutorial into the documentation site, with links that hold there (a
mkdocs hook)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SITE = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/tutorial.ipynb": "tutorial.md",
}
"""File of the repository -> page of the site."""
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for source, page in SITE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = with_site_links(as_page(text) if source.endswith(".ipynb") else text, Path(source).parent)
        files.append(File.generated(config, page, content=text))
    return files


def as_page(notebook: str) -> str:
    """The cells of a notebook one below the other."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook)["cells"]]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in cells) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return markdown if page.file.src_uri in SITE.values() else with_site_links(markdown, Path("docs"))


def with_site_links(markdown: str, folder: Path) -> str:
    """`markdown` of a file in `folder`, its links to files as pages of the site; what the site lacks loses its link."""

    def linked(match: re.Match[str]) -> str:
        target = (ROOT / folder / match[1]).resolve()
        try:
            place = target.relative_to(ROOT).as_posix()
        except ValueError:
            return match[0]
        page = SITE.get(place) or (place.removeprefix("docs/") if place.startswith("docs/") else None)
        return f"]({page}{match[2] or ''})" if page else "](index.md)"

    return LINK.sub(linked, markdown)
