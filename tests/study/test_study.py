"""Searched against random: the figures, and the runs behind them."""

import csv
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from support.jobs import TINY
from tunas import InputError, SearchConfig, TrainConfig, get_space
from tunas.cli import main
from tunas.errors import DivergedError
from tunas.study import jobs
from tunas.study.config import StudyConfig
from tunas.study.jobs import Job, run_jobs
from tunas.study.released import COLUMNS
from tunas.study.study import Entry, Trained, compared, expected_best, probability_of_more, study, training_jobs

INDICES = "1:1:1:1:1:1:0:1"
SMALL = {
    "ssd": TINY,
    "image_size": 8,
    "min_cost": 6000.0,
    "max_cost": 9000.0,
    "random": 2,
    "searches": 1,
    "num_workers": 0,
}
FLAGS = {"search": ("epochs=0.2", "device=cpu"), "train": ("epochs=0.2", "device=cpu")}


def training(seed: int, **more) -> TrainConfig:
    return TrainConfig(
        ssd=TINY, indices=INDICES, image_size=8, device="cpu", epochs=0.1, seed=seed, num_workers=0, **more
    )


def test_the_expected_best_of_one_is_the_mean_and_of_very_many_the_best():
    values = np.random.default_rng(0).normal(size=30)
    assert expected_best(values, 1) == pytest.approx(values.mean())
    assert expected_best(values, 1e6) == pytest.approx(values.max())


def test_the_expected_best_of_k_is_that_of_drawing_k_times():
    rng = np.random.default_rng(0)
    values = rng.normal(size=12)
    drawn = values[rng.integers(12, size=(200_000, 5))].max(axis=1).mean()
    assert expected_best(values, 5) == pytest.approx(drawn, abs=5e-3)


