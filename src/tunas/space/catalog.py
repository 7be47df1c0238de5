"""Spaces by name: the three of the paper, six reference architectures, and the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunas.errors import InputError, nearest
from tunas.named import load_named
from tunas.space import mobilenet_v3, proxylessnas
from tunas.space.architecture import Space
from tunas.space.layers import Tower

PROXYLESS_TARGET = 84.0
"""Pixel-1 milliseconds that the paper's searches of the ProxylessNAS spaces aim for (docs/algorithm.md#reward)."""
V3_TARGET = 57.0
"""The same of its MobileNetV3-like space."""
V3_FAMILY = ("mobilenet_v3_like_search", "mobilenet_v3_large", "mobilenet_multi_avg", "mobilenet_multi_max")
"""Spaces with the larger dropout (docs/algorithm.md#stand-alone-training)."""


@dataclass(frozen=True)
class _Definition:
    """What `register_space` was told."""

    build: Callable[[], Any]
    default_target: float | None = None
    network: Callable[[Any], Any] | None = None
    example: Callable[[], Any] | None = None

    def space(self, name: str) -> Space:
        return Space(name, self.build(), self.default_target, network=self.network, example=self.example)


_definitions: dict[str, _Definition] = {
    "proxylessnas_search": _Definition(proxylessnas.proxylessnas_search, PROXYLESS_TARGET),
    "proxylessnas_enlarged_search": _Definition(proxylessnas.proxylessnas_enlarged_search, PROXYLESS_TARGET),
    "mobilenet_v3_like_search": _Definition(mobilenet_v3.mobilenet_v3_like_search, V3_TARGET),
    "mobilenet_v2": _Definition(proxylessnas.mobilenet_v2),
    "mnasnet_b1": _Definition(proxylessnas.mnasnet_b1),
    "proxylessnas_mobile": _Definition(proxylessnas.proxylessnas_mobile),
    "mobilenet_v3_large": _Definition(mobilenet_v3.mobilenet_v3_large),
    "mobilenet_multi_avg": _Definition(mobilenet_v3.mobilenet_multi_avg),
    "mobilenet_multi_max": _Definition(mobilenet_v3.mobilenet_multi_max),
}
PACKAGED = tuple(_definitions)
_spaces: dict[str, Space] = {}


def space_names() -> tuple[str, ...]:
    """Every name that `get_space` knows now."""
    return tuple(_definitions)


def register_space(
    name: str,
    build: Callable[[], Any],
    default_target: float | None = None,
    *,
    network: Callable[[Any], Any] | None = None,
    example: Callable[[], Any] | None = None,
) -> Space:
    """Makes `name` a space everywhere, in Python and (in the same process) on the command line.

    Args:
        name: letters, digits, `_` and `-`.
        build: a function of no arguments that returns a Tower, or with `network` any frozen structure.
        default_target: cost that a search aims for where none is given.
        network: what builds the torch module of a structure that is no Tower: `network(structure)`, called once with
            choices and once without. Its `forward(inputs, indices=None)` takes whatever the task hands it.
        example: a function of no arguments that returns the inputs of one example, by which such a network is counted
            and measured where no task is at hand.

    Raises:
        InputError: where the name is taken or is not a name, or the structure cannot be searched.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"a space's name consists of letters, digits, _ and -, unlike {name!r}")
    if name in PACKAGED:
        raise InputError(f"{name!r} is the name of a packaged space; choose another one")
    known = _definitions.get(name)
    if known is not None and known.build.__module__ != build.__module__:
        raise InputError(f"{name!r} is the name of a space of {known.build.__module__} already; choose another one")
    definition = _Definition(build, default_target, network, example)
    space = definition.space(name)
    _definitions[name], _spaces[name] = definition, space
    return space


def get_space(name: str) -> Space:
    """The space of that name, or of `module:name` or `path/to/file.py:name`: a Space, or a function that
    returns one or a Tower.

    Raises:
        InputError: where there is none, with the nearest names.
    """
    if name in _spaces:
        return _spaces[name]
    if name in _definitions:
        space = _definitions[name].space(name)
    elif ":" in name:
        space = _named_space(name)
    else:
        raise InputError(f"unknown space {name!r}; {nearest(name, _definitions)} (`tunas spaces` lists them all)")
    return _spaces.setdefault(name, space)


def _named_space(name: str) -> Space:
    """A space of the user's code, under the name by which it was asked for, so that a later command can ask again."""
    found = load_named(name, "space")
    if callable(found):
        found = found()
    elif not isinstance(found, Space):
        raise InputError(f"cannot load space {name!r}: it is neither a function nor a Space")
    if isinstance(found, Space):
        return Space(name, found.structure, found.default_target, network=found.network, example=found.example)
    space = Space(name, found)
    if not isinstance(found, Tower):
        raise InputError(
            f"space {name!r} is a {type(found).__name__}, and nothing says which module is built from it: name what "
            f"tunas.register_space(…, network=Module) returns"
        )
    return space
