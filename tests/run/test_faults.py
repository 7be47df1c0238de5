"""Whole runs of the command line that are killed, stopped, starved and damaged (issue 4)."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from support.jobs import SEARCH, TRAIN, Job, finished, first_to_end, killed_and_restarted
from tunas import InputError
from tunas.cli import main
from tunas.report.analyze import analyze
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.checkpoint_names import checkpoints
from tunas.run.directory import read_params
from tunas.run.events import PATTERN, events_of, read_events

SHORT = (*SEARCH, "--epochs=1.35", "--checkpoint-every=2", "--log-every=1")  # 30 steps


def assert_same_run(one, other):
    """The same checkpoint bit by bit, and the same event scalars, each of every step once."""
    (tensors, numbers, _), (others, other_numbers, _) = newest_checkpoint(one), newest_checkpoint(other)
    assert tensors.keys() == others.keys()
    assert not [name for name in tensors if not torch.equal(tensors[name], others[name])]
    del numbers["events"], other_numbers["events"]
    assert numbers == other_numbers
    scalars, warnings = read_events(one)
    other_scalars, other_warnings = read_events(other)
    assert scalars == other_scalars and warnings == other_warnings == []
    for directory in (one, other):
        logged = [
            (event.step, value.tag)
            for path in directory.glob(PATTERN)
            for event in events_of(path, [])
            for value in event.summary.value
        ]
        steps = {step for step, _ in logged}
        assert len(logged) == len(set(logged)) and sorted(steps) == list(range(max(steps) + 1))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Directory of a search that nothing happened to; not to be changed."""
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    finished([*SHORT, f"--checkpoint-dir={directory}"])
    return directory


