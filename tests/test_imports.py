"""Tests import each name from one place: what the package offers from `tunas`, what a room offers from the room, the
rest from the file that defines it, and what tests share from `support`. They import nothing private, and not from each
other."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"
FILES = sorted(path for path in TESTS.rglob("*.py"))
OF_TESTS = {path.stem for path in FILES if path.parent.name != "support"}


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import anywhere in a file; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@functools.cache
def tree_of(module: str) -> ast.Module | None:
    place = SOURCE / module.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(path.read_text()) if path.is_file() else None


@functools.cache
def names_of(module: str) -> dict[str, str]:
    """Each name at a file's top, with the module that it is taken from; of what is defined there, the file itself."""
    names: dict[str, str] = {}
    for node in getattr(tree_of(module), "body", ()):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name: node.module or "" for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = module
        else:
            stored = (each for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
            names |= {each.id: module for each in stored}
    return names | homes_of(module)


@functools.cache
def homes_of(package: str) -> dict[str, str]:
    """What a package imports when it is first used: name -> module, as its `_HOME` says."""
    for node in getattr(tree_of(package), "body", ()):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            return ast.literal_eval(node.value)
    return {}


@functools.cache
def origin_of(module: str, name: str) -> str:
    """The file that defines a name; empty where none of the package's does."""
    if tree_of(f"{module}.{name}") is not None and name not in homes_of(module):
        return module
    source = names_of(module).get(name, "")
    return source if source == module or not source.startswith("tunas") else origin_of(source, name)


def place_of(module: str, name: str) -> str:
    """Where a test should import `name` from, instead of from `module`: the outermost package that offers the same."""
    origin = origin_of(module, name)
    parts = origin.split(".")
    packages = [".".join(parts[:count]) for count in range(1, len(parts))]
    return next((each for each in packages if origin_of(each, name) == origin), origin)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_each_name_is_imported_from_its_place(path: Path) -> None:
    for module, name in imported(path):
        assert module.partition(".")[0] not in OF_TESTS, f"{module} is a test: what tests share is in tests/support"
        if module.partition(".")[0] == "tunas" and name:
            assert not name.startswith("_"), f"{module}.{name} is private"
            assert module == place_of(module, name), f"import {name} from {place_of(module, name) or 'its own file'}"
