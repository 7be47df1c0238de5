"""What a command needs at its end, checked at its beginning: packages and compilers."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys

from tunas.errors import InputError

COMPILERS = ("g++", "clang++", "c++", "cl")


def has_package(name: str) -> bool:
    """Whether `name` can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent is missing, or it is half imported
        return False


def need_packages(what: str, *names: str, install: str) -> None:
    """Refuses what cannot be done for want of a package.

    Args:
        what: whatever needs them, the subject of the sentence.
        names: of modules.
        install: what to give to pip.

    Raises:
        InputError: naming those that are missing.
    """
    if missing := [name for name in names if not has_package(name)]:
        raise InputError(f"{what} needs {' and '.join(missing)}, not installed here: pip install '{install}'")


def need_compiler(what: str, device: str) -> None:
    """Refuses `torch.compile` where there is nothing to compile with: a C++ compiler on a processor, Triton on CUDA.

    Args:
        what: whatever compiles, the subject of the sentence.
        device: torch's name of its type, such as `cuda`.

    Raises:
        InputError: naming what is missing.
    """
    if device == "cuda":
        need_packages(what, "triton", install="triton")
    elif not _compiler():
        raise InputError(
            f"{what} needs a C++ compiler, none is on PATH (CXX may name one elsewhere): install g++ or clang++"
        )


def _compiler() -> str | None:
    """The compiler that torch would take on a processor."""
    if given := os.environ.get("CXX"):
        words = shlex.split(given)
        return shutil.which(words[0]) if words else None
    names = COMPILERS if sys.platform != "win32" else ("cl", *COMPILERS)
    return next((found for name in names if (found := shutil.which(name))), None)
