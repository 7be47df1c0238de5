"""Tables about a dataset that take a while to make and are kept as files: where every record of a shard begins."""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tunas.data.examples import digest
from tunas.data.shared import SharedArrays
from tunas.data.storage import concurrently, exclusively, state_of, storage_error, write_whole

VERSION = 2
log = logging.getLogger("tunas.data")


class ShardIndex:
    """Where the examples of a list of shards lie, in shard order and then in the order within the shard."""

    def __init__(self, shards: Sequence[str], counts: np.ndarray, places: np.ndarray):
        self.shards = list(shards)
        self._ends = np.cumsum(counts)
        self._tables = SharedArrays(places=places)

    def __len__(self) -> int:
        return len(self._tables["places"])

    def place(self, index: int) -> tuple[str, int, int]:
        """Path, offset and length in bytes."""
        offset, length = self._tables["places"][index]
        return self.shards[np.searchsorted(self._ends, index, side="right")], int(offset), int(length)

    def identity(self) -> str:
        """From the shards' names and how many examples each holds."""
        return digest(*(shard.rpartition("/")[2] for shard in self.shards), np.asarray(self._ends, "<i8").tobytes())

    def fingerprint(self, indices: np.ndarray) -> str:
        """From the shards' names and states and the examples' offsets and lengths."""
        numbers = np.searchsorted(self._ends, indices, side="right")
        places = np.ascontiguousarray(self._tables["places"][indices], "<i8")
        return digest(
            shards_key("examples", self.shards), np.ascontiguousarray(numbers, "<i8").tobytes(), places.tobytes()
        )


def shards_key(kind: str, shards: Sequence[str]) -> str:
    """Changes where a shard is another file, as far as name, size and time of change (or a remote one's etag) tell.

    Raises:
        InputError: where a shard is missing.
        TemporaryError: where the storage does not answer.
    """

    def state(path: str) -> str:
        try:
            return f"{path.rpartition('/')[2]}\0{state_of(path)}"
        except OSError as error:
            raise storage_error(path, error) from None

    text = "\n".join([kind, str(VERSION), *concurrently(state, shards)])
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def kept_arrays(
    cache_dir: Path | None, kind: str, key: str, names: Sequence[str], build: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays that `build` makes, from the file of an earlier run where there is a sound one.

    Args:
        cache_dir: where such files are kept; None keeps none.
        kind: what the arrays are, the first part of the file's name.
        key: changes when they do, the second part.
        names: of the arrays.
        build: makes them.
    """
    if cache_dir is None:
        return build()
    path = cache_dir / f"{kind}-{key}.npz"
    with exclusively(path):
        if (arrays := _sound_arrays(path, names)) is None:
            arrays = build()
            write_whole(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    return arrays


def _sound_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays in a file; None, with a warning, where it is damaged, and where there is none."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a zip file with a checksum for each array
            return {name: file[name] for name in names}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s) and will be made again", path, error)
        return None