def test_the_probability_of_more_counts_pairs_and_halves_ties():
    assert probability_of_more(np.array([1.0, 2.0]), np.array([0.0])) == 1
    assert probability_of_more(np.array([1.0, 3.0]), np.array([2.0])) == 0.5
    assert probability_of_more(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def training_of(name, kind, accuracy, **more):
    return Trained(name, kind, get_space(TINY).architecture(INDICES), 7e3, accuracy, 1.0, 10.0, **more)


def test_repeated_trainings_count_by_their_mean_and_tell_seeds_from_architectures():
    accuracies = {"random-0": (0.5, 0.7), "random-1": (0.6, 0.8), "random-2": (0.7, 0.9)}
    rows = [training_of(name, "random", value) for name, values in accuracies.items() for value in values]
    rows += [training_of("searched-0", "searched", value, search_seconds=20.0) for value in (0.7, 0.8)]
    figures = compared(rows)
    assert (figures["random"]["count"], figures["searched"]["count"]) == (3, 1)
    assert figures["random"]["spread"] == pytest.approx(0.1)  # of 0.6, 0.7 and 0.8
    assert figures["random"]["seed_spread"] == pytest.approx(0.2 / math.sqrt(2))
    assert figures["searched"]["random_trainings_for_one_search"] == pytest.approx(2.0)
    assert figures["searched"]["probability_that_random_is_better"] == pytest.approx(1 / 3)


def test_the_command_says_how_much_seeds_make_of_the_differences(monkeypatch, capsys):
    rows = [training_of(f"random-{n}", "random", 0.6 + 0.1 * n + change) for n in range(3) for change in (-0.1, 0.1)]
    figures = compared(rows) | {"ssd": TINY, "range": [6e3, 9e3], "unit": "MACs"}
    monkeypatch.setattr("tunas.study.study.study", lambda config: figures)
    assert main(["study", f"--ssd={TINY}"]) == 0
    assert "10.00 points between random architectures, 14.14 between trainings" in capsys.readouterr().out


def test_repeats_are_trainings_with_other_seeds():
    config = StudyConfig(**SMALL | FLAGS, repeats=2, seed=3)
    entry = Entry("random-0", "random", get_space(TINY).architecture(INDICES))
    jobs = training_jobs(config, [entry])
    assert [(job.name, job.config.seed) for job in jobs] == [("train-random-0", 3), ("train-random-0-again-1", 4)]
    assert {job.config.indices for job in jobs} == {INDICES}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = StudyConfig(out=str(tmp_path_factory.mktemp("study")), ablation=("no_sharing",), **SMALL, **FLAGS)
    return config, study(config)


def test_a_study_compares_random_searched_and_ablated_architectures(finished):
    config, figures = finished
    assert [figures[kind]["count"] for kind in ("random", "searched", "no_sharing")] == [2, 1, 1]
    params = [json.loads(Path(config.out, f"search-{kind}-0", "params.json").read_text()) for kind in (*figures,)[1:3]]
    assert [found["aggressive_sharing"] for found in params] == [True, False]
    with open(f"{config.out}/random_architectures.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0])[: len(COLUMNS)] == COLUMNS
    accuracies = [float(row["90epoch_validation_accuracy"]) for row in rows]
    assert figures["random"]["mean"] == pytest.approx(np.mean(accuracies))
    assert all(6000 <= float(row["cost"]) <= 9000 for row in rows)
    results = [json.loads(Path(config.out, f"train-random-{n}", "result.json").read_text()) for n in range(2)]
    assert [float(f"{result['accuracy']:.6g}") for result in results] == accuracies


def test_what_is_finished_is_not_run_again(finished, monkeypatch):
    config, figures = finished
    monkeypatch.setattr(jobs, "run_one", lambda *_: pytest.fail("ran again"))
    assert study(config) == figures


def test_the_winner_among_candidates_is_the_best_on_held_out_examples(finished, tmp_path):
    config, _ = finished
    shutil.copytree(config.out, tmp_path, dirs_exist_ok=True)  # the search is done
    for name in ("train-searched-0", "train-random-0", "train-random-1", "study.json"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    figures = study(
        dataclasses.replace(config, out=str(tmp_path), random=1, candidates=3, ablation=(), use_held_out_test_set=True)
    )
    found = sorted(tmp_path.glob("train-searched-0-candidate-*"))
    results = [json.loads((each / "result.json").read_text()) for each in found]
    assert len({result["indices"] for result in results}) == len(results) > 1
    assert {result["split"] for result in results} == {"valid"}
    best = max(results, key=lambda result: result["accuracy"])
    winner = json.loads((tmp_path / "train-searched-0" / "result.json").read_text())
    assert (winner["indices"], winner["split"]) == (best["indices"], "test")
    seconds = sum(jobs.seconds_of(each) for each in (*found, tmp_path / "search-searched-0"))
    trials = seconds / jobs.seconds_of(tmp_path / "train-random-0")
    assert figures["searched"]["random_trainings_for_one_search"] == pytest.approx(trials)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": ("epochs",)}, "--train epochs: give a flag of `tunas train` with its value"),
        ({"search": ("seed_of_luck=3",)}, "give a flag of `tunas search`"),
        ({"train": ("indices=0:1",)}, "indices is set already"),
        ({"train": ("epochs=many",)}, "--train epochs=many: the value is none of the flag's type"),
        ({"min_cost": None}, "--min_cost and --max_cost"),
        ({"min_cost": 9000.0}, "min_cost must be above 0 and below max_cost"),
        ({"search": ("epochs=-1",)}, "epochs must be a positive number, not -1"),
        ({"train": ("epochs=-1",)}, "epochs must be a positive number, not -1"),
        ({"train": ("epochs=0.001",)}, "are less than one batch"),
        ({"random": 0}, "random must be a positive number"),
        ({"repeats": 0}, "repeats must be a positive number"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"candidates": 0}, "candidates must be a positive number"),
        ({"candidates": 2}, "chosen on held-out examples, which would then compare them .* --use_held_out_test_set"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(jobs, "run_one", lambda *_: pytest.fail("ran"))
    with pytest.raises(InputError, match=said):
        study(StudyConfig(out=str(tmp_path), **SMALL | FLAGS | changes))


def test_jobs_in_processes_give_what_they_give_here(tmp_path):
    for place, workers in (("here", 1), ("there", 2)):
        run_jobs([Job(f"job-{seed}", training(seed)) for seed in range(2)], tmp_path / place, workers=workers)
    for seed in range(2):
        here, there = (json.loads((tmp_path / place / f"job-{seed}" / "result.json").read_text())
                       for place in ("here", "there"))  # fmt: skip
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-4)
        assert jobs.seconds_of(tmp_path / "there" / f"job-{seed}") > 0


@pytest.mark.slow
def test_jobs_on_a_ray_cluster_give_what_they_give_here(tmp_path):
    pytest.importorskip("ray")
    run_jobs([Job("job", training(0))], tmp_path / "here")
    try:
        run_jobs([Job("job", training(0))], tmp_path / "there", engine="ray")
        with pytest.raises(InputError, match=r"bad: .*nowhere"):
            bad = SearchConfig(ssd=TINY, dataset_dir=str(tmp_path / "nowhere"), device="cpu")
            run_jobs([Job("bad", bad)], tmp_path / "there", engine="ray")
    finally:
        sys.modules["ray"].shutdown()
    losses = [json.loads((tmp_path / place / "job" / "result.json").read_text())["loss"] for place in ("here", "there")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert jobs.seconds_of(tmp_path / "there" / "job") > 0


def test_a_job_with_bad_input_ends_the_others_with_its_sentence(tmp_path):
    bad = Job("bad", SearchConfig(ssd=TINY, dataset_dir=str(tmp_path / "nowhere"), device="cpu"))
    with pytest.raises(InputError, match=r"bad: .*nowhere"):
        run_jobs([bad, Job("good", training(0))], tmp_path / "jobs", workers=2)


def test_what_was_done_with_other_settings_is_not_taken_for_it(tmp_path):
    told = training(0, augment="none")
    run_jobs([Job("a", told)], tmp_path)
    run_jobs([Job("a", told)], tmp_path)
    other = training(0, augment="none", base_learning_rate=0.5)
    with pytest.raises(InputError, match=r"done with other settings .base_learning_rate was None and is now 0.5."):
        run_jobs([Job("a", other)], tmp_path)


def test_a_job_that_fails_is_tried_three_times_and_the_others_go_on(tmp_path, monkeypatch):
    tried = []

    def fails(config, task):
        tried.append(config.seed)
        if config.seed == 0:
            raise DivergedError("the loss is nan")

    monkeypatch.setattr(jobs, "run_one", fails)
    with pytest.raises(DivergedError, match=r"1 of 2 jobs failed 3 times: a; .*run the same command"):
        run_jobs([Job("a", training(0)), Job("b", training(1))], tmp_path)
    assert tried == [0, 0, 0, 1]


def test_the_command_prints_a_row_for_each_kind(finished, capsys):
    config, _ = finished
    words = [f"--{name}={getattr(config, name)}" for name in ("ssd", "out", "image_size", "min_cost", "max_cost")]
    flags = [f"--{kind}={flag}" for kind, given in FLAGS.items() for flag in given]
    assert (
        main(["study", *words, *flags, "--random=2", "--searches=1", "--ablation=no_sharing", "--num_workers=0"]) == 0
    )
    page = capsys.readouterr().out
    assert "random" in page and "searched" in page and "no_sharing" in page


@pytest.mark.slow
def test_a_study_that_is_ended_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-m", "tunas", "study", f"--ssd={TINY}", "--image_size=8", "--min_cost=6000",
               "--max_cost=9000", "--random=3", "--searches=1", "--search=epochs=2", "--train=epochs=2",
               f"--out={tmp_path}", "--workers=2"]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not list(tmp_path.glob("search-*/checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert subprocess.run(command, check=False).returncode == 0
    assert json.loads((tmp_path / "study.json").read_text())["random"]["count"] == 3
