"""Large tables that the processes which decode share rather than copy, however they are started."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SMALL = 2**20
"""Bytes up to which a table is simply sent."""


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tunas-")


def scratch_directory() -> Path:
    """A directory that goes with this process."""
    return Path(_scratch().name)


class SharedArrays:
    """Arrays by name, which must not be written to.

    A forked process has the pages of its parent. One that is started anew is sent the name of a file, which it maps:
    a million file names are then in memory once, not once a process.
    """

    def __init__(self, **arrays: np.ndarray):
        self._arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._file: str | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __reduce__(self) -> tuple[Any, ...]:
        if sum(array.nbytes for array in self._arrays.values()) < SMALL:
            return _sent, (self._arrays,)
        if self._file is None:
            directory = Path(tempfile.mkdtemp(dir=scratch_directory()))
            for name, array in self._arrays.items():
                np.save(directory / f"{name}.npy", array, allow_pickle=False)
            self._file = str(directory)
        return _mapped, (self._file, tuple(self._arrays))


def _sent(arrays: dict[str, np.ndarray]) -> SharedArrays:
    return SharedArrays(**arrays)


def _mapped(directory: str, names: tuple[str, ...]) -> SharedArrays:
    shared = SharedArrays()
    shared._file = directory
    shared._arrays = {name: np.load(f"{directory}/{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    return shared
