"""The whole way on the embedded digits: search, analyze, train, evaluate, and compare with random architectures of the same cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunas.cost.model import load_cost_model
from tunas.errors import InputError
from tunas.files import make_directory
from tunas.report.analyze import analyze
from tunas.run.directory import RESULT, read_json_object
from tunas.search.config import SearchConfig
from tunas.search.loop import search
from tunas.space import Architecture, get_space
from tunas.study.sample import random_architectures
from tunas.train.config import TrainConfig
from tunas.train.loop import train

WINDOW = 0.02
"""Random architectures cost within this part of the target."""


@dataclass(frozen=True)
class Row:
    """One trained architecture: `name`, its indices, its predicted cost and its accuracy on the test part."""

    name: str
    architecture: Architecture
    cost: float
    accuracy: float


def quickstart(directory: Path, ssd: str, target: float, train_epochs: float, random: int, seed: int) -> list[Row]:
    """Searches, trains the winner and `random` random architectures of the same cost alike; the winner first.

    Every part is a run of its own under `directory`, and goes on where it was interrupted.

    Args:
        target: cost in Pixel-1 milliseconds.
        train_epochs: of each stand-alone training.

    Raises:
        InputError: as `search` and `train`.
    """
    if random < 0:
        raise InputError(f"random must be 0 or more, not {random}")
    space = get_space(ssd)
    make_directory(directory)
    search(SearchConfig(ssd=ssd, rl_cost_model_target=target, checkpoint_dir=str(directory / "search"), seed=seed))
    found = analyze(directory / "search")
    model = load_cost_model("pixel1", space)
    entries = [("searched", found.architecture)]
    low, high = target * (1 - WINDOW), target * (1 + WINDOW)
    for number, (architecture, _) in enumerate(random_architectures(space, model, low, high, random, seed) if random else []):
        entries.append((f"random {number + 1}", architecture))
    rows = []
    for name, architecture in entries:
        config = TrainConfig(
            ssd=ssd,
            indices=architecture.text,
            checkpoint_dir=str(directory / name.replace(" ", "-")),
            use_held_out_test_set=True,
            epochs=train_epochs,
            dropout_rate=0.0,
            seed=seed,
        )
        rows.append(Row(name, architecture, float(model.estimate(architecture)), _test_accuracy(config)))
    return rows


def _test_accuracy(config: TrainConfig) -> float:
    """Trains unless the result is there already."""
    done = Path(str(config.checkpoint_dir)) / RESULT
    if done.is_file():
        document = read_json_object(done)
        if (document.get("indices"), document.get("epochs")) == (config.indices, config.epochs):
            return float(document["accuracy"])
    return float(train(config).document["accuracy"])


def rows_as_json(rows: list[Row]) -> str:
    return json.dumps(
        [{"name": r.name, "indices": r.architecture.text, "cost": r.cost, "test_accuracy": r.accuracy} for r in rows], indent=2
    )
