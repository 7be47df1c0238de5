"""Is the ranking by shared weights real? Qualities with the weights of a search against those of stand-alone
trainings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunas.cost.catalog import load_cost_model
from tunas.data.identity import identity_of
from tunas.errors import InputError, check_positive
from tunas.files import check_writable, make_directory, write_text, writing_to
from tunas.flags import as_tuple
from tunas.nn import SuperNet
from tunas.recipe.precision import autocast
from tunas.run.checkpoint import DamagedCheckpoint, load_checkpoint
from tunas.run.checkpoint_names import checkpoints
from tunas.run.device import chosen_device
from tunas.run.directory import MODEL_SPEC, PARAMS, read_model_spec, read_params
from tunas.run.session import Progress, ended, warn
from tunas.search.objective import default_cost_model, median_cost
from tunas.space import Architecture, Space, get_space, structure_from_json
from tunas.study.config import StudyConfig
from tunas.study.correlation import Correlation, correlation
from tunas.study.jobs import check_engine, run_jobs
from tunas.study.sample import ALIKE, random_alike
from tunas.study.stand_alone import FEWEST, stand_alone_qualities
from tunas.study.study import RANDOM, RANDOM_CSV, Entry, trained, training_jobs, write_rows
from tunas.task.batches import as_float, on_device
from tunas.task.config import TaskConfig
from tunas.task.datasets import Batch
from tunas.task.opening import open_task
from tunas.task.task import Task

RANK = "rank.json"
"""In the directory of a search, where nothing else is said."""
TRAININGS = "rank"
"""Below the directory of a search: architectures that were trained for its ranking."""
SHARED = "weights"
"""Name of the shared weights in a checkpoint of a search."""


@dataclass(frozen=True)
class Ranking:
    """The shared weights of one checkpoint against stand-alone trainings.

    Args:
        step: of the checkpoint.
        qualities: `[N]`, of the architectures of the `Rank` in their order.
        correlation: with the stand-alone qualities.
    """

    step: int
    qualities: np.ndarray
    correlation: Correlation


@dataclass(frozen=True)
class Rank:
    """What `rank` found.

    Args:
        directory: of the search.
        architectures: N of its space.
        stand_alone: `[N]`, their qualities when trained alone.
        examples: held-out ones that the shared weights were measured on.
        batch: examples over which batch statistics were taken, as in the search.
        rankings: one for each checkpoint, the oldest first.
    """

    directory: Path
    architectures: list[Architecture]
    stand_alone: np.ndarray
    examples: int
    batch: int
    quality_name: str
    rankings: list[Ranking]

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "checkpoint_dir": str(self.directory),
            "ssd": self.architectures[0].space.name,
            "quality_name": self.quality_name,
            "examples": self.examples,
            "batch": self.batch,
            "architectures": [architecture.text for architecture in self.architectures],
            "stand_alone": self.stand_alone.tolist(),
            "checkpoints": [
                {"step": found.step, "shared": found.qualities.tolist(), **dataclasses.asdict(found.correlation)}
                for found in self.rankings
            ],
        }


def rank(
    checkpoint_dir: str,
    study: str | None = None,
    *,
    random: int = 24,
    train: tuple[str, ...] = (),
    workers: int = 1,
    dataset_dir: str | None = None,
    examples: int = 2048,
    device: str = "auto",
    seed: int = 0,
    out: str | None = None,
    task: Task | None = None,
) -> Rank:
    """Measures the architectures of a study with the shared weights of a search, and compares the two rankings.

    Args:
        checkpoint_dir: of a search, finished or running; nothing there is changed.
        study: the directory of a study, or one CSV file of it. Where left out, architectures are trained here, in
            `TRAININGS` of the search's directory: what is finished there is not done again.
        random, train, workers: of these architectures, as a study's. They cost what the search aimed for.
        dataset_dir: where the search's examples are now, if they were moved.
        examples: held-out ones for each architecture, the same for all; whole batches of the search's size.
        seed: of the order of the examples, and of the resampled architectures.
        out: a JSON file to write `Rank.document()` to.
        task: of a search that was given a task in Python.

    Raises:
        InputError: where there is no search with checkpoints, no study of its space, or its examples are gone.
    """
    check_positive("examples", examples)
    torch_device, file = chosen_device(device), _checked_file(out)
    directory = Path(checkpoint_dir).expanduser()
    params, space, paths = _search_in(directory)
    if study is None and task is not None:
        raise InputError("architectures are trained here for a task with a name only: give the CSV file of a study")
    if study is None:
        study = _trained_here(directory, params, space, dataset_dir, random, train, workers, device, seed)
    architectures, stand_alone = stand_alone_qualities(study, space)
    task = task_of_run(directory, params, dataset_dir, task)
    batches = _held_out_batches(task, params["valid_share"], examples, seed)
    shared = _SharedNetwork(space, params, task, torch_device)
    rankings = _rankings(paths, shared, batches, architectures, stand_alone, seed)
    counted = len(batches) * params["valid_share"]
    result = Rank(directory, architectures, stand_alone, counted, params["valid_share"], task.quality_name, rankings)
    if file is not None:
        _write(result, file)
    warn(task.left_out())
    return result


def _checked_file(out: str | None) -> Path | None:
    """Where the result goes, if anywhere.

    Raises:
        InputError: where it cannot be written.
    """
    if out is None:
        return None
    file = Path(out).expanduser()
    check_writable(file)
    return file


def _write(result: Rank, file: Path) -> None:
    make_directory(file.parent)
    with writing_to(file):
        write_text(file, json.dumps(result.document(), indent=2) + "\n")


def _search_in(directory: Path) -> tuple[dict[str, Any], Space, list[Path]]:
    """Parameters, space and checkpoints, the oldest first, of the search in a directory."""
    if not (directory / PARAMS).is_file() or not (directory / MODEL_SPEC).is_file():
        raise InputError(f"{directory} holds no search: {PARAMS} or {MODEL_SPEC} is missing")
    params = read_params(directory)
    if "valid_share" not in params or "replicas" not in params:
        raise InputError(f"{directory} holds no search with shared weights; name the --checkpoint_dir of one")
    if params.get("accuracy_model"):
        raise InputError(f"the search in {directory} was simulated, so that it has no shared weights to rank by")
    space = get_space(str(params["ssd"]))
    if space.structure != structure_from_json(read_model_spec(directory)):
        raise InputError(f"the search in {directory} was of another space than {space.name} is now")
    if not (paths := checkpoints(directory)[::-1]):
        raise InputError(f"there is no checkpoint in {directory} yet")
    return params, space, paths


def _trained_here(
    directory: Path,
    params: dict[str, Any],
    space: Space,
    dataset_dir: str | None,
    random: int,
    train: tuple[str, ...],
    workers: int,
    device: str,
    seed: int,
) -> str:
    """Trains random architectures that cost what the search aimed for; the name of the CSV file of their qualities."""
    if random < FEWEST:
        raise InputError(f"a ranking takes at least {FEWEST} architectures, not --random={random}")
    told, out = _task_config(directory, params, dataset_dir), directory / TRAININGS
    targets, names = (as_tuple(params.get(name)) for name in ("rl_cost_model_target", "cost_model"))
    name = str(names[0]) if names else default_cost_model(space)
    config = StudyConfig(
        **{field.name: getattr(told, field.name) for field in dataclasses.fields(TaskConfig)},
        ssd=str(params["ssd"]),
        out=str(out),
        cost_model=name,
        train=(f"device={device}", *train),
        seed=seed,
    )
    model = load_cost_model(name, space, **open_task(told, directory).cost_arguments)
    target = float(targets[0]) if targets else median_cost(model, space)
    different = list(dict.fromkeys(random_alike(space, model, target, ALIKE, 4 * random, seed)))[:random]
    entries = [Entry(f"{RANDOM}-{number}", RANDOM, found) for number, found in enumerate(different)]
    jobs = training_jobs(config, entries)
    check_engine(workers, "local")
    run_jobs(jobs, make_directory(out), workers=workers, label="trainings")
    file = out / RANDOM_CSV
    with writing_to(file):
        write_rows(file, config, trained(config, out, entries, model), model.unit)
    return str(file)


def _task_config(directory: Path, params: dict[str, Any], dataset_dir: str | None) -> TaskConfig:
    """What the search was told of its task."""
    names = [field.name for field in dataclasses.fields(TaskConfig)]
    kept = {name: params[name] for name in names if name in params}
    if kept.get("task") is not None:  # the rest is what the task said, not what it was told
        kept = {name: kept[name] for name in ("task", "num_workers") if name in kept}
    elif identity_of(params) is None:
        raise InputError(
            f"the search in {directory} was given its task ({params.get('dataset')}) in Python: call "
            f"tunas.study.rank.rank with it"
        )
    moved = {} if dataset_dir is None else {"dataset_dir": dataset_dir}
    return TaskConfig(**{**kept, **moved})


def task_of_run(directory: Path, params: dict[str, Any], dataset_dir: str | None, task: Task | None) -> Task:
    """The task of the search in `directory`, on the examples that it was run on, or the one that is given."""
    if task is not None:
        return task
    opened = open_task(_task_config(directory, params, dataset_dir), directory)
    opened.check_same(params, directory)
    return opened


def _held_out_batches(task: Task, batch: int, examples: int, seed: int) -> list[Batch]:
    """Whole batches of the held-out examples in random order: as many as hold `examples`, or as there are."""
    count = max(1, min(math.ceil(examples / batch), task.size("valid") // batch))
    stream = task.stream("valid", batch, seed=seed)
    with ended(stream):
        return [next(stream) for _ in range(count)]


def _rankings(
    paths: Sequence[Path],
    shared: _SharedNetwork,
    batches: Sequence[Batch],
    architectures: Sequence[Architecture],
    stand_alone: np.ndarray,
    seed: int,
) -> list[Ranking]:
    """One for each checkpoint that can be read, in their order."""
    rankings: list[Ranking] = []
    indices = np.array([architecture.indices for architecture in architectures], np.int64)
    each = len(batches) * len(indices)
    with Progress("rank", len(paths) * each, 0, shown=True) as progress:
        for number, path in enumerate(paths):
            step = shared.load(path)
            if step is None:
                continue
            sums = np.zeros(len(indices))
            for place, (row, quality) in enumerate(shared.qualities(batches, indices)):
                sums[row] += quality
                progress.update(number * each + place + 1, f"step {step}")
            means = sums / len(batches)
            rankings.append(Ranking(step, means, correlation(means, stand_alone, seed)))
    if not rankings:
        raise InputError(f"no checkpoint in {paths[0].parent} could be read; the newest is {paths[-1].name}")
    return rankings


class _SharedNetwork:
    """The supernet of a search, with the weights of one checkpoint after the other."""

    def __init__(self, space: Space, params: Mapping[str, Any], task: Task, device: torch.device):
        self._task, self._device = task, device
        self._precision = params.get("valid_precision", "fp32")
        self._supernet = SuperNet(
            space,
            **task.network_arguments,
            same_padding=params.get("padding") == "same",
            aggressive_sharing=params.get("aggressive_sharing", True),
        )
        self._supernet.to(device).eval()
        self._weights = self._supernet.flatten()

    @torch.no_grad()
    def load(self, path: Path) -> int | None:
        """Takes the weights of a checkpoint; its step. None, with a warning, where it is damaged or the search, still
        running, has just removed it."""
        try:
            tensors, numbers = load_checkpoint(path)
        except DamagedCheckpoint as error:
            warn(f"passing over a checkpoint that cannot be read: {error}")
            return None
        shared = tensors.get(SHARED)
        if shared is None or shared.shape != self._weights.shape:
            raise InputError(f"{path} does not hold shared weights of this space")
        self._weights.copy_(shared)
        return int(numbers["step"])

    @torch.no_grad()
    def qualities(self, batches: Sequence[Batch], indices: np.ndarray) -> Iterator[tuple[int, float]]:
        """(row of `indices`, quality) of every architecture on every batch, with the statistics of that batch."""
        for batch in batches:
            inputs, targets = on_device(batch, self._device)
            seen = self._task.prepare(inputs)
            for row, chosen in enumerate(indices):
                with autocast(self._device, self._precision):
                    outputs = self._supernet(seen, chosen)
                yield row, float(self._task.quality(as_float(outputs), targets))
