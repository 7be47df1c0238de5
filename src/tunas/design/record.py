"""`design.json`: what a design was told, what was chosen and estimated, and what its parts took."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunas.design.config import DesignConfig
from tunas.design.estimate import Estimate
from tunas.design.sizes import Sizes
from tunas.design.way import SEARCH
from tunas.errors import InputError
from tunas.files import write_text, writing_to
from tunas.run.directory import CACHE, DATA, read_json_object
from tunas.run.lock import LOCK
from tunas.run.settings import in_words
from tunas.task import Task

RECORD = "design.json"
FREE = """
    allow_empty_classes cache_dir compute data_format dataset_dir engine force num_workers on_bad_image out plan random
    seeds valid_filenames workers
"""
"""Settings that may change between the sessions of a design: they change nothing that is there already. Which images
there are is compared by their fingerprint."""
LATER = """
    candidates init_from latency minutes search tolerance train
"""
"""Settings that decide nothing before the search: until it has begun they may change, and the rest is planned anew."""


@dataclass
class Record:
    """What `design.json` holds.

    Args:
        settings: the configuration.
        task: what makes the examples those that they are.
        sizes: of the parts.
        estimates: of the parts, by name.
        took: seconds that each part took, over all sessions.
    """

    settings: dict[str, Any]
    task: dict[str, Any]
    sizes: Sizes
    estimates: dict[str, Estimate]
    took: dict[str, float] = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Writes `design.json`."""
        with writing_to(out):
            write_text(out / RECORD, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def settings_of(config: DesignConfig) -> dict[str, Any]:
    """The configuration as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def task_identity(task: Task) -> dict[str, Any]:
    """What makes the examples those that they are, as JSON has it."""
    return json.loads(json.dumps(task.identity()))  # type: ignore[no-any-return]


def check_out(out: Path) -> None:
    """Refuses a directory that holds something other than a design.

    Raises:
        InputError: naming what it holds.
    """
    if not out.is_dir() or (out / RECORD).is_file():
        return
    known = (LOCK, DATA, CACHE)
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in known and entry.name[0] != ".")
    if foreign:
        raise InputError(
            f"{out} is not empty and holds no {RECORD} (but {', '.join(foreign[:3])}); name a new directory with --out"
        )


def read_record(out: Path, config: DesignConfig, task: Task) -> Record | None:
    """The record of the design in the directory, which must be the same one.

    None where there is none yet, and where the design has to be planned anew, because settings of the search or of what
    comes after it have changed before that had begun.

    Raises:
        InputError: where it is of another design, or of other examples.
    """
    if not (out / RECORD).is_file():
        return None
    found = read_json_object(out / RECORD)
    try:
        record = Record(
            found["settings"],
            found["task"],
            Sizes(**found["sizes"]),
            {name: Estimate(**estimate) for name, estimate in found["estimates"].items()},
            found["took"],
        )
    except (KeyError, TypeError):
        raise InputError(f"{out / RECORD} is damaged: name another --out") from None
    old, new = record.settings, settings_of(config)
    names = sorted((old.keys() | new.keys()) - set(FREE.split()))
    differences = {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}
    if differences and set(differences) <= set(LATER.split()) and not (out / SEARCH).exists():
        return None
    if differences:
        raise InputError(
            f"{out} holds a design with other settings ({in_words(differences)}); name another --out, or use the same "
            f"settings to go on with it"
        )
    task.check_same(record.task, out)
    return record
