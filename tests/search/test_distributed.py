"""Searches over several processes (gloo): the same function of seed, replicas and batch, however many share the
work."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from support.jobs import SEARCH, TIMEOUT, Job, finished, first_to_end
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.events import read_events

TWENTY = (*SEARCH, "--epochs=0.9", "--log-every=1")  # 20 steps


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory):
    """Number of processes -> directory of the same search."""
    root = tmp_path_factory.mktemp("ranks")
    for ranks in (1, 2, 4):
        finished([*TWENTY, f"--checkpoint-dir={root / str(ranks)}"], ranks)
    return {ranks: root / str(ranks) for ranks in (1, 2, 4)}


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_processes_gives_the_same_search(by_ranks, ranks):
    (alone, numbers, _), (shared, shared_numbers, _) = (
        newest_checkpoint(by_ranks[1]),
        newest_checkpoint(by_ranks[ranks]),
    )
    assert numbers["step"] == shared_numbers["step"] == 20 and alone.keys() == shared.keys()
    assert (alone["weights"] - shared["weights"]).abs().max() < 1e-5
    assert (alone["square_avg"] - shared["square_avg"]).abs().max() < 1e-5
    assert (alone["momentum_buffer"] - shared["momentum_buffer"]).abs().max() < 1e-5
    assert torch.equal(alone["controller/logits"], shared["controller/logits"])
    assert torch.equal(alone["controller/second_moment"], shared["controller/second_moment"])


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_processes_samples_the_same_architectures(by_ranks, ranks):
    """Their costs, log-probabilities and accuracies, which are written down, say so."""
    alone, shared = read_events(by_ranks[1])[0], read_events(by_ranks[ranks])[0]
    assert list(alone) == list(shared) == list(range(20))
    exact = [tag for tag in alone[0] if tag.startswith(("rlcontroller/", "rlpathlogits/"))]
    assert "rlcontroller/estimated_cost" in exact and "rlcontroller/validation_accuracy" in exact
    for step in alone:
        assert {tag: alone[step][tag] for tag in exact} == {tag: shared[step][tag] for tag in exact}
        assert alone[step]["model/empirical_loss"] == pytest.approx(shared[step]["model/empirical_loss"], abs=1e-5)


def test_only_the_first_process_writes(by_ranks):
    names = {ranks: {path.name.split(".")[0] for path in directory.iterdir()} for ranks, directory in by_ranks.items()}
    assert names[2] == names[4] == names[1]
    assert all(len(list(directory.glob("events*"))) == 1 for directory in by_ranks.values())


def test_a_search_may_go_on_with_another_number_of_processes(by_ranks, tmp_path):
    words = [*TWENTY, f"--checkpoint-dir={tmp_path / 'run'}", "--checkpoint-every=4"]
    job = Job(words, 2)
    job.until_output("search 8/20")
    job.signal(signal.SIGTERM)
    assert job.wait() == [143, 143]
    finished(words)
    alone, other = newest_checkpoint(by_ranks[1])[0], newest_checkpoint(tmp_path / "run")[0]
    assert (alone["weights"] - other["weights"]).abs().max() < 1e-5


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    job = Job([*TWENTY, f"--checkpoint-dir={tmp_path / 'run'}"], 2)
    job.until_output("search 2/20")
    job.signal(signal.SIGTERM, [1])
    assert job.wait() == [143, 143]
    assert job.output(0).splitlines()[-1] == job.output(1).splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--replicas=3"],
            "3 replicas cannot be divided among 2 processes; choose a multiple of 2, "
            "such as --replicas=4 --train_batch_size=64",
        ),
        (["--ssd=nothing_like_it"], "unknown space 'nothing_like_it'"),
        (["--train-batch-size=50"], "cannot be divided among 4 replicas"),
        (["--device=cuda:0"], "cuda:0"),
    ],
)
def test_bad_input_ends_every_process_with_code_2_and_leaves_nothing(tmp_path, flags, sentence):
    job = Job([*SEARCH, f"--checkpoint-dir={tmp_path / 'run'}", *flags], 2)
    assert job.wait() == [2, 2]
    assert sentence in job.output(0) and "Traceback" not in job.output(0) + job.output(1)
    assert not (tmp_path / "run").exists()


def test_what_only_the_first_process_can_see_is_said_once_and_ends_all(by_ranks):
    """Other parameters in the directory; a lock that is held."""
    job = Job([*TWENTY, f"--checkpoint-dir={by_ranks[2]}", "--seed=3"], 2)
    assert job.wait() == [2, 2]
    assert "seed was 0 and is now 3" in job.output(0) and job.output(1) == ""


def test_two_jobs_on_one_directory_do_not_mix(tmp_path):
    refused, (running,) = first_to_end(
        [Job([*SEARCH, "--epochs=100", f"--checkpoint-dir={tmp_path / 'run'}"], 2) for _ in range(2)]
    )
    assert refused.wait() == [2, 2]
    running.signal(signal.SIGTERM)
    assert running.wait() == [143, 143]


def test_divergence_ends_every_process(tmp_path):
    job = Job(
        [*TWENTY, f"--checkpoint-dir={tmp_path / 'run'}", "--model-learning-rate=1e30", "--checkpoint-every=1"], 2
    )
    assert job.wait() == [1, 1]


def test_a_killed_process_ends_the_others_with_an_error(tmp_path):
    """Without torchrun, which would end them too: the exchange of gradients notices."""
    for victim in (0, 1):
        job = Job([*SEARCH, "--epochs=10", f"--checkpoint-dir={tmp_path / str(victim)}"], 2)
        job.until_output("search 22/")
        job.signal(signal.SIGKILL, [victim])
        codes = job.wait()
        assert codes[victim] == 137 and codes[1 - victim] not in (0, 137)
        assert "Connection closed by peer" in job.output(1 - victim) or "reset by peer" in job.output(1 - victim)


def torchrun(words, directory, ranks=2, **options):
    flags = [f"--nproc-per-node={ranks}", "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    flags += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *flags,
        "-m",
        "tunas",
        *words,
        f"--checkpoint-dir={directory}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def output_of(process):
    try:
        return process.communicate(timeout=TIMEOUT)[0]
    finally:
        process.kill()


def test_torchrun_runs_a_search(by_ranks, tmp_path):
    process = torchrun(TWENTY, tmp_path / "run")
    text = output_of(process)
    assert process.returncode == 0 and text.count("indices = ") == 1 and text.count("search 20/20") == 1, text
    alone, shared = newest_checkpoint(by_ranks[1])[0], newest_checkpoint(tmp_path / "run")[0]
    assert (alone["weights"] - shared["weights"]).abs().max() < 1e-5


@pytest.mark.slow
def test_torchrun_ends_with_the_error_of_the_job(tmp_path):
    process = torchrun([*TWENTY, "--replicas=3"], tmp_path / "run")
    text = output_of(process)
    assert (
        process.returncode != 0 and "3 replicas cannot be divided among 2 processes" in text and "exitcode  : 2" in text
    )


def wait_for_checkpoint(directory):
    until = time.monotonic() + TIMEOUT
    while not list(directory.glob("checkpoint-*")):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_torchrun_restarts_a_job_that_lost_a_process_and_it_ends_as_undisturbed(tmp_path):
    words = [*SEARCH, "--epochs=10", "--checkpoint-every=5"]
    finished([*words, f"--checkpoint-dir={tmp_path / 'undisturbed'}"], 2)
    process = torchrun(words, tmp_path / "run", max_restarts=3)
    wait_for_checkpoint(tmp_path / "run")
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    text = output_of(process)
    assert process.returncode == 0, text
    one, two = newest_checkpoint(tmp_path / "undisturbed")[0], newest_checkpoint(tmp_path / "run")[0]
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_the_run(tmp_path, number):
    process = torchrun([*SEARCH, "--epochs=100", "--checkpoint-every=1000", "--log-every=1"], tmp_path / "run")
    until = time.monotonic() + TIMEOUT
    while not (tmp_path / "run").exists() or len(read_events(tmp_path / "run")[0]) < 3:
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(number)
    text = output_of(process)
    assert process.returncode != 0 and "run the same command to go on" in text, text
    assert newest_checkpoint(tmp_path / "run")[1]["step"] >= 3
