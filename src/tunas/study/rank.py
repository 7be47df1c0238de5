"""Is the ranking by shared weights real? Qualities with the weights of a search against those of stand-alone
trainings."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from tunas.cost.catalog import load_cost_model
from tunas.data.identity import identity_of
from tunas.data.storage import read_text
from tunas.errors import InputError, check_positive
from tunas.files import check_writable, make_directory, write_text, writing_to
from tunas.flags import as_tuple
from tunas.nn import SuperNet
from tunas.recipe.precision import autocast
from tunas.run.checkpoint import DamagedCheckpoint, checkpoints, load_checkpoint
from tunas.run.device import chosen_device
from tunas.run.directory import MODEL_SPEC, PARAMS, read_model_spec, read_params
from tunas.run.session import Progress, ended, warn
from tunas.search.objective import default_cost_model, median_cost
from tunas.space import Architecture, Space, get_space, structure_from_json
from tunas.study.config import StudyConfig
from tunas.study.jobs import check_engine, run_jobs
from tunas.study.released import TEST, VALIDATION
from tunas.study.sample import ALIKE, random_alike
from tunas.study.study import RANDOM, RANDOM_CSV, SEARCHED_CSV, Entry, trained, training_jobs, write_rows
from tunas.task.batches import as_float, on_device
from tunas.task.config import TaskConfig
from tunas.task.opening import open_task
from tunas.task.task import Batch, Task

RANK = "rank.json"
"""In the directory of a search, where nothing else is said."""
TRAININGS = "rank"
"""Below the directory of a search: architectures that were trained for its ranking."""
FEWEST = 5
"""Architectures that a correlation takes."""
RESAMPLES = 1000
"""Of the architectures, with replacement, for the interval of Kendall's correlation."""
CONFIDENCE = 0.95
TOP = (1, 3, 10)
"""Architectures, those that look best with shared weights, whose best one is compared with the best of all."""
ACCURACY_COLUMNS = ("accuracy", VALIDATION, TEST)
"""Of a study's CSV file: the first of them that is filled counts."""
SHARED = "weights"
"""Name of the shared weights in a checkpoint of a search."""


@dataclass(frozen=True)
class Correlation:
    """How two rankings of the same architectures agree.

    Args:
        spearman, kendall: -1 to 1 (tau-b); None where all qualities of one side are equal.
        interval: of Kendall's, at 95 %, by drawing the architectures again; None likewise.
        regret: k -> best stand-alone quality of all minus the best among the k that look best with shared weights. Of
            those that look equally good, the worst come first.
    """

    spearman: float | None
    kendall: float | None
    interval: tuple[float, float] | None
    regret: dict[int, float]


@dataclass(frozen=True)
class Ranking:
    """The shared weights of one checkpoint against stand-alone trainings: `qualities` `[N]`, of the architectures in
    the order of the `Rank`."""

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
    directory = Path(checkpoint_dir).expanduser()
    params, space = _search_in(directory)
    paths = checkpoints(directory)[::-1]
    if not paths:
        raise InputError(f"there is no checkpoint in {directory} yet")
    if study is None:
        if task is not None:
            raise InputError("architectures are trained here for a task with a name only: give the CSV file of a study")
        study = _trained_here(directory, params, space, dataset_dir, random, train, workers, device, seed)
    architectures, stand_alone = stand_alone_qualities(study, space)
    torch_device = chosen_device(device)
    if out is not None:
        check_writable(Path(out).expanduser())
    task = task_of_run(directory, params, dataset_dir, task)
    batches = _held_out_batches(task, params["valid_share"], examples, seed)
    supernet = SuperNet(
        space,
        **task.network_arguments,
        same_padding=params.get("padding") == "same",
        aggressive_sharing=params.get("aggressive_sharing", True),
    )
    supernet.to(torch_device).eval()
    weights = supernet.flatten()
    indices = np.array([architecture.indices for architecture in architectures], np.int64)
    rankings = []
    total = len(paths) * len(batches) * len(indices)
    with Progress("rank", total, 0, shown=True) as progress:
        for number, path in enumerate(paths):
            found = _shared_weights(path, weights)
            if found is None:
                continue
            step, shared = found
            with torch.no_grad():
                weights.copy_(shared)
            sums = np.zeros(len(indices))
            for place, (row, quality) in enumerate(_qualities(supernet, task, batches, indices, params, torch_device)):
                sums[row] += quality
                done = number * len(batches) * len(indices) + place + 1
                progress.update(done, f"step {step}")
            means = sums / len(batches)
            rankings.append(Ranking(step, means, correlation(means, stand_alone, seed)))
    if not rankings:
        raise InputError(f"no checkpoint in {directory} could be read; the newest is {paths[-1].name}")
    counted = len(batches) * params["valid_share"]
    result = Rank(directory, architectures, stand_alone, counted, params["valid_share"], task.quality_name, rankings)
    if out is not None:
        file = Path(out).expanduser()
        make_directory(file.parent)
        with writing_to(file):
            write_text(file, json.dumps(result.document(), indent=2) + "\n")
    warn(task.left_out())
    return result