def test_a_search_killed_at_random_moments_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    killed_and_restarted([*SHORT, f"--checkpoint-dir={tmp_path / 'run'}"], kills=4, seed=1)
    assert_same_run(undisturbed, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == json.loads(
        (undisturbed / "result.json").read_text()
    )
    assert not list((tmp_path / "run").glob(".*")) and not (tmp_path / "run" / "lock.json").exists()


def test_a_training_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path):
    words = [*TRAIN, "--epochs=0.6", "--checkpoint-every=2", "--ema-decay=0.9", "--gradient-accumulation=2"]
    words += ["--dropout-rate=0.3", "--path-dropout-rate=0.3"]
    finished([*words, f"--checkpoint-dir={tmp_path / 'one'}"])
    killed_and_restarted([*words, f"--checkpoint-dir={tmp_path / 'two'}"], kills=4, seed=2)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert one == two and one["images"] == 360


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_search_saves_and_goes_on_where_it_was(undisturbed, tmp_path, number, code):
    words = [*SHORT, f"--checkpoint-dir={tmp_path / 'run'}", "--checkpoint-every=1000"]
    job = Job(words)
    job.until_output("search 3/30")
    job.signal(number)
    assert job.wait() == [code]
    assert f"stopped by {signal.Signals(number).name} after step" in job.output()
    step = newest_checkpoint(tmp_path / "run")[1]["step"]
    assert 3 <= step < 30 and not (tmp_path / "run" / "lock.json").exists()
    assert "search 3/30" not in finished(words).output()
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A search on an image folder, which takes processes that decode, random crops and flips."""
    from PIL import Image

    root = tmp_path_factory.mktemp("folder")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 40), ("val", 8)):
        for name in "ab":
            (root / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (12, 16, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(root / "images" / split / name / f"{number}.png")
    words = [
        *SEARCH,
        f"--dataset-dir={root / 'images'}",
        "--epochs=3",
        "--train-batch-size=16",
        "--log-every=1",
        "--checkpoint-every=3",
    ]
    words[words.index("--num-workers=0")] = "--num-workers=1"
    finished([*words, f"--checkpoint-dir={root / 'undisturbed'}"])
    return words, root / "undisturbed"


def test_data_workers_go_on_where_they_were_after_a_kill(folder, tmp_path):
    words, undisturbed = folder
    killed_and_restarted([*words, f"--checkpoint-dir={tmp_path / 'run'}"], kills=2, seed=3, longest=2.0)
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_of_a_run_does_not_take_its_data_away(folder, tmp_path, number):
    """As a terminal's Ctrl-C and a scheduler's SIGTERM are sent."""
    words, undisturbed = folder
    words = [*words, f"--checkpoint-dir={tmp_path / 'run'}"]
    job = Job(words)
    job.until_output("search 6/")
    main_process = job.processes[0].pid
    workers = subprocess.run(["pgrep", "-P", str(main_process)], capture_output=True, text=True).stdout.split()
    assert workers
    for pid in (*workers, main_process):
        os.kill(int(pid), number)
    assert job.wait() == [128 + number], job.output()
    assert f"stopped by {number.name} after step" in job.output() and "Traceback" not in job.output()
    finished(words)
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_breaks_off_does_not_wait_for_its_data_workers(folder, tmp_path):
    """An error of our own, whose traceback keeps everything alive until the process ends."""
    program = "import sys; from tunas.cli import main; from tunas.search.step import Search\n"
    program += (
        "step = Search.step\ndef broken(self, number, *batches):\n    if number == 3: raise KeyError('a mistake')\n"
    )
    program += "    return step(self, number, *batches)\nSearch.step = broken\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *folder[0], f"--checkpoint-dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and ended.stderr.rstrip().endswith("KeyError: 'a mistake'")
    assert not (tmp_path / "run" / "lock.json").exists()


def test_a_finished_search_says_its_result_again(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    job = finished([*SHORT, f"--checkpoint-dir={tmp_path / 'run'}"])
    assert "search 1" not in job.output() and "indices = " in job.output()
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_run_with_other_parameters_is_refused_and_left_as_it_was(undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    job = Job([*SHORT, f"--checkpoint-dir={run}", "--seed=5", "--image-size=16"])
    assert job.wait() == [2]
    assert (
        "seed was 0 and is now 5" in job.output()
        and "image_size was 8 and is now 16" in job.output()
        and job.output().count("\n") == 1
    )
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_harmless_parameters_may_change(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    finished(
        [*SHORT, f"--checkpoint-dir={tmp_path / 'run'}", "--num-workers=1", "--checkpoint-every=5", "--log-every=7"]
    )
    assert read_params(tmp_path / "run")["num_workers"] == 1


def test_of_two_searches_started_at_once_on_a_new_directory_one_runs(undisturbed, tmp_path):
    refused, (running,) = first_to_end(
        [Job([*SEARCH, "--epochs=100", f"--checkpoint-dir={tmp_path / 'long'}"]) for _ in range(2)]
    )
    assert refused.wait() == [2]
    assert "is in use by " in refused.output() and refused.output().count("\n") == 1
    running.signal(signal.SIGTERM)
    assert running.wait() == [143]


def test_two_searches_started_at_once_leave_the_run_of_one(undisturbed, tmp_path):
    """The second is refused, or comes when the first has ended and finds nothing left to do."""
    jobs = [Job([*SHORT, f"--checkpoint-dir={tmp_path / 'run'}"]) for _ in range(2)]
    assert sorted(job.wait()[0] for job in jobs) in ([0, 0], [0, 2])
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_diverging_search_names_step_and_architecture_and_keeps_the_last_good_checkpoint(tmp_path):
    job = Job([*SHORT, f"--checkpoint-dir={tmp_path / 'run'}", "--model-learning-rate=1e30", "--checkpoint-every=1"])
    assert job.wait() == [1]
    sentence = job.output().splitlines()[-1]
    assert "finite" in sentence or ("the loss is nan at step " in sentence and "architecture " in sentence)
    found = newest_checkpoint(tmp_path / "run")
    assert found is not None and all(tensor.isfinite().all() for tensor in found[0].values())


def test_a_full_disk_ends_a_search_in_one_sentence_and_it_goes_on_when_there_is_room(undisturbed, small_disk, tmp_path):
    run = small_disk / "run"
    ballast = small_disk / "ballast"
    job = Job([*SHORT, f"--checkpoint-dir={run}"])
    job.until_output("search 3/30")
    with open(ballast, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 4096)
    assert job.wait() == [2]
    last = job.output().splitlines()[-1]
    assert last.startswith("tunas: cannot write to ") and last.endswith("No space left on device")
    assert newest_checkpoint(run) is not None
    ballast.unlink()
    finished([*SHORT, f"--checkpoint-dir={run}"])
    assert_same_run(undisturbed, run)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    job = Job([*SHORT, f"--checkpoint-dir={tmp_path / 'file' / 'run'}"])
    assert job.wait() == [2] and "Not a directory" in job.output() and job.output().count("\n") == 1


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for path in checkpoints(run)[:2]:
        path.write_bytes(path.read_bytes()[:-1])
    job = finished([*SHORT, f"--checkpoint-dir={run}"])
    assert job.output().count("passing over a damaged checkpoint") == 2
    assert "search 27/30" in job.output() and "search 24/30" not in job.output()
    assert_same_run(undisturbed, run)


FILES = ("params.json", "model_spec.json", "data.json", "result.json", "lock.json", "checkpoint", "events")


@pytest.mark.parametrize("name", FILES)
def test_damage_in_any_file_is_detected_or_harmless(undisturbed, tmp_path, capsys, name):
    """A resumed search ends as the undisturbed one, or refuses in one sentence; `analyze` warns, refuses or says the
    same."""
    expected = analyze(undisturbed).architecture
    rng = random.Random(name)
    for kind in ("flip", "flip again", "flip once more", "cut", "noise"):
        run = tmp_path / kind.replace(" ", "-")
        shutil.copytree(undisturbed, run)
        if name == "lock.json":
            (run / name).write_text(json.dumps({"pid": 2**30, "host": os.uname().nodename[:1]})[:-2])
        path = max(run.glob({"checkpoint": "checkpoint-*", "events": PATTERN}.get(name, name)))
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        if kind == "cut":
            del content[place:]
        elif kind == "noise":
            content[place : place + 20] = rng.randbytes(20)
        else:
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

        try:
            found = analyze(run)
            assert found.warnings or found.architecture == expected
        except InputError as error:
            assert "\n" not in str(error)

        capsys.readouterr()
        code = main([*SHORT, f"--checkpoint-dir={run}"])
        said = capsys.readouterr().err
        assert code in (0, 2) and (code == 0 or said.count("\n") == 1)
        if code == 0:
            (tensors, *_), (others, *_) = newest_checkpoint(undisturbed), newest_checkpoint(run)
            assert all(torch.equal(tensors[key], others[key]) for key in tensors)
            assert name != "events" or read_events(run)[1] or "has lost entries" in said
            assert name != "checkpoint" or "passing over a damaged checkpoint" in said


def test_a_killed_search_can_be_started_again_at_once(tmp_path):
    words = [*SHORT, f"--checkpoint-dir={tmp_path / 'run'}"]
    job = Job(words)
    job.until_output("search 3/30")
    job.signal(signal.SIGKILL)
    job.wait()
    began = time.monotonic()
    finished(words)
    assert time.monotonic() - began < 60, "it must not wait for the lock that was left behind"
