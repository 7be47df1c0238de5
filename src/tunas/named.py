"""What a user of the command line names in code of their own: `module:name`, or `path/to/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from tunas.errors import InputError


def load_named(name: str, what: str) -> Any:
    """The object that `name` says. A file is run once in a process, however often it is named.

    Args:
        name: `module:name` or `path/to/file.py:name`.
        what: the kind of thing, for messages: "space".

    Raises:
        InputError: where there is no such file, module or name in it.
    """
    location, _, attribute = name.rpartition(":")
    try:
        module = _module_of_file(location) if location.endswith(".py") else importlib.import_module(location)
        return getattr(module, attribute)
    except FileNotFoundError:
        raise InputError(f"cannot load {what} {name!r}: there is no file {location}") from None
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
