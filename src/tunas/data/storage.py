"""Bytes of files, whether they lie on this machine or behind a URL that fsspec understands (gs://, s3://, https://,
…)."""

from __future__ import annotations

import errno
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from tunas import files
from tunas.errors import InputError, TemporaryError

THREADS = 16
"""Accesses to storage at the same time."""
TRIES = 6
"""How often an access to storage is tried that fails in a way that may pass."""
FIRST_WAIT = 1.0
"""Seconds before the second try; later waits double, with jitter."""
REMOTE_BLOCK = 2**24
"""Bytes fetched at a time where a remote file is read from end to end."""

T = TypeVar("T")
R = TypeVar("R")


class Range(NamedTuple):
    """A piece of a file: `length` bytes from `offset`; a length of -1 reaches to the end."""

    path: str
    offset: int = 0
    length: int = -1


class DamagedFileError(OSError):
    """A file can be read, but is not what it should be: no error of the storage."""


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
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
    failed = [place for place, content in enumerate(contents) if isinstance(content, Exception)]
    again = concurrently(_range_or_error, [ranges[place] for place in failed])
    found = dict(zip(failed, again, strict=True))
    return [found.get(place, content) for place, content in enumerate(contents)]


def patiently(work: Callable[[], R]) -> R:
    """What `work` returns, which is tried again, ever later, for as long as it raises an error that may pass.

    Raises:
        OSError: the last one, after `TRIES`; or the first that will not pass.
    """
    try:
        return work()  # nearly always; what follows costs more than to read a small file
    except OSError as error:
        if not may_pass(error):
            raise
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

    waiting = wait_exponential(multiplier=FIRST_WAIT, max=30 * FIRST_WAIT) + wait_random(0, FIRST_WAIT)
    time.sleep(FIRST_WAIT / 2)
    retrying = Retrying(
        stop=stop_after_attempt(TRIES - 1),
        wait=waiting,
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and may_pass(error)),
        reraise=True,
    )
    return retrying(work)


_LASTING = frozenset(
    getattr(errno, name)
    for name in ("ENOENT", "EACCES", "EPERM", "EISDIR", "ENOTDIR", "ELOOP", "ENAMETOOLONG", "EINVAL", "ENOSPC", "EROFS")
)


def may_pass(error: OSError) -> bool:
    """Whether the same access may work later: a server that is busy, a connection that broke."""
    lasting = (DamagedFileError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, lasting):  # those of fsspec have no number
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in (408, 425, 429)
    return error.errno not in _LASTING


def storage_error(path: str, error: OSError) -> InputError | TemporaryError:
    """What to raise where `path` cannot be read for the run to go on."""
    if may_pass(error):
        return TemporaryError(
            f"cannot read {path}: {reason(error)}, {TRIES} times in a row; start the same command again once the "
            f"storage answers"
        )
    return InputError(f"cannot read {path}: {reason(error)}")


def read_bytes(path: str) -> bytes:
    """A whole file.

    Raises:
        InputError: where it cannot be read.
    """
    content = _range_or_error(Range(path))
    if isinstance(content, OSError):
        raise storage_error(path, content)
    return content


def read_text(path: str) -> str:
    """A whole file as UTF-8 text, without a byte-order mark; `InputError` where it is not."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8") from None


def read_json_object(path: str) -> dict[str, Any]:
    """The object in a JSON file; `InputError` where there is none."""
    return json_object(read_text(path), path)


def json_object(text: str, where: str) -> dict[str, Any]:
    """The object that JSON text says; `InputError` where it says none, which names `where` it stands."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{where} must hold a JSON object")
    return document


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
    return asked(lambda: _filesystem(path).open(path, "rb", block_size=REMOTE_BLOCK))


def size_of(path: str) -> int:
    """Bytes in a file.

    Raises:
        OSError: where there is none.
    """
    return os.stat(path).st_size if not is_remote(path) else int(_info(path)["size"])


_STATES = (
    *("size", "etag", "ETag", "md5Hash", "content_md5", "generation", "version_id"),
    *("mtime", "updated", "last_modified", "LastModified", "Last-Modified", "modified", "created"),
)
"""What file systems behind URLs call the size of a file and what changes with it."""


def state_of(path: str) -> str:
    """Changes where the file is another one, as far as its size and what the storage says (time of change, or a remote
    one's etag) tell.

    Raises:
        OSError: where there is none.
    """
    if not is_remote(path):
        found = os.stat(path)
        return f"{found.st_size} {found.st_mtime_ns}"
    info = _info(path)
    return " ".join(str(info[name]) for name in _STATES if info.get(name) is not None)


def _info(path: str) -> dict[str, Any]:
    return asked(lambda: _filesystem(path).info(path))


def asked(work: Callable[[], R]) -> R:
    """What `work`, which asks a remote file system, comes to; asked patiently.

    Raises:
        OSError: where it does not answer, whatever its client raised.
    """

    def ask() -> R:
        try:
            return work()
        except (InputError, OSError):
            raise
        except Exception as error:  # an fsspec backend may raise exceptions of its own client
            raise _as_os_error(error) from None

    return patiently(ask)


def list_names(directory: str) -> list[str]:
    """Names of the entries of a directory, sorted; none where it is not a directory.

    Raises:
        InputError: where a remote one cannot be listed for any other reason.
    """
    try:
        if is_remote(directory):
            entries = asked(lambda: _filesystem(directory).ls(directory, detail=False))
            return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot list {directory}: {reason(error)}") from None


def join(directory: str, name: str) -> str:
    """The path of what is called `name` in a directory, here or behind a URL."""
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
    try:
        return patiently(functools.partial(_content, wanted))
    except OSError as error:
        return error


def _content(wanted: Range) -> bytes:
    """The bytes of a range, asked for once."""
    path, offset, length = wanted
    if is_remote(path):
        stop = None if length < 0 else offset + length
        try:
            return _filesystem(path).cat_file(path, start=offset, end=stop)
        except (InputError, OSError):
            raise
        except Exception as error:  # an fsspec backend may raise exceptions of its own client
            raise _as_os_error(error) from None
    if length < 0 and not offset:
        return Path(path).read_bytes()  # which a pipe can do too
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    try:
        if length < 0:
            length = os.fstat(descriptor).st_size - offset
        content = _read_at(descriptor, length, offset)
        while len(content) < length and (more := _read_at(descriptor, length - len(content), offset + len(content))):
            content += more
        return content
    finally:
        os.close(descriptor)


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    """`os.pread`, which Windows has not. Nobody else reads from the descriptor."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


def _as_os_error(error: Exception) -> OSError:
    """An error of a client as one of storage, with its HTTP status where it has one."""
    found = OSError(f"{type(error).__name__}: {error}")
    found.status = getattr(error, "status", None)  # type: ignore[attr-defined]
    return found


def _filesystem(path: str):  # type: ignore[no-untyped-def]
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)[0]
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
