"""The exceptions that mean "the input is wrong, not the program", and checks that raise them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

NOT_AS_ASKED = 3
"""Exit code of a command that did its work, but whose result is not what was asked for: a firm tolerance was missed, or
only part of what should be read could be read."""


class InputError(ValueError):
    """Bad input from the user: one sentence saying what was wrong, where, and what would be right.

    The command line prints the sentence and exits with code 2; from Python it is an ordinary `ValueError`.

    Attributes:
        told: whether another process of the job says it already.
    """

    told = False


class InUseError(InputError):
    """Another process works in the directory; it may have been told to end and be about to."""


class DivergedError(ArithmeticError):
    """The loss became NaN or infinite. The command line prints the sentence and exits with code 1."""

    told = False


class TemporaryError(Exception):
    """Neither the input nor the program is wrong: a storage does not answer, or the system ended a process.

    Starting the same command again may help. The command line prints the sentence and exits with code 75 (EX_TEMPFAIL
    of sysexits.h).
    """

    told = False


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """What a message about an unknown name goes on with: the known ones that look like it, or else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"


def check_positive(name: str, value: Any) -> None:
    """Lets None pass, and positive numbers.

    Raises:
        InputError: otherwise, also where the value is no number at all, as one read from a file may be.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if value is not None and not (is_number and math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a positive number, not {value!r}")


def check_not_negative(name: str, value: float | None) -> None:
    """Lets None pass, zero, and positive numbers.

    Raises:
        InputError: otherwise.
    """
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} must be a number that is not negative, not {value}")


def check_finite(config: Any) -> None:
    """Refuses a configuration with a number that is none, or is infinite.

    Raises:
        InputError: naming the field.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, float) and not math.isfinite(each):
                raise InputError(f"{field.name} must be a number, not {each}")
