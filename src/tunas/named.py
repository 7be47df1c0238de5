"""What a user of the command line names in code of their own: `module:name`, or `path/to/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from tunas.errors import InputError

_places: list[Path] = []
"""Directories in which runs began whose parameters were read here, the latest first."""


def look_also_in(directory: str | os.PathLike[str]) -> None:
    """Has files of a relative path that are not in the working directory looked for in this one as well."""
    place = Path(directory)
    if place in _places:
        _places.remove(place)
    _places.insert(0, place)


def place_of(name: object) -> Path | None:
    """The directory from which a relative `path/to/file.py:name` is found; None for any other name, or without it."""
    location = name.rpartition(":")[0] if isinstance(name, str) else ""
    if not location.endswith(".py") or Path(location).expanduser().is_absolute():
        return None
    return next((place for place in (Path.cwd(), *_places) if (place / location).is_file()), None)


def load_named(name: str, what: str) -> Any:
    """The object that `name` says. A file is run once in a process, however often it is named.

    Args:
        name: `module:name` or `path/to/file.py:name`; a relative path is one of the working directory, or else of one
            that `look_also_in` was told.
        what: the kind of thing, for messages: "space".

    Raises:
        InputError: where there is no such file, module or name in it.
    """
    location, _, attribute = name.rpartition(":")
    try:
        place = place_of(name) or Path()
        module = (
            _module_of_file(str(place / location)) if location.endswith(".py") else importlib.import_module(location)
        )
        return getattr(module, attribute)
    except FileNotFoundError:
        absolute = Path(location).expanduser().is_absolute()
        where = "" if absolute else f" in {Path.cwd()}; start from the directory that this path is of"
        raise InputError(f"cannot load {what} {name!r}: there is no file {location}{where}") from None
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: names that no module can have
        raise InputError(f"cannot load {what} {name!r}: {error}") from None


class LoadedFiles:
    """The files that were run here. Unpickled in another process, it runs them there, so that objects of classes that
    they define can be unpickled after it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _run_files, (dict(_files),)


_files: dict[str, str] = {}
"""Path of each module that is a file."""


def _run_files(files: dict[str, str]) -> LoadedFiles:
    for name, path in files.items():
        _module_of_file(path, name)
    return LoadedFiles()


def _module_of_file(location: str, name: str | None = None) -> ModuleType:
    """The module that a file is, run where it has not been; under `name`, or where it is None, the file's own."""
    path = Path(location).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(location)
    for module in list(sys.modules.values()):
        origin = getattr(module, "__file__", None)
        if origin is not None and origin == str(path):
            return module
    if name is None:
        name = path.stem if path.stem not in sys.modules else f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _files[name] = str(path)
    return module
