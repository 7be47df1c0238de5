"""Searched against random architectures of the same cost, all trained alike: the question of the paper, for one's own
space and data."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.errors import InputError, check_positive
from tunas.files import make_directory, write_text, writing_to
from tunas.run.directory import RESULT, quality_in, read_json_object
from tunas.search.config import SearchConfig
from tunas.search.objective import default_cost_model
from tunas.search.plan import plan_search
from tunas.space import Architecture, Space, get_space
from tunas.study.config import ABLATIONS, StudyConfig
from tunas.study.finalists import best_of, finalists
from tunas.study.flags import with_flags
from tunas.study.jobs import Job, check_engine, is_done, run_jobs, seconds_of
from tunas.study.released import COLUMNS
from tunas.study.sample import WINDOW, random_architectures
from tunas.task import Task
from tunas.task.opening import open_task
from tunas.train.config import TrainConfig
from tunas.train.plan import plan_training, splits

STUDY = "study.json"
RANDOM_CSV, SEARCHED_CSV = "random_architectures.csv", "searched_architectures.csv"
EXTRA_COLUMNS = ("name", "epochs", "accuracy", "cost", "unit", "seed")
RANDOM, SEARCHED = "random", "searched"


@dataclass(frozen=True)
class Entry:
    """An architecture that the study compares.

    Args:
        name: one of its own.
        kind: `random`, `searched`, or the name of an ablation.
        architecture: of the study's space.
    """

    name: str
    kind: str
    architecture: Architecture


@dataclass(frozen=True)
class Trained:
    """One training of an architecture; `name` and `kind` are those of its `Entry`.

    Args:
        cost: predicted.
        accuracy: on held-out or test examples, 0 to 1; of a task of one's own its quality.
        epochs, seed: of the training.
        seconds: of the training.
        search_seconds: of the search that found it, with the trainings of its candidates.
    """

    name: str
    kind: str
    architecture: Architecture
    cost: float
    accuracy: float
    epochs: float
    seconds: float
    search_seconds: float = 0.0
    seed: int = 0


def study(config: StudyConfig) -> dict[str, Any]:
    """Runs the study, or goes on with it; the figures that `study.json` holds.

    Raises:
        InputError: where something cannot be carried out; known before the first training where it can be.
        DivergedError: where a part failed again and again.
    """
    check_positive("random", config.random)
    check_positive("repeats", config.repeats)
    check_positive("searches", config.searches)
    check_positive("candidates", config.candidates)
    if config.candidates > 1 and not config.use_held_out_test_set:
        raise InputError(
            "candidates are chosen on held-out examples, which would then compare them with the random architectures "
            "too: add --use_held_out_test_set"
        )
    check_engine(config.workers, config.engine)
    out = make_directory(Path(config.out).expanduser())
    space = get_space(config.ssd)
    task = open_task(config, out)
    model = load_cost_model(config.cost_model or default_cost_model(space), space, **task.cost_arguments)
    low, high = cost_range(config, space)
    drawn = random_architectures(space, model, low, high, config.random, config.seed)
    entries = [Entry(f"random-{number}", RANDOM, found) for number, (found, _) in enumerate(drawn)]
    searches = search_jobs(config, low, high)
    check_plans([*searches, *training_jobs(config, entries[:1])], task)
    run_jobs(searches, out, workers=config.workers, engine=config.engine, label="searches")
    if config.candidates > 1:
        jobs = [job for search in searches for job in candidate_jobs(config, out, search, space, model)]
        run_jobs(jobs, out, workers=config.workers, engine=config.engine, label="candidates")
    entries += [winner(config, out, job, space) for job in searches]
    jobs = training_jobs(config, entries)
    run_jobs(jobs, out, workers=config.workers, engine=config.engine, label="trainings")
    rows = trained(config, out, entries, model)
    figures = compared(rows) | {"ssd": space.name, "range": [low, high], "unit": model.unit}
    with writing_to(out):
        write_rows(out / RANDOM_CSV, config, [row for row in rows if row.kind == RANDOM], model.unit)
        write_rows(out / SEARCHED_CSV, config, [row for row in rows if row.kind != RANDOM], model.unit)
        write_text(out / STUDY, json.dumps(figures, indent=2) + "\n")
    return figures


def check_plans(jobs: Sequence[Job], task: Task) -> None:
    """Refuses what one of the runs would refuse, before the first of them.

    Raises:
        InputError: where a setting is out of range or settings do not fit each other.
    """
    for job in jobs:
        if isinstance(job.config, SearchConfig):
            plan_search(job.config, task.size("train"), digits=task.name == "digits", on_cuda=False)
        else:
            plan_training(job.config, task.size(splits(job.config)[0]))


def cost_range(config: StudyConfig, space: Space) -> tuple[float, float]:
    """The costs between which everything is compared.

    Raises:
        InputError: where they are not given and there is no usual range.
    """
    is_pixel1 = (config.cost_model or default_cost_model(space)) == "pixel1"
    usual = WINDOW.get(space.default_target or 0.0) if is_pixel1 else None
    low = config.min_cost if config.min_cost is not None else usual[0] if usual else None
    high = config.max_cost if config.max_cost is not None else usual[1] if usual else None
    if low is None or high is None:
        raise InputError("give the range of costs to compare within: --min_cost and --max_cost")
    if not 0 < low < high:
        raise InputError(f"min_cost must be above 0 and below max_cost, not {low:g} with {high:g}")
    return low, high


def search_jobs(config: StudyConfig, low: float, high: float) -> list[Job]:
    """The searches for the middle of the range, with the study's and every ablation's settings."""
    target = (low + high) / 2
    plain = with_flags(
        SearchConfig,
        "search",
        config.search,
        config,
        ssd=config.ssd,
        cost_model=config.cost_model,
        rl_cost_model_target=target,
        rl_cost_model_tolerance=(high - low) / 2 / target,
    )
    jobs = []
    for kind in (SEARCHED, *config.ablation):
        changed = dataclasses.replace(plain, **ABLATIONS.get(kind, {}))
        jobs += [
            Job(f"search-{kind}-{number}", dataclasses.replace(changed, seed=number))
            for number in range(config.searches)
        ]
    return jobs


def candidate_jobs(config: StudyConfig, out: Path, search: Job, space: Space, model: Any) -> list[Job]:
    """The trainings on the training split among which one of the `search_jobs`, once it is done, has its winner."""
    assert isinstance(search.config, SearchConfig)
    found = finalists(
        out / search.name,
        space,
        model,
        read_json_object(out / search.name / RESULT),
        tolerance=search.config.rl_cost_model_tolerance or 0.0,
        count=config.candidates,
        seed=config.seed,
    )
    name = search.name.removeprefix("search-")
    entries = [Entry(_candidate_name(name, number), SEARCHED, each) for number, each in enumerate(found)]
    return training_jobs(dataclasses.replace(config, repeats=1, use_held_out_test_set=False), entries)


def _candidate_name(name: str, number: int) -> str:
    return f"{name}-candidate-{number}"


def done_candidates(config: StudyConfig, out: Path, name: str) -> list[Path]:
    """The directories of the finished `candidate_jobs` of a search, by what its winner is called; none where it had no
    such choice."""
    numbers = range(config.candidates if config.candidates > 1 else 0)
    directories = [out / f"train-{_candidate_name(name, number)}" for number in numbers]
    return [directory for directory in directories if is_done(directory)]


def winner(config: StudyConfig, out: Path, search: Job, space: Space) -> Entry:
    """What one of the `search_jobs` found, once it and its candidates are done."""
    name = search.name.removeprefix("search-")
    candidates = done_candidates(config, out, name)
    if candidates:
        documents = [read_json_object(directory / RESULT) for directory in candidates]
        rows = [(str(document["indices"]), quality_in(document)) for document in documents]
        indices = rows[best_of(rows)][0]
    else:
        indices = str(read_json_object(out / search.name / RESULT)["indices"])
    return Entry(name, name.rpartition("-")[0], space.architecture(indices))


def training_jobs(config: StudyConfig, entries: Sequence[Entry]) -> list[Job]:
    """Every architecture's trainings, all alike but for their seeds: the first of each, then the second of each, …"""
    plain = with_flags(
        TrainConfig,
        "train",
        config.train,
        config,
        ssd=config.ssd,
        use_held_out_test_set=config.use_held_out_test_set,
        cost_model=config.cost_model,
        indices="",
        seed=config.seed,
    )
    return [
        Job(
            _training_name(entry, repeat),
            dataclasses.replace(plain, indices=entry.architecture.text, seed=config.seed + repeat),
        )
        for repeat in range(config.repeats)
        for entry in entries
    ]