def _search_in(directory: Path) -> tuple[dict[str, Any], Space]:
    """Parameters and space of the search in a directory."""
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
    return params, space


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


def _shared_weights(path: Path, weights: Tensor) -> tuple[int, Tensor] | None:
    """(step, shared weights) of a checkpoint; None, with a warning, where it is damaged or the search, still running,
    has just removed it."""
    try:
        tensors, numbers = load_checkpoint(path)
    except DamagedCheckpoint as error:
        warn(f"passing over a checkpoint that cannot be read: {error}")
        return None
    shared = tensors.get(SHARED)
    if shared is None or shared.shape != weights.shape:
        raise InputError(f"{path} does not hold shared weights of this space")
    return int(numbers["step"]), shared


@torch.no_grad()
def _qualities(
    supernet: SuperNet,
    task: Task,
    batches: Sequence[Batch],
    indices: np.ndarray,
    params: dict[str, Any],
    device: torch.device,
) -> Iterator[tuple[int, float]]:
    """(row of `indices`, quality) of every architecture on every batch, with the statistics of that batch."""
    for batch in batches:
        inputs, targets = on_device(batch, device)
        seen = task.prepare(inputs)
        for row, chosen in enumerate(indices):
            with autocast(device, params.get("valid_precision", "fp32")):
                outputs = supernet(seen, chosen)
            yield row, float(task.quality(as_float(outputs), targets))


def stand_alone_qualities(path: str, space: Space) -> tuple[list[Architecture], np.ndarray]:
    """The architectures of `space` in a study's CSV files and their qualities `[N]`; the mean where one was trained
    several times.

    Args:
        path: the directory of a study, or one CSV file.

    Raises:
        InputError: naming the file and line, where something cannot be read; where there are too few architectures.
    """
    found: dict[Architecture, list[float]] = {}
    others = 0
    for file in _csv_files(path):
        reader = csv.DictReader(io.StringIO(read_text(str(file))))
        columns = reader.fieldnames or ()
        needed = next((name for name in ("ssd", "indices") if name not in columns), None)
        if needed or not set(ACCURACY_COLUMNS) & set(columns):
            missing = needed or f"one of {', '.join(ACCURACY_COLUMNS)}"
            raise InputError(f"{file}: the first line must name the columns of a study; {missing} is missing")
        for number, row in enumerate(reader, 2):
            if row["ssd"] != space.name:
                others += 1
                continue
            try:
                found.setdefault(space.architecture(str(row["indices"])), []).append(_quality(row))
            except InputError as error:
                raise InputError(f"{file}, line {number}: {error}") from None
    if others:
        warn(f"{others} architectures in {path} are of other spaces than {space.name}, and are not used")
    if len(found) < FEWEST:
        raise InputError(
            f"a ranking takes at least {FEWEST} different architectures of {space.name}; {path} holds {len(found)}"
        )
    return list(found), np.array([np.mean(values) for values in found.values()])


def _csv_files(path: str) -> list[Path | str]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [path]
    files: list[Path | str] = [folder / name for name in (RANDOM_CSV, SEARCHED_CSV) if (folder / name).is_file()]
    if not files:
        raise InputError(
            f"{folder} holds no {RANDOM_CSV}; name the --out directory of a `tunas study` that has ended, or a CSV file"
        )
    return files


def _quality(row: dict[str, str | None]) -> float:
    texts = [(row.get(name) or "").strip() for name in ACCURACY_COLUMNS]
    text = next(filter(None, texts), "")
    try:
        accuracy = float(text)
    except ValueError:
        accuracy = math.nan
    if not math.isfinite(accuracy):
        raise InputError(f"the accuracy must be a number, not {text!r}")
    return accuracy


def correlation(shared: np.ndarray, alone: np.ndarray, seed: int = 0) -> Correlation:
    """How the qualities `[N]` with shared weights rank the architectures, against those of stand-alone trainings."""
    regret = {count: top_regret(shared, alone, count) for count in TOP if count < len(alone)}
    if np.ptp(shared) == 0 or np.ptp(alone) == 0:
        return Correlation(None, None, None, regret)
    spearman, kendall = stats.spearmanr(shared, alone).statistic, _kendall(shared, alone)
    rows = np.random.default_rng(seed).integers(len(alone), size=(RESAMPLES, len(alone)))
    drawn = [_kendall(shared[each], alone[each]) for each in rows]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])  # nan: one architecture drawn N times over
    return Correlation(float(spearman), kendall, (float(low), float(high)), regret)


def _kendall(first: np.ndarray, second: np.ndarray) -> float:
    return float(stats.kendalltau(first, second).statistic)


def top_regret(shared: np.ndarray, alone: np.ndarray, count: int) -> float:
    """Best of `alone` minus the best of it among the `count` with the most `shared`; of equal ones the worst first."""
    looks_best = np.lexsort((alone, -shared))[:count]
    return float(alone.max() - alone[looks_best].max())
