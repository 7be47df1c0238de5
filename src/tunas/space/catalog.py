"""Spaces by name: the three of the paper, six reference architectures, and the user's own."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from tunas.errors import InputError
from tunas.space import mobilenet_v3, proxylessnas
from tunas.space.architecture import Space
from tunas.space.layers import Tower

PROXYLESS_TARGET = 84.0
"""Pixel-1 milliseconds that the paper's searches aim for (SPEC §3)."""
V3_TARGET = 57.0
V3_FAMILY = ("mobilenet_v3_like_search", "mobilenet_v3_large", "mobilenet_multi_avg", "mobilenet_multi_max")
"""Spaces with the larger dropout (SPEC §4)."""

_builders: dict[str, tuple[Callable[[], Tower], float | None]] = {
    "proxylessnas_search": (proxylessnas.proxylessnas_search, PROXYLESS_TARGET),
    "proxylessnas_enlarged_search": (proxylessnas.proxylessnas_enlarged_search, PROXYLESS_TARGET),
    "mobilenet_v3_like_search": (mobilenet_v3.mobilenet_v3_like_search, V3_TARGET),
    "mobilenet_v2": (proxylessnas.mobilenet_v2, None),
    "mnasnet_b1": (proxylessnas.mnasnet_b1, None),
    "proxylessnas_mobile": (proxylessnas.proxylessnas_mobile, None),
    "mobilenet_v3_large": (mobilenet_v3.mobilenet_v3_large, None),
    "mobilenet_multi_avg": (mobilenet_v3.mobilenet_multi_avg, None),
    "mobilenet_multi_max": (mobilenet_v3.mobilenet_multi_max, None),
}
PACKAGED = tuple(_builders)
_spaces: dict[str, Space] = {}


def space_names() -> tuple[str, ...]:
    """Every name that `get_space` knows now."""
    return tuple(_builders)


def register_space(name: str, build: Callable[[], Tower], default_target: float | None = None) -> Space:
    """Makes `name` a space everywhere, in Python and (in the same process) on the command line.

    Args:
        name: letters, digits, `_` and `-`.
        build: a function of no arguments that returns the Tower.
        default_target: cost that a search aims for where none is given.

    Raises:
        InputError: where the name is packaged already, is not a name, or the tower cannot be a network.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"a space's name consists of letters, digits, _ and -, unlike {name!r}")
    if name in PACKAGED:
        raise InputError(f"{name!r} is the name of a packaged space; choose another one")
    space = Space(name, build(), default_target)
    _builders[name] = (build, default_target)
    _spaces[name] = space
    return space


def get_space(name: str) -> Space:
    """The space of that name, or of `module:function` or `path/to/file.py:function`, a function that returns a Tower.

    Raises:
        InputError: where there is none, with the nearest names.
    """
    if name in _spaces:
        return _spaces[name]
    if name in _builders:
        build, target = _builders[name]
        space = Space(name, build(), target)
    elif ":" in name:
        space = Space(name, _user_function(name)())
    else:
        near = difflib.get_close_matches(name, _builders, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_builders)}"
        raise InputError(f"unknown space {name!r}; {hint} (`tunas spaces` lists them all)")
    return _spaces.setdefault(name, space)


def _user_function(name: str) -> Callable[[], Tower]:
    location, _, function = name.rpartition(":")
    try:
        if location.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(location).stem, location)
            if spec is None or spec.loader is None or not Path(location).is_file():
                raise InputError(f"cannot load space {name!r}: there is no file {location}")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(location)
        build = getattr(module, function)
    except InputError:
        raise
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: names that no module can have
        raise InputError(f"cannot load space {name!r}: {error}") from None
    if not callable(build):
        raise InputError(f"cannot load space {name!r}: {function} is not a function")
    return build