def _training_name(entry: Entry, repeat: int) -> str:
    return f"train-{entry.name}" if repeat == 0 else f"train-{entry.name}-again-{repeat}"


def trained(config: StudyConfig, out: Path, entries: Sequence[Entry], model: Any) -> list[Trained]:
    """The trainings of architectures, once all are done.

    Raises:
        InputError: where a directory holds another architecture's.
    """
    rows = []
    for entry in entries:
        search_seconds = 0.0 if entry.kind == RANDOM else _search_seconds(config, out, entry)
        for repeat in range(config.repeats):
            directory = out / _training_name(entry, repeat)
            result = read_json_object(directory / RESULT)
            if result.get("indices") != entry.architecture.text:
                raise InputError(
                    f"{directory} holds a training of another architecture than this study's; name another --out"
                )
            rows.append(
                Trained(
                    entry.name,
                    entry.kind,
                    entry.architecture,
                    cost=float(model.estimate(entry.architecture)),
                    accuracy=quality_in(result),
                    epochs=float(result["epochs"]),
                    seconds=seconds_of(directory),
                    search_seconds=search_seconds,
                    seed=config.seed + repeat,
                )
            )
    return rows


def _search_seconds(config: StudyConfig, out: Path, entry: Entry) -> float:
    """Of a search and the trainings of its candidates."""
    directories = [out / f"search-{entry.name}", *done_candidates(config, out, entry.name)]
    return sum(seconds_of(directory) for directory in directories)


