"""Experiment trackers beside TensorBoard: the same scalars under the same names, each step once, also after a resume.

Both follow their own environment: where they send to (`MLFLOW_TRACKING_URI`, `WANDB_PROJECT`), and whether they send at
all (`WANDB_MODE=offline`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.files import write_text, writing_to
from tunas.needs import need_packages
from tunas.run.directory import read_json_object, read_params

TRACKERS = ("mlflow", "wandb")
MLFLOW_BATCH = 1000
"""Metrics that MLflow takes in one call."""
MLFLOW_PARAM = 500
"""Characters of a parameter's value that every MLflow backend takes."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuses at the beginning what could not be logged to.

    Raises:
        InputError: where a tracker is unknown or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"unknown tracker {name!r} in log_to; known are {', '.join(TRACKERS)}")
        need_packages(f"--log_to={name}", name, install=f"tunas-torch[{name}]")


def open_trackers(names: Sequence[str], directory: Path) -> list[Tracker]:
    """The trackers of the run in `directory`, going on where an earlier session of it stopped."""
    kinds: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}
    return [kinds[name](directory, read_params(directory)) for name in names]


class Tracker:
    """A run of a tracker that belongs to a run directory.

    Attributes:
        run: the tracker's name for it; empty before it has one.
        last: kind of scalar, such as `model` or `eval` -> last step that the tracker was given.
    """

    def __init__(self, journal: Path):
        self.journal = journal
        known = read_json_object(journal) if journal.exists() else {}
        self.run: str = known.get("run") or ""
        self.last: dict[str, int] = known.get("last", {})

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hands on what the tracker does not have yet."""
        new = {name: value for name, value in scalars.items() if self.last.get(_kind(name), -1) < step}
        if new:
            self.send(step, new)
            self.last |= {_kind(name): step for name in new}
            self.write()

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        """Gives the tracker the scalars of a step."""
        raise NotImplementedError

    def close(self) -> None:
        """Called when the session ends."""
        raise NotImplementedError

    def write(self) -> None:
        """Notes in the run directory what the tracker has been given."""
        with writing_to(self.journal):
            write_text(self.journal, json.dumps({"run": self.run, "last": self.last}))


def _kind(name: str) -> str:
    return name.partition("/")[0]


class Mlflow(Tracker):
    """https://mlflow.org"""

    def __init__(self, directory: Path, params: Mapping[str, Any]):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        super().__init__(directory / "mlflow.json")
        self.client = MlflowClient()
        if not self.run:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tunas")
            found = self.client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self.client.create_experiment(experiment)
            self.run = self.client.create_run(number, run_name=directory.name).info.run_id
            self.write()
            texts = {name: str(value)[:MLFLOW_PARAM] for name, value in params.items()}
            self.client.log_batch(self.run, params=[Param(name, text) for name, text in texts.items()])

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in scalars.items()]
        for start in range(0, len(metrics), MLFLOW_BATCH):
            self.client.log_batch(self.run, metrics=metrics[start : start + MLFLOW_BATCH])

    def close(self) -> None:
        self.client.set_terminated(self.run)


class Wandb(Tracker):
    """https://wandb.ai"""

    def __init__(self, directory: Path, params: Mapping[str, Any]):
        import wandb

        super().__init__(directory / "wandb.json")
        project = os.environ.get("WANDB_PROJECT", "tunas")
        self.session = wandb.init(
            project=project,
            name=directory.name,
            id=self.run or None,
            resume="allow",
            config=dict(params),
            dir=directory,
        )
        self.run = self.session.id
        self.write()

    def send(self, step: int, scalars: Mapping[str, float]) -> None:
        self.session.log(dict(scalars), step=step)

    def close(self) -> None:
        self.session.finish()
