"""Prose of the Markdown pages ends by 120 columns: wraps the paragraphs and list items that do not.

python tools/prose.py          # wrap them
python tools/prose.py --check  # name the pages that have such, exit code 1

Code, tables, headings and HTML stay as they are, and so does a paragraph whose lines are short enough.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH = 120
FENCE = re.compile(r"\s*(```|~~~)")
NO_PROSE = re.compile(r"\s*(#{1,6} |\||<|:::|---$|!\[)")
ITEM = re.compile(r"(\s*)([-*+]|\d+[.)])\s+")
WORD = re.compile(r"(?:(`+).+?\1|\S)+")
"""A code span is not broken, whatever spaces it has."""
MARKER = re.compile(r"([-*+=>|#]|\d+[.)]$|:::|<)")
"""What would mean something else at the beginning of a line."""


def pages() -> list[Path]:
    folders = [ROOT / name for name in ("docs", "benchmarks", "examples", "src")]
    return [*sorted(ROOT.glob("*.md")), *(page for folder in folders for page in sorted(folder.rglob("*.md")))]


def blocks(text: str) -> Iterator[tuple[bool, list[str]]]:
    """(is prose, lines): a paragraph or a list item, or one line of anything else."""
    prose: list[str] = []
    fenced = False
    for line in text.split("\n"):
        fence = FENCE.match(line) is not None
        if fenced or fence or not line.strip() or NO_PROSE.match(line):
            if prose:
                yield True, prose
            prose = []
            yield False, [line]
            fenced ^= fence
        else:
            if prose and ITEM.match(line):
                yield True, prose
                prose = []
            prose.append(line)
    if prose:
        yield True, prose


def words(lines: list[str]) -> list[str]:
    """The words of a paragraph; one that would begin a line with a marker stays with the word before it."""
    found: list[str] = []
    for match in WORD.finditer(" ".join(line.strip() for line in lines)):
        if found and MARKER.match(match[0]):
            found[-1] += " " + match[0]
        else:
            found.append(match[0])
    return found


def wrapped_block(lines: list[str]) -> list[str]:
    if all(len(line) <= WIDTH for line in lines):
        return lines
    item = ITEM.match(lines[0])
    first = item[0] if item else re.match(r"\s*", lines[0])[0]  # type: ignore[index]
    result, rest = [first], " " * len(first)
    for word in words([lines[0][len(first) :], *lines[1:]]):
        if result[-1] == first:
            result[-1] += word
        elif len(result[-1]) + 1 + len(word) <= WIDTH:
            result[-1] += " " + word
        else:
            result.append(rest + word)
    return result


def wrapped(text: str) -> str:
    return "\n".join(line for is_prose, lines in blocks(text) for line in (wrapped_block(lines) if is_prose else lines))


def main() -> int:
    long = [page for page in pages() if wrapped(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    for page in long:
        if "--check" in sys.argv[1:]:
            print(f"{page.relative_to(ROOT)} has prose beyond {WIDTH} columns: python tools/prose.py wraps it")
        else:
            page.write_text(wrapped(page.read_text(encoding="utf-8")), encoding="utf-8")
    return int(bool(long) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
