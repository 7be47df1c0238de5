"""How a parameter reads in the name of a test: `[kernel=3-stride=2]`, not `[3-2]`; `[epochs=0]`, not `[settings0]`."""

from __future__ import annotations

import enum
import inspect
import re
import string
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).parents[1])
PRINTABLE = string.printable.encode()
LONGEST = 80
"""Characters of a parameter; of a longer one, the beginning."""
ADDRESS = re.compile(r"<(?:\w+ )*(?:[\w.]*\.)?(\w+)(?: object)? at 0x[0-9a-f]+>")
"""A value that says no more of itself than its name and where it lies, which is another place in each process."""
PLACE = re.compile(r" at 0x[0-9a-f]+")
"""What is left of that within others."""


def parameter_id(value: Any, name: str) -> str | None:
    """The part of a test's name that stands for a parameter; None, for a function or a class: as pytest has it."""
    if isinstance(value, str):
        text = value or f"empty {name}"
    elif isinstance(value, enum.Enum):
        text = value.name
    elif value is None or isinstance(value, bool | int | float | complex):
        text = f"{name}={value}"
    elif isinstance(value, types.FunctionType) and value.__name__ == "<lambda>":
        text = _body(value) or name
    elif isinstance(value, Mapping):
        text = " ".join(f"{key}={_short(each)}" for key, each in value.items()) or f"empty {name}"
    elif isinstance(value, bytes):
        first = value[:8] if any(byte not in PRINTABLE for byte in value) else value
        more = f"… {len(value)} bytes" if len(first) < len(value) else ""
        text = str(first).removeprefix("b")[1:-1] + more or f"empty {name}"
    elif callable(value):
        return None
    else:
        text = f"{name}={_short(value)}"
    text = PLACE.sub("", ADDRESS.sub(r"\1", text.replace(TESTS, "tests")))
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


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
