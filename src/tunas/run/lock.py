"""One process at a time in a directory, on whatever file system and machine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunas.errors import InUseError
from tunas.files import make_directory, writing_to

LOCK = "lock.json"
HEARTBEAT = 10.0
"""Seconds between two signs of life in the lock."""
SILENCE = 90.0
"""Seconds without one after which a lock of another machine counts as left behind."""
LOCKED_BYTE = 2**30
"""Place of the lock of Windows in the file: far behind its content, so that others can read that."""
HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
_held: set[int] = set()
"""Descriptors of the locks of this process."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps every other process out of the directory, which is made where it is not there.

    The lock file names host and process. What holds it is the kernel's lock on that file (`flock`), which ends with the
    process however it ends, so a file left behind on this machine is simply taken over. One that names another machine
    is watched: it is taken over once it shows no sign of life for `SILENCE` seconds.

    Raises:
        InputError: where another process holds it.
    """
    made = not path.exists()
    descriptor = _taken(path)
    _held.add(descriptor)
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(descriptor, path / LOCK, ended), name="tunas-lock", daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        _held.discard(descriptor)
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()
        os.close(descriptor)
        with contextlib.suppress(OSError):
            if not HAS_FLOCK:
                (path / LOCK).unlink()  # Windows removes no open file
        with contextlib.suppress(OSError):
            if made:
                path.rmdir()  # where nothing came of the run


def _taken(path: Path) -> int:
    """Descriptor of the lock file, which from now on is this process's."""
    lock = path / LOCK
    while True:
        make_directory(path)
        with writing_to(path):
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            exclusive = _flocked(descriptor)
            holder = _holder(descriptor)
            is_named = "pid" in holder and "host" in holder
            who = f"process {holder['pid']} on {holder['host']}" if is_named else "another process"
            is_left = exclusive and holder.get("host") in (None, socket.gethostname())
            if exclusive is False or not (is_left or _is_silent(lock, who)):
                raise InUseError(f"{path} is in use by {who}; wait for it to end, or name another directory")
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    _write_holder(path, descriptor)
                    return descriptor
            os.close(descriptor)  # whoever had it has just removed it
        except BaseException:
            os.close(descriptor)
            raise


def _flocked(descriptor: int) -> bool | None:
    """Whether the kernel gave us the lock; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return _locked_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _locked_on_windows(descriptor: int) -> bool | None:
    """`_flocked` on Windows."""
    try:
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except PermissionError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _holder(descriptor: int) -> dict[str, Any]:
    """What the lock file says."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        value = json.loads(os.read(descriptor, 4096))
    except (ValueError, OSError):  # the latter on Windows, where another process holds the lock
        return {}
    return value if isinstance(value, dict) else {}


def _write_holder(path: Path, descriptor: int) -> None:
    with writing_to(path):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())


def _is_silent(lock: Path, who: str) -> bool:
    """Whether nobody touches the lock file while we watch; at once where there is nothing in it."""
    if not lock.stat().st_size:
        return True
    print(
        f"{lock.parent} is locked by {who}: watching for {SILENCE:g} seconds whether it is still there",
        file=sys.stderr,
        flush=True,
    )
    touched = _touched(lock)
    until = time.monotonic() + SILENCE
    while time.monotonic() < until:
        time.sleep(SILENCE / 50)
        if _touched(lock) != touched:
            return False
    return True


def _touched(lock: Path) -> int:
    """Time of the last change, not as a network file system remembers it but as it is: opening a file asks."""
    try:
        with open(lock, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _beat(descriptor: int, path: Path, ended: threading.Event) -> None:
    """Touches the lock file every `HEARTBEAT` seconds until `ended` is set."""
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            if os.utime in os.supports_fd:
                os.utime(descriptor)
            else:
                os.utime(path)


def _let_go_in_child() -> None:
    """A forked process, such as one that decodes images and may outlive us for a moment, does not hold our locks."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
