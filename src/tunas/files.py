"""Files that are either the old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tunas.errors import InputError


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Makes `path` hold what `write` writes, all of it or nothing: temporary name, fsync, rename.

    Several processes may do this at once; the last one to finish wins.

    Raises:
        OSError: where the file cannot be written (full disk, no permission); the old one is then untouched.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """`write_whole` of content that is there already."""
    write_whole(path, lambda file: file.write(content))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`write_whole` of UTF-8 text."""
    write_bytes(path, text.encode())


def read_json(path: str | os.PathLike[str], what: str = "") -> Any:
    """The value that a JSON file holds.

    Args:
        what: stands before the path where it cannot be read, such as "the cost model".

    Raises:
        InputError: where it cannot be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {' '.join(filter(None, (what, os.fspath(path))))}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{os.fspath(path)} is not valid JSON: {error}") from None


def check_writable(path: str | os.PathLike[str]) -> None:
    """Checks at the beginning that a file can be written at the end; leaves nothing behind.

    Its directory need not exist yet, where it can be made.

    Raises:
        InputError: where the path is a directory, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"cannot write {path}: permission denied")
    try:
        above = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    if not above.is_dir():
        raise InputError(f"cannot write {path}: {above} is no directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: no permission to write in {above}")
    try:
        with tempfile.TemporaryFile(dir=above):  # root has every permission, also where nothing can be written
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error} in {above}") from None


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory, made where it is not there.

    Raises:
        InputError: where it cannot be made or written to.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to directory {path}: {error.strerror}") from None
    return path


@contextlib.contextmanager
def unless_refused(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The directory, made where it is not there; where what is done within the context fails, what was made is gone
    again, if nothing lies in it.

    Raises:
        InputError: where it cannot be made or written to.
    """
    made = [place for place in (Path(path), *Path(path).parents) if not place.exists()]
    try:
        yield make_directory(path)
    except BaseException:
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turns "disk full" and "no permission" within the context into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}") from None


def _sync_directory(path: Path) -> None:
    """Makes a rename in the directory survive a power cut."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # not every file system can
    finally:
        os.close(descriptor)