def compared(rows: Sequence[Trained]) -> dict[str, Any]:
    """What the trainings say: figures of the random architectures, of the searched ones and of each ablation.

    `spread` is the standard deviation between architectures, each the mean of its trainings, and `seed_spread` that
    between trainings of the same one, where there are several. For the searched ones also: the probability that a
    random architecture is better than a searched one, how many random trainings the time of one search buys, and the
    best that so many are expected to find.
    """
    random = _accuracies(rows, RANDOM)
    seconds = [row.seconds for row in rows if row.kind == RANDOM]
    figures: dict[str, Any] = {RANDOM: _figures(rows, RANDOM)}
    for kind in dict.fromkeys(row.kind for row in rows if row.kind != RANDOM):
        accuracies = _accuracies(rows, kind)
        searched = np.mean([row.search_seconds for row in rows if row.kind == kind])
        trials = float(searched) / max(float(np.mean(seconds)), 1e-9)
        figures[kind] = {
            **_figures(rows, kind),
            "probability_that_random_is_better": probability_of_more(random, accuracies),
            "random_trainings_for_one_search": trials,
            "expected_best_of_so_many": expected_best(random, max(1.0, trials)),
            "above_the_75th_percentile": float((accuracies > np.quantile(random, 0.75)).mean()),
        }
    return figures


def _by_architecture(rows: Sequence[Trained], kind: str) -> list[list[float]]:
    """The accuracies of each architecture's trainings."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.kind == kind:
            found.setdefault(row.name, []).append(row.accuracy)
    return list(found.values())


def _accuracies(rows: Sequence[Trained], kind: str) -> np.ndarray:
    """Each architecture's mean over its trainings."""
    return np.array([np.mean(each) for each in _by_architecture(rows, kind)])


def _figures(rows: Sequence[Trained], kind: str) -> dict[str, float]:
    """What the trainings of one kind say by themselves."""
    accuracies = _accuracies(rows, kind)
    figures: dict[str, float] = {"mean": float(accuracies.mean()), "best": float(accuracies.max())}
    figures["count"] = len(accuracies)
    if len(accuracies) > 1:
        figures["spread"] = float(accuracies.std(ddof=1))
        figures["standard_error"] = figures["spread"] / math.sqrt(len(accuracies))
    variances = [np.var(each, ddof=1) for each in _by_architecture(rows, kind) if len(each) > 1]
    if variances:
        figures["seed_spread"] = math.sqrt(float(np.mean(variances)))
    return figures


def probability_of_more(first: np.ndarray, second: np.ndarray) -> float:
    """Chance that one drawn from `first` is larger than one drawn from `second`; equal ones count half."""
    difference = first[:, None] - second[None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def expected_best(values: np.ndarray, trials: float) -> float:
    """Expected largest of `trials` draws, with replacement, from `values`; `trials` need not be whole."""
    ordered = np.sort(values)
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** trials
    return float(ordered @ np.diff(below))


def write_rows(path: Path, config: StudyConfig, rows: Sequence[Trained], unit: str) -> None:
    """Writes a CSV file of the released columns, and behind them what those leave out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *EXTRA_COLUMNS])
    for row in rows:
        time = f"{row.cost:.6g}" if unit == "ms" else ""
        accuracy = f"{row.accuracy:.6g}"
        scores = ("", accuracy) if config.use_held_out_test_set else (accuracy, "")
        extra = (row.name, f"{row.epochs:g}", accuracy, f"{row.cost:.6g}", unit, row.seed)
        writer.writerow([row.architecture.space.name, row.architecture.text, time, *scores, *extra])
    write_text(path, text.getvalue())
