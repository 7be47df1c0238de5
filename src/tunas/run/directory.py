"""The directory of a run: `params.json` and `model_spec.json` first, one process at a time, resumed only as the same
run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.files import make_directory, read_json, write_text, writing_to
from tunas.named import look_also_in, place_of
from tunas.run.device import World
from tunas.run.history import HISTORY, note_session
from tunas.run.lock import LOCK, locked
from tunas.run.settings import Kind, changes, in_words, without

PARAMS = "params.json"
MODEL_SPEC = "model_spec.json"
RESULT = "result.json"
DATA = "data.json"
CACHE = "cache"
RELATIVE_TO = "relative_to"
"""Entry of `params.json`: the directories that relative paths among its other entries are of."""
NAMES_CODE = ("ssd", "task")
"""Entries of `params.json` that may be `path/to/file.py:name`."""
NAMES_FILES = ("cost_model", "dataset_dir")
"""Entries of `params.json` that may be paths, or lists of some, which what reads a run needs again."""
CHECKSUM = "checksum"
"""Entry of `params.json`: SHA-256 of its other entries and of `model_spec.json`; of `result.json`: of its other
entries."""


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
        # what a run leaves that was killed before it wrote its parameters, or an evaluation, which has none
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
        if places := _places_of(params):
            params = {**params, RELATIVE_TO: places}
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
    """`params.json` of a run directory, without its checksum. What it names by a relative path that is not one of the
    working directory is found where the run began: files by absolute paths, the user's own code by `get_space` and
    `named_task` from now on.

    Raises:
        InputError: where it is missing or damaged.
    """
    params = read_json_object(path / PARAMS)
    params.pop(CHECKSUM, None)
    places = params.get(RELATIVE_TO)
    for place in map(Path, places if isinstance(places, list) else ()):
        look_also_in(place)
        for name in NAMES_FILES:
            if isinstance(value := params.get(name), list):
                params[name] = [_found_in(place, one) for one in value]
            else:
                params[name] = _found_in(place, value)
    return params


def kept_params(path: Path) -> dict[str, Any]:
    """`read_params` of the run that goes on in the directory; empty where none has begun there."""
    return read_params(path) if (path / PARAMS).is_file() else {}


def _places_of(params: Mapping[str, Any]) -> list[str]:
    """The directories that relative paths in `params` are of."""
    places = {place for name in NAMES_CODE if (place := place_of(params.get(name)))}
    files = [value for name in NAMES_FILES for value in _listed(params.get(name))]
    if any(_is_relative(file) and Path(file).exists() for file in files):
        places.add(Path.cwd())
    return sorted(map(str, places))


def _found_in(place: Path, value: Any) -> Any:
    """The path in that directory, of a relative one that is not in the working directory; anything else as it is."""
    is_elsewhere = _is_relative(value) and not Path(value).exists() and (place / value).exists()
    return str(place / value) if is_elsewhere else value


def _is_relative(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not Path(value).expanduser().is_absolute()


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


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
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, not {type(value).__name__}")
    return value


def described_classes(path: Path) -> Any:
    """The names of the classes as `data.json` of a run directory has them; None where it says nothing of them.

    Raises:
        InputError: where the file cannot be read.
    """
    return read_json_object(path / DATA).get("class_names") if (path / DATA).is_file() else None


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
