"""What is wrong with the words of a command line, in one sentence. tyro says it in boxes of many lines, in Python's
terms."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tyro

NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true, false or nothing"}


def read_quietly(kind: type, words: Sequence[str], **how: Any) -> Any:
    """What tyro makes of the words; None where they are wrong, of which nothing is said."""
    with contextlib.redirect_stderr(io.StringIO()):  # `console_outputs` leaves some messages out, others not
        try:
            return tyro.cli(kind, args=words, console_outputs=False, **how)
        except SystemExit:
            return None


def wrong_words(groups: Any, words: Sequence[str], texts: Mapping[str, str], **how: Any) -> str | None:
    """The first thing that is wrong, and what would be right.

    Args:
        groups: a dataclass of dataclasses, whose fields are a command's flags.
        words: as tyro took them.
        texts: flag -> help.
        how: what else tyro was told.

    Returns:
        None where each flag can be read by itself, so that it must be something else.
    """
    fields = {
        field.name: field
        for group in dataclasses.fields(groups)
        for field in dataclasses.fields(typing.cast(Any, group.type))
    }
    positional = next((name for name, field in fields.items() if "Positional" in str(field.type)), None)
    given = set()
    for part in _parts(words):
        flag = part[0]
        name = _name(flag, fields) if flag.startswith("--") else positional
        given.add(name)
        if name is None:
            return f"{' '.join(part)!r} belongs to no flag"
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            return f"there is no flag {flag.partition('=')[0]}" + (f"; did you mean --{near[0]}?" if near else "")
        can_be_read = functools.partial(_can_be_read, fields[name], how)
        if not can_be_read(part):
            return _unread(part, fields[name].type, can_be_read)
    for name, field in fields.items():
        if name not in given and is_required(field):
            return f"--{name} is missing: {texts[name].rstrip('.')}"
    return None


def is_required(field: dataclasses.Field) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _parts(words: Sequence[str]) -> list[list[str]]:
    """Each flag with the words after it; and before these, the words before the first flag."""
    parts: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not parts:
            parts.append([])
        parts[-1].append(word)
    return parts


def _name(flag: str, fields: Mapping[str, dataclasses.Field]) -> str:
    """The field that a flag sets: `no_` before it makes a boolean one false."""
    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    if name == "from" and "from_run" in fields:
        return "from_run"
    positive = name.removeprefix("no_")
    return positive if name not in fields and positive in fields and _plain(fields[positive].type) is bool else name


def _can_be_read(field: dataclasses.Field, how: Mapping[str, Any], words: Sequence[str]) -> bool:
    """Whether tyro takes the words where the command has this flag alone."""
    kept = dataclasses.field(default=field.default, default_factory=field.default_factory, kw_only=True)
    return read_quietly(dataclasses.make_dataclass("alone", [(field.name, field.type, kept)]), words, **how) is not None


def _unread(part: list[str], kind: Any, can_be_read: Callable[[Sequence[str]], bool]) -> str:
    """What is wrong with a flag and its words: a value too many, none, or none that its type has."""
    for count in reversed(range(1, len(part))):
        if can_be_read(part[:count]):
            return f"{' '.join(part[count:])!r} after {' '.join(part[:count])} belongs to no flag"
    wanted = _wanted(kind)
    if len(part) == 1 and part[0].startswith("--") and "=" not in part[0]:
        return f"{part[0]} needs a value: {wanted}"
    return f"{' '.join(part)}: give {wanted}"


def _wanted(kind: Any) -> str:
    """A type as a sentence names it."""
    kind = _plain(kind)
    members = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return _either(map(str, members))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _either(_wanted(member) for member in members if member is not types.NoneType)
    if typing.get_origin(kind) is tuple:
        several = len(members) if members[-1] is not Ellipsis else 1
        one = _wanted(members[0])
        return one if several == 1 else f"{several} values, each {one}"
    return NAMES.get(kind, "another value")


def _plain(kind: Any) -> Any:
    """Without annotations, and without None."""
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    members = [member for member in typing.get_args(kind) if member is not types.NoneType]
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return _plain(members[0]) if is_union and len(members) == 1 else kind


def _either(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
