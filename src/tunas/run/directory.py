"""The directory of a run: `params.json` and `model_spec.json` first, one process at a time, resumed only as the same run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.files import make_directory, write_text

PARAMS = "params.json"
MODEL_SPEC = "model_spec.json"
RESULT = "result.json"
LOCK = "lock.json"
DATA = "data.json"


def check_directory(path: Path) -> None:
    """Refuses a directory that holds something other than a run.

    Raises:
        InputError: naming what it holds.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a directory for the run")
    if path.is_dir() and not (path / PARAMS).exists():
        foreign = sorted(
            entry.name for entry in path.iterdir() if entry.name not in (LOCK, DATA, MODEL_SPEC) and not entry.name.startswith(".")
        )
        if foreign:
            raise InputError(f"{path} is not empty and holds no {PARAMS} (but {', '.join(foreign[:3])}); name a new directory")


def open_run(path: Path, params: dict[str, Any], model_spec: str, harmless: frozenset[str]) -> None:
    """Makes the directory of a new run, or checks that the one there is the same run.

    Args:
        path: the directory.
        params: everything that decides the run's result, as JSON values.
        model_spec: the searched or trained tower as JSON text.
        harmless: names of parameters that may differ between the sessions of one run.

    Raises:
        InputError: where the directory cannot be written, holds another run (every difference is listed) or something else.
    """
    check_directory(path)
    path = make_directory(path)
    if (path / PARAMS).exists():
        differences = _differences(read_params(path), params, harmless)
        if differences:
            raise InputError(
                f"{path} holds a run with other parameters ({'; '.join(differences)}); "
                "name another directory, or use the same parameters to resume it"
            )
        if (path / MODEL_SPEC).exists() and (path / MODEL_SPEC).read_text() != model_spec:
            raise InputError(f"{path} holds a run of another search space under the same name; name another directory")
    with writing_to(path):
        write_text(path / MODEL_SPEC, model_spec)
        write_text(path / PARAMS, json.dumps(params, indent=2, sort_keys=True) + "\n")


def read_params(path: Path) -> dict[str, Any]:
    """`params.json` of a run directory.

    Raises:
        InputError: where it is missing or damaged.
    """
    return read_json_object(path / PARAMS)


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InputError: where it cannot be read or holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def _differences(old: dict[str, Any], new: dict[str, Any], harmless: frozenset[str]) -> list[str]:
    new = json.loads(json.dumps(new))
    names = sorted((old.keys() | new.keys()) - harmless)
    return [f"{name} was {old.get(name)!r} and is now {new.get(name)!r}" for name in names if old.get(name) != new.get(name)]


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turns "disk full" and "no permission" within the context into one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps a second process out of the directory.

    The lock names host and process. One left behind by a process of this host that is gone is taken over.

    Raises:
        InputError: where another process holds it.
    """
    lock = path / LOCK
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _process_start(os.getpid())}
    with writing_to(path):
        while True:
            try:
                descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                if (holder := _live_holder(lock)) is not None:
                    raise InputError(
                        f"{path} is in use by process {holder.get('pid')} on {holder.get('host')}; "
                        f"wait for it, or delete {lock} if it is gone"
                    ) from None
                lock.unlink(missing_ok=True)
                continue
            with os.fdopen(descriptor, "w") as file:
                json.dump(mine, file)
                file.flush()
                os.fsync(file.fileno())
            break
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)


def _live_holder(lock: Path) -> dict[str, Any] | None:
    """What the lock says, or None where its process is known to be gone."""
    try:
        holder = read_json_object(lock)
    except InputError:
        return None if not lock.exists() or _older_than(lock, seconds=10) else {"pid": "unknown", "host": "unknown host"}
    if holder.get("host") != socket.gethostname():
        return holder
    pid = holder.get("pid")
    if not isinstance(pid, int) or (pid == os.getpid() and holder.get("started") != _process_start(pid)):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return holder
    return holder if holder.get("started") in (None, _process_start(pid)) else None


def _older_than(path: Path, seconds: float) -> bool:
    import time

    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > seconds
    return True


def _process_start(pid: int) -> str | None:
    """When a process started, so that a reused process number is not mistaken for it; None where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
