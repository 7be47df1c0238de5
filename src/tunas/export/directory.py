"""The directory of an exported model: whole or absent, and read back with its checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.files import write_bytes, writing_to
from tunas.run.directory import read_json_object

MODEL = "model"
ABOUT = "model.json"
LABELS = "labels.txt"
PROGRAM = "predict.py"
FORMAT = "tunas-exported-model"
FAILED = "-failed-check"
"""Ends the name of the directory of an artifact that did not pass."""


def check_free(out: Path, names: tuple[str, ...]) -> None:
    """Refuses a directory with something foreign under the names to write.

    Raises:
        InputError: naming it.
    """
    for name in (*names, *(name + FAILED for name in names)):
        path = out / name
        if path.exists() and not (path / ABOUT).is_file():
            raise InputError(f"{path} is there already and is no exported model; name another --out")


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Makes `path` a directory of these files, all of them or none; an exported model that was there is replaced.

    Raises:
        InputError: where the disk is full or the place cannot be written.
    """
    with writing_to(path.parent):
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            for name, content in files.items():
                write_bytes(partial / name, content)
            os.chmod(partial, 0o755)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def about_bytes(document: Mapping[str, Any]) -> bytes:
    """The content of `model.json`."""
    return (json.dumps({"format": FORMAT, "version": 1, **document}, indent=2, ensure_ascii=False) + "\n").encode()


def labels_bytes(names: tuple[str, ...]) -> bytes:
    """One class name a line, in the order of the logits; what would break a line becomes a space."""
    return "".join(" ".join(name.splitlines()) + "\n" for name in names).encode(errors="replace")


def sha256(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_about(path: Path) -> tuple[Path, dict[str, Any]]:
    """(directory, model.json) of an exported model, given as its directory or one of its files.

    Raises:
        InputError: where there is none, or its description is damaged.
    """
    directory = path if path.is_dir() else path.parent
    about = read_json_object(directory / ABOUT)
    if about.get("format") != FORMAT:
        raise InputError(f"{directory / ABOUT} does not describe an exported model; its 'format' must be {FORMAT!r}")
    return directory, about


def read_files(directory: Path, about: Mapping[str, Any]) -> dict[str, bytes]:
    """suffix -> content of the artifact's files.

    Raises:
        InputError: where one is missing or is not what was exported.
    """
    files = {}
    for name, facts in about["files"].items():
        try:
            content = (directory / name).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {directory / name}: {error.strerror}") from None
        if sha256(content) != facts["sha256"]:
            raise InputError(
                f"{directory / name} is damaged: its SHA-256 is not the one in {ABOUT}; export the model again"
            )
        files[Path(name).suffix] = content
    return files
