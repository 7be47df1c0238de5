"""Bytes of files, whether they lie on this machine or behind a URL that fsspec understands (gs://, s3://, https://,
…)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from tunas import files
from tunas.errors import InputError

THREADS = 16
REMOTE_BLOCK = 2**24
"""Bytes fetched at a time where a remote file is read from end to end."""

T = TypeVar("T")
R = TypeVar("R")


class Range(NamedTuple):
    """A piece of a file: `length` bytes from `offset`; a length of -1 reaches to the end."""

    path: str
    offset: int = 0
    length: int = -1


def is_remote(path: str) -> bool:
    return "://" in path


def concurrently(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]` by threads, for work that waits on storage."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
        return list(pool.map(function, items))


def read_ranges(ranges: Sequence[Range]) -> list[bytes | OSError]:
    """The bytes of each range (all remote, or none), or the error that reading it raised; remote ones are fetched at
    the same time."""
    if len(ranges) < 2 or not is_remote(ranges[0].path):
        return [_range_or_error(each) for each in ranges]
    paths, offsets, lengths = (list(column) for column in zip(*ranges, strict=True))
    stops = [offset + length for offset, length in zip(offsets, lengths, strict=True)]
    contents = _filesystem(paths[0]).cat_ranges(paths, offsets, stops, on_error="return")
    return [_as_os_error(content) if isinstance(content, Exception) else content for content in contents]


def read_bytes(path: str) -> bytes:
    """A whole file.

    Raises:
        InputError: where it cannot be read.
    """
    content = _range_or_error(Range(path))
    if isinstance(content, OSError):
        raise InputError(f"cannot read {path}: {reason(content)}")
    return content


def read_text(path: str) -> str:
    """A whole file as UTF-8 text; `InputError` where it is not."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8") from None


def reason(error: BaseException) -> str:
    """What went wrong, in words and without the path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_binary(path: str) -> BinaryIO:
    """The file, open for reading and seeking.

    Raises:
        OSError: where it cannot be opened.
    """
    if not is_remote(path):
        return open(path, "rb")
    try:
        return _filesystem(path).open(path, "rb", block_size=REMOTE_BLOCK)
    except InputError:
        raise
    except Exception as error:
        raise _as_os_error(error) from None


def size_of(path: str) -> int:
    """Bytes in a file.

    Raises:
        OSError: where there is none.
    """
    if not is_remote(path):
        return os.stat(path).st_size
    try:
        return int(_filesystem(path).info(path)["size"])
    except InputError:
        raise
    except Exception as error:
        raise _as_os_error(error) from None


def list_names(directory: str) -> list[str]:
    """Names of the entries of a directory, sorted; none where it is not a directory.

    Raises:
        InputError: where a remote one cannot be listed for any other reason.
    """
    try:
        if is_remote(directory):
            entries = _filesystem(directory).ls(directory, detail=False)
            return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except InputError:
        raise
    except Exception as error:  # an fsspec backend may raise exceptions of its own client
        raise InputError(f"cannot list {directory}: {reason(error)}") from None


def join(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`tunas.files.write_whole`, which makes the directory too.

    Raises:
        InputError: where there is no room or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(path, write)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from None


@contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Holds other processes off making the same file, where the file system can lock; elsewhere they make it twice,
    harmlessly."""
    with ExitStack() as stack:
        try:
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path.parent / f".{path.name}.lock", "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass
        yield


def _range_or_error(wanted: Range) -> bytes | OSError:
    path, offset, length = wanted
    try:
        if is_remote(path):
            stop = None if length < 0 else offset + length
            return _filesystem(path).cat_file(path, start=offset, end=stop)
        if length < 0 and not offset:
            return Path(path).read_bytes()  # which a pipe can do too
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            if length < 0:
                length = os.fstat(descriptor).st_size - offset
            content = os.pread(descriptor, length, offset)
            while len(content) < length and (
                more := os.pread(descriptor, length - len(content), offset + len(content))
            ):
                content += more
            return content
        finally:
            os.close(descriptor)
    except OSError as error:
        return error
    except Exception as error:  # an fsspec backend may raise exceptions of its own client
        if not is_remote(path):
            raise
        return _as_os_error(error)


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")


def _filesystem(path: str):  # type: ignore[no-untyped-def]
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)[0]
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
