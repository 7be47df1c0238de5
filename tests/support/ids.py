"""How a parameter reads in the name of a test: `[kernel=3-stride=2]`, not `[3-2]`; `[epochs=0]`, not `[settings0]`."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).parents[1])
LONGEST = 80
"""Characters of a parameter. Of a longer one pytest's own short name is taken."""


def parameter_id(value: Any, name: str) -> str | None:
    """The part of a test's name that stands for a parameter; None: as pytest has it."""
    if isinstance(value, str):
        text = value.replace(TESTS, "tests") or f"empty {name}"
    elif isinstance(value, enum.Enum):
        text = value.name
    elif value is None or isinstance(value, bool | int | float | complex):
        text = f"{name}={value}"
    elif isinstance(value, types.FunctionType) and value.__name__ == "<lambda>":
        text = _body(value) or name
    elif isinstance(value, Mapping):
        text = " ".join(f"{key}={_short(each)}" for key, each in value.items()) or f"empty {name}"
    elif isinstance(value, bytes) and not value:
        text = f"empty {name}"
    elif isinstance(value, bytes) or callable(value):
        return None
    else:
        text = f"{name}={_short(value)}"
    return text if len(text) <= LONGEST and text.isprintable() and " at 0x" not in text else None


def _short(value: Any) -> str:
    if isinstance(value, set | frozenset):  # in one order in every worker
        value = sorted(value, key=str)
    try:
        return str(value).removeprefix("torch.")
    except (TypeError, ValueError):  # a layer that a test has given a value that cannot be printed
        return type(value).__name__


def _body(function: types.FunctionType) -> str:
    """The expression that a lambda returns, as it is written."""
    lines = inspect.findsource(function)[0]
    places = [place for place in function.__code__.co_positions() if None not in place]
    places = [place for place in places if place[0] >= function.__code__.co_firstlineno and place[3] > place[2]]
    if not places:
        return ""
    (first, start), (last, end) = min((row, at) for row, _, at, _ in places), max((row, at) for _, row, _, at in places)
    if first != last:
        return ""
    return lines[first - 1].encode()[start:end].decode().strip()
