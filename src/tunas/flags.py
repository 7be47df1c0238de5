"""Flags that mean nothing where they are given. A flag is given where its value is not the default."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from tunas.errors import InputError


def given(config: Any) -> dict[str, Any]:
    """The fields of a configuration that have another value than the default, in their order."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING and getattr(config, field.name) != field.default
    }


def refuse(config: Any, names: Iterable[str], where: str) -> None:
    """Refuses those of the fields that are given.

    Args:
        names: of fields that mean nothing here.
        where: in words, such as `with --mode=eval`.

    Raises:
        InputError: naming them.
    """
    dead = sorted(given(config).keys() & set(names))
    if dead:
        raise InputError(f"{flags(dead)} {'mean' if len(dead) > 1 else 'means'} nothing {where}; leave it out")


def refuse_in_mode(config: Any, meant_for: Mapping[str, frozenset[str]], mode: str, where: str) -> None:
    """Refuses the fields that are given and not meant for the mode.

    Args:
        meant_for: field -> the modes in which it means something; those not named do in each.
        mode: the present one.
        where: the present one, in words.
    """
    refuse(config, [name for name, modes in meant_for.items() if mode not in modes], where)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """The values of a flag that may be given several times: none for None."""
    return () if value is None else tuple(value) if isinstance(value, tuple | list) else (value,)


def flags(names: Iterable[str]) -> str:
    """Fields as the flags that a sentence names: `--one and --other`."""
    return " and ".join(f"--{name}" for name in names)


def as_told(config: Any, names: Iterable[str]) -> list[str]:
    """Those of the fields that are given, as words that a shell takes for flags of another command."""
    words = []
    for name, value in given(config).items():
        if name not in set(names):
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [shlex.quote(f"--{name}={one}") for one in values]
    return words
