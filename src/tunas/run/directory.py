"""The directory of a run: `params.json` and `model_spec.json` first, one process at a time, resumed only as the same
run."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunas.errors import InputError, InUseError
from tunas.files import make_directory, write_text, writing_to
from tunas.run.device import World
from tunas.run.history import HISTORY, note_session
from tunas.run.settings import Kind, changes, in_words, without

PARAMS = "params.json"
MODEL_SPEC = "model_spec.json"
RESULT = "result.json"
LOCK = "lock.json"
DATA = "data.json"
CACHE = "cache"
CHECKSUM = "checksum"
"""Entry of `params.json`: SHA-256 of the other entries and of `model_spec.json`. Of `result.json`: of the others."""


def default_directory(kind: str, space_name: str) -> str:
    """Where a run goes that is given no directory: under runs/, by its space and the time."""
    name = space_name.replace(":", "-").replace("/", "-").replace("\\", "-")
    return f"runs/{kind}-{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def run_directory(kind: str, space_name: str, given: str | None, world: World) -> Path:
    """Where a run goes: the directory that was given, or the default one, the same in every process."""
    return Path(world.from_main(lambda: given or default_directory(kind, space_name))).expanduser()


def check_directory(path: Path) -> None:
    """Refuses a directory that holds something other than a run.

    Raises:
        InputError: naming what it holds.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a directory for the run")
    if path.is_dir() and not (path / PARAMS).exists():
        # What there may be of a run that was killed before it wrote its parameters, or of an evaluation, which has
        # none.
        known = (LOCK, DATA, CACHE, MODEL_SPEC, RESULT, HISTORY)
        foreign = sorted(
            entry.name for entry in path.iterdir() if entry.name not in known and not entry.name.startswith(".")
        )
        if foreign:
            raise InputError(
                f"{path} is not empty and holds no {PARAMS} (but {', '.join(foreign[:3])}); name a new directory"
            )


def open_run(path: Path, params: dict[str, Any], model_spec: str, compared: frozenset[str] = frozenset()) -> None:
    """Makes the directory of a new run, or checks that the one there is the same run, and notes the session in its
    history. `tunas.run.settings` says which parameters may differ between the sessions of one run.

    Args:
        path: the directory.
        params: everything that decides the run's result, as JSON values.
        model_spec: the searched or trained tower as JSON text.
        compared: names of parameters that the task has compared in words of its own.

    Raises:
        InputError: where the directory cannot be written, holds another run (every difference is listed) or something
        else.
    """
    check_directory(path)
    path = make_directory(path)
    from_now_on: dict[str, tuple[Any, Any]] = {}
    if (path / PARAMS).exists():
        old, new = read_params(path), json.loads(json.dumps(params))
        if differences := without(changes(old, new, Kind.IDENTITY), compared):
            raise InputError(
                f"{path} holds a run with other parameters ({in_words(differences)}); "
                "name another directory, or use the same parameters to resume it"
            )
        from_now_on = changes(old, new, Kind.FROM_NOW_ON)
        if (path / MODEL_SPEC).exists() and (path / MODEL_SPEC).read_bytes() != model_spec.encode():
            raise InputError(
                f"{path / MODEL_SPEC} is damaged, or of another search space under the same name; name another "
                f"directory"
            )
    with writing_to(path):
        note_session(path, from_now_on)
        if from_now_on:
            print(f"from now on: {in_words(from_now_on)} (noted in {path / HISTORY})", file=sys.stderr)
        write_text(path / MODEL_SPEC, model_spec)
        document = {**params, CHECKSUM: _checksum(params, model_spec.encode())}
        write_text(path / PARAMS, json.dumps(document, indent=2, sort_keys=True) + "\n")


def check_examples(path: Path, check: Callable[[dict[str, Any], Path], None]) -> None:
    """Calls `check` with the parameters of the run in the directory, where there is one that goes on.

    Raises:
        InputError: what `check` raises.
    """
    if (path / PARAMS).exists():
        check(read_params(path), path)


def read_params(path: Path) -> dict[str, Any]:
    """`params.json` of a run directory, without its checksum.

    Raises:
        InputError: where it is missing or damaged.
    """
    params = read_json_object(path / PARAMS)
    params.pop(CHECKSUM, None)
    return params


def read_model_spec(path: Path) -> str:
    """The text of `model_spec.json` in a run directory.

    Raises:
        InputError: where it cannot be read.
    """
    try:
        return (path / MODEL_SPEC).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {path / MODEL_SPEC}: {getattr(error, 'strerror', None) or 'it is damaged'}"
        ) from None


def is_altered(path: Path) -> bool:
    """Whether `params.json` and `model_spec.json` of a run directory are not what the run wrote; False where the run
    left no checksum."""
    params = read_json_object(path / PARAMS)
    checksum = params.pop(CHECKSUM, None)
    return checksum is not None and checksum != _checksum(params, read_model_spec(path).encode())


def _checksum(params: dict[str, Any], model_spec: bytes) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode() + b"\n" + model_spec).hexdigest()


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InputError: where it cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def write_result(path: Path, document: dict[str, Any]) -> None:
    """Writes `result.json` of a run directory.

    Raises:
        InputError: where the disk is full or the directory cannot be written.
    """
    with writing_to(path):
        checked = {**document, CHECKSUM: _checksum(document, b"")}
        write_text(path / RESULT, json.dumps(checked, indent=2) + "\n")


def read_result(path: Path) -> dict[str, Any]:
    """`result.json` of a run directory, without its checksum.

    Raises:
        InputError: where it cannot be read, or is not as the run wrote it.
    """
    document = read_json_object(path / RESULT)
    checksum = document.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(document, b""):
        raise InputError(f"{path / RESULT} is damaged or was changed: its checksum does not match")
    return document


def quality_in(result: Mapping[str, Any]) -> float:
    """What a training came to, by its `result.json`."""
    return float(result[result.get("quality_name", "accuracy")])


@contextlib.contextmanager
def alone_in(path: Path, world: World) -> Iterator[None]:
    """Within the context the job is the only one at work in the directory, which holds its run or nothing.

    Raises:
        InputError: in every process, where another job is at work there or the directory holds something else.
    """
    with contextlib.ExitStack() as stack:

        def take() -> None:
            check_directory(path)
            stack.enter_context(locked(path))

        world.from_main(take)
        yield


HEARTBEAT = 10.0
"""Seconds between two signs of life in the lock."""
SILENCE = 90.0
"""Seconds without one after which a lock of another machine counts as left behind."""
LOCKED_BYTE = 2**30
HAS_FLOCK = importlib.util.find_spec("fcntl") is not None
_held: set[int] = set()
"""Descriptors of the locks of this process."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps every other process out of the directory, which is made where it is not there.

    The lock file names host and process. What holds it is the kernel's lock on that file (`flock`), which ends with the
    process however it ends, so a file left behind on this machine is simply taken over. One that names another machine
    is
    watched: it is taken over once it shows no sign of life for `SILENCE` seconds.

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
            who = (
                f"process {holder['pid']} on {holder['host']}"
                if "pid" in holder and "host" in holder
                else "another process"
            )
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
    """The same by the lock of Windows, on a byte far behind the content, so that others can read that."""
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
