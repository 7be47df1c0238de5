"""Flags of other commands inside a command that calls them: `--train epochs=30`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, TypeVar

from tunas.errors import InputError
from tunas.task.config import TaskConfig

C = TypeVar("C", bound=Any)


def with_flags(kind: type[C], command: str, flags: Sequence[str], data: TaskConfig | None = None, **settings: Any) -> C:
    """A configuration of another command: `settings`, the dataset of `data`, and flags as name=value.

    Args:
        kind: of the configuration.
        command: what the flag is called that the flags came in, such as `train`.
        flags: what the user said.
        data: what the calling command was told about the task; None where the other one is not told.
        settings: what the calling command decides, so that no flag may.

    Raises:
        InputError: where a flag is unknown, set by the caller itself, or its value is no value of its type.
    """
    from tunas.words import read_quietly

    names = {field.name for field in dataclasses.fields(kind)}
    shared = {} if data is None else {field.name: getattr(data, field.name) for field in dataclasses.fields(TaskConfig)}
    words = []
    for flag in flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not equals or name not in names:
            raise InputError(f"--{command} {flag}: give a flag of `tunas {command}` with its value, such as epochs=30")
        if name in settings or name in shared or name == "checkpoint_dir":
            raise InputError(f"--{command} {flag}: {name} is set already, by this command itself")
        words.append(f"--{name}={value}")
    read = functools.partial(read_quietly, kind, default=kind(**{**shared, **settings}))
    config = read(words)
    if config is None:
        wrong = " ".join(flag for flag, word in zip(flags, words, strict=True) if read([word]) is None)
        raise InputError(f"--{command} {wrong}: the value is none of the flag's type")
    return config
