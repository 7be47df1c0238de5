"""Packages that can be called.

Python puts a package in the place of the function of the same name in `tunas` as soon as anything imports it:
`tunas.search` is the function before a search, and the package `tunas.search` after it. Both have to do the same.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def make_callable(package: str, module: str, function: str) -> None:
    """Makes calling `package` call `function` of `module`, which is imported then."""

    class Callable(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return getattr(importlib.import_module(module), function)(*arguments, **named)

    sys.modules[package].__class__ = Callable
