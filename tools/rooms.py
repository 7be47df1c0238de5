"""The rooms of the package and what they import, from the code itself; writes the picture in docs/architecture.md.

python tools/rooms.py          # draw it anew
python tools/rooms.py --check  # exit code 1 where the page shows something else
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tunas"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = re.compile(r"(?<=<!-- rooms -->\n).*?(?=<!-- end of rooms -->)", re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", re.MULTILINE)


def module_name(path: Path) -> str:
    """`tunas.nn.ops` of `src/tunas/nn/ops.py`; a package's own file has the package's name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, at its top or inside a function; not those for type checkers."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        pending.extend(ast.iter_child_nodes(node))


@functools.cache
def import_graph() -> Mapping[str, Set[str]]:
    """Of every module, the modules of the package that it imports."""
    known = modules()
    return {name: set(imports_of(path, known)) - {name} for name, path in known.items()}


def room_of(module: str) -> str:
    """The folder below the package, such as `nn`; files of the package itself are rooms of their own."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@functools.cache
def room_graph() -> Mapping[str, Set[str]]:
    """Of every folder, the other folders that its files import."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    graph: dict[str, set[str]] = {folder: set() for folder in sorted(folders)}
    for module, imported in import_graph().items():
        if room_of(module) in folders:
            graph[room_of(module)] |= {room_of(name) for name in imported} & folders - {room_of(module)}
    return graph


def rules() -> dict[str, set[str]]:
    """What the page's table lets every room import."""
    return {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in ROW.findall(PAGE.read_text())}


def cycle() -> list[str]:
    """Modules that import each other in a ring, the first one found; empty where there is none."""
    graph = import_graph()
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for imported in sorted(graph[module]):
                if found := visit(imported, [*way, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def picture() -> str:
    """A mermaid graph of the rooms, without arrows that follow from others."""
    graph = room_graph()
    reach: dict[str, set[str]] = {}

    def reachable(room: str) -> set[str]:
        if room not in reach:
            reach[room] = set()
            reach[room] = graph[room].union(*map(reachable, graph[room]))
        return reach[room]

    lines = ["```mermaid", "graph BT"]
    for room, imported in graph.items():
        further = set().union(*(reachable(other) for other in imported))
        lines += [f"  {other} --> {room}" for other in sorted(imported - further)]
    return "\n".join([*lines, "```\n"])


def main() -> int:
    page = PAGE.read_text()
    drawn = PICTURE.sub(lambda _: picture(), page)
    if "--check" in sys.argv[1:]:
        return int(drawn != page)
    PAGE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
