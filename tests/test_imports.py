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
def offered(package: str) -> frozenset[str]:
    """The names of `__all__`, written out or taken from the keys of `_HOME`."""
    values = {
        target.id: node.value
        for node in getattr(tree_of(package), "body", ())
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    words = [values[name] for name in ("__all__", "_HOME") if name in values]
    return frozenset(
        node.value
        for value in words
        for node in ast.walk(ast.Tuple([*value.keys]) if isinstance(value, ast.Dict) else value)
        if isinstance(node, ast.Constant)
    )


@functools.cache
def defined(module: str) -> frozenset[str]:
    """What a file defines at its top, and the modules of a package."""
    names = set()
    for node in ast.walk(tree_of(module) or ast.Module([], [])):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names | {path.stem for path in (SOURCE / module.replace(".", "/")).glob("[a-z]*")})


def place_of(module: str, name: str) -> str:
    """Where a test should import `name` from, instead of from `module`; empty: it is nowhere defined."""
    parts = module.split(".")
    packages = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return next(
        (package for package in packages if name in offered(package)), module if name in defined(module) else ""
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_each_name_is_imported_from_its_place(path: Path) -> None:
    for module, name in imported(path):
        assert module.partition(".")[0] not in OF_TESTS, f"{module} is a test: what tests share is in tests/support"
        if module.partition(".")[0] == "tunas" and name:
            assert not name.startswith("_"), f"{module}.{name} is private"
            assert module == place_of(module, name), f"import {name} from {place_of(module, name) or 'its own file'}"
