"""The whole way on the embedded digits: search, analyze, train, evaluate, and compare with random architectures of the
same cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunas.cost.catalog import load_cost_model
from tunas.data.config import DIGITS_SIZE
from tunas.errors import InputError
from tunas.files import make_directory
from tunas.report.analyze import analyze
from tunas.run.directory import RESULT, read_json_object
from tunas.search.config import SearchConfig
from tunas.search.loop import search
from tunas.search.objective import default_cost_model
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


def quickstart(
    directory: Path,
    ssd: str,
    target: float | None,
    train_epochs: float,
    random: int,
    seed: int,
    cost_model: str | None = None,
) -> tuple[list[Row], float, str]:
    """Searches, trains the winner and `random` random architectures of the same cost alike: (rows, the winner first;
    target; unit).

    Every part is a run of its own under `directory`, and goes on where it was interrupted.

    Args:
        target: cost to land on; where None, what `tunas search` would take.
        train_epochs: of each stand-alone training.
        cost_model: as `--cost_model` of `tunas search`.

    Raises:
        InputError: as `search` and `train`.
    """
    if random < 0:
        raise InputError(f"random must be 0 or more, not {random}")
    space = get_space(ssd)
    make_directory(directory)
    run = directory / "search"
    target = search(
        SearchConfig(ssd=ssd, rl_cost_model_target=target, cost_model=cost_model, checkpoint_dir=str(run), seed=seed)
    ).target
    assert target is not None
    found = analyze(run)
    model = load_cost_model(cost_model or default_cost_model(space), space, image_size=DIGITS_SIZE, num_classes=10)
    entries = [("searched", found.architecture)]
    low, high = target * (1 - WINDOW), target * (1 + WINDOW)
    for number, (architecture, _) in enumerate(
        random_architectures(space, model, low, high, random, seed) if random else []
    ):
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
    return rows, target, model.unit


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
        [{"name": r.name, "indices": r.architecture.text, "cost": r.cost, "test_accuracy": r.accuracy} for r in rows],
        indent=2,
    )
