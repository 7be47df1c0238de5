"""The history of a run: one line of JSON for every session, with the settings that it changed."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunas.run.checkpoint_names import checkpoints, step_of

HISTORY = "history.jsonl"


def note_session(directory: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Adds the session that begins: when and where, the steps done before, and what is different from now on.

    Raises:
        OSError: where the file cannot be written.
    """
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "step": steps_done(directory),
        "changes": {name: {"was": was, "is": now} for name, (was, now) in changed.items()},
    }
    path = directory / HISTORY
    line = json.dumps(entry, sort_keys=True) + "\n"
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        line = "\n" + line  # a session was killed in the middle of its line
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_history(directory: Path) -> list[dict[str, Any]]:
    """The sessions of a run, the oldest first; lines that were not written to their end are passed over."""
    path = directory / HISTORY
    if not path.is_file():
        return []
    sessions = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            sessions.append(entry)
    return sessions


def steps_done(directory: Path) -> int:
    """Steps up to the newest checkpoint, whether it can be read or not; 0 where there is none."""
    return max(map(step_of, checkpoints(directory)), default=0)
