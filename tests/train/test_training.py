"""Trainings over one and several processes (gloo), resumed and evaluated."""

import dataclasses
import math
import shutil

import pytest
import torch

from support.jobs import TINY, TRAIN, Job, finished
from support.runs import ALONE, result
from tunas import InputError, TrainConfig, get_space, train
from tunas.errors import DivergedError
from tunas.recipe.lesson import Lesson
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.events import read_events
from tunas.task.opening import open_task
from tunas.train.evaluation import evaluate
from tunas.train.network import network_as_told
from tunas.train.plan import plan_training
from tunas.train.step import Training

SHORT = (*TRAIN, "--epochs=0.9", "--base-learning-rate=0.05")  # 20 steps


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A short training that is evaluated on the test set by one process."""
    directory = tmp_path_factory.mktemp("alone")
    finished([*TRAIN, "--epochs=0.1", "--use-held-out-test-set", "--dropout-rate=0", f"--checkpoint-dir={directory}"])
    return directory


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_an_evaluation_counts_every_image_once_however_many_processes_share_it(alone, tmp_path, ranks):
    expected = result(alone)
    shutil.copytree(alone, tmp_path / "run")
    words = [*TRAIN, "--epochs=0.1", "--use-held-out-test-set", "--mode=eval", "--eval-batch-size=37"]
    finished([*words, f"--checkpoint-dir={tmp_path / 'run'}"], ranks)
    found = result(tmp_path / "run")
    assert found["images"] == expected["images"] == 360
    assert found["accuracy"] == expected["accuracy"] and found["top5_accuracy"] == expected["top5_accuracy"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def training(config, task):
    """A training as one process has it, and its plan."""
    plan = plan_training(config, task.size("train"))
    torch.manual_seed(0)
    architecture = get_space(config.ssd).architecture(config.indices)
    lesson = Lesson(task, plan.used_recipe)
    return Training(network_as_told(config, architecture, task, plan), lesson, plan, config, ALONE), plan


def test_one_step_in_parts_is_the_mean_of_the_parts_gradients(tmp_path):
    """Gradient accumulation: batch norm sees a part, as it does in each of several processes."""
    config = TrainConfig(ssd=TINY, indices="1:1:1:1:1:1:0:1", image_size=8, train_batch_size=48, epochs=1, device="cpu")
    task = open_task(config)
    images, labels = next(task.stream("train", 48, seed=0))
    accumulated, _ = training(dataclasses.replace(config, gradient_accumulation=2), task)
    accumulated.step(5, (images, labels))
    gradients = []
    for part in (slice(0, 24), slice(24, 48)):
        half, _ = training(config, task)
        half.step(5, (images[part], labels[part]))
        gradients.append([parameter.grad.clone() for parameter in half.network.parameters()])
    for parameter, one, two in zip(accumulated.network.parameters(), *gradients, strict=True):
        assert torch.allclose(parameter.grad, (one + two) / 2, atol=1e-6)


@pytest.fixture(scope="module")
def in_two_parts(tmp_path_factory):
    """The same training by two processes, and by one that computes its batch in two parts."""
    root = tmp_path_factory.mktemp("parts")
    finished([*SHORT, f"--checkpoint-dir={root / 'processes'}", "--ema-decay=0.8"], 2)
    finished([*SHORT, f"--checkpoint-dir={root / 'parts'}", "--ema-decay=0.8", "--gradient-accumulation=2"])
    return root


def test_two_processes_learn_the_same_weights_as_one_that_sees_the_same_parts(in_two_parts):
    """Each part has batch statistics of its own; the gradients' mean is the same up to the order of summation."""
    processes, parts = (newest_checkpoint(in_two_parts / name)[0] for name in ("processes", "parts"))
    assert processes.keys() == parts.keys()
    for name in processes:
        if "running_" not in name and "num_batches" not in name:
            assert torch.allclose(processes[name].double(), parts[name].double(), atol=1e-5), name
    events = [read_events(in_two_parts / name)[0] for name in ("processes", "parts")]
    losses = [[values["model/loss"] for values in scalars.values() if "model/loss" in values] for scalars in events]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 20


def test_running_statistics_are_the_mean_over_the_processes(in_two_parts):
    """One process moves its averages once a part, two move theirs once each: near each other, not the same."""
    processes, parts = (newest_checkpoint(in_two_parts / name)[0] for name in ("processes", "parts"))
    means = [name for name in processes if name.startswith("model/") and name.endswith("running_mean")]
    assert means and all(torch.allclose(processes[name], parts[name], atol=0.3) for name in means)


def test_averaged_weights_have_statistics_of_their_own_from_all_training_images(in_two_parts):
    """Of two processes the mean is that of one which sees the same parts, each counted once."""
    processes, parts = (newest_checkpoint(in_two_parts / name)[0] for name in ("processes", "parts"))
    counts = {int(value) for name, value in parts.items() if name.startswith("ema/") and "num_batches" in name}
    assert counts == {2 * math.ceil(1077 / 48)}
    names = [name for name in parts if name.startswith("ema/") and "running_" in name]
    assert names and all(torch.allclose(processes[name], parts[name], rtol=1e-3, atol=1e-4) for name in names)


def test_what_is_evaluated_is_what_is_saved(in_two_parts):
    """An evaluation of the checkpoint by one process finds what the two found at the end of their training."""
    found = result(in_two_parts / "processes")
    finished([*SHORT, f"--checkpoint-dir={in_two_parts / 'processes'}", "--ema-decay=0.8", "--mode=eval"])
    again = result(in_two_parts / "processes")
    assert again["accuracy"] == found["accuracy"] and again["loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_a_training_of_two_processes_resumes(tmp_path):
    """From averaged batch-norm statistics, which change nothing but the order of summation."""
    words = [
        *SHORT,
        "--path-dropout-rate=0.4",
        "--dropout-rate=0.2",
        "--gradient-accumulation=2",
        "--checkpoint-every=2",
    ]
    finished([*words, f"--checkpoint-dir={tmp_path / 'one'}"], 2)
    job = Job([*words, f"--checkpoint-dir={tmp_path / 'two'}"], 2)
    job.until_output("train 6/20")
    job.signal(9, [1])
    job.wait()
    finished([*words, f"--checkpoint-dir={tmp_path / 'two'}"], 2)
    one, two = (newest_checkpoint(tmp_path / name)[0] for name in ("one", "two"))
    assert all(torch.allclose(one[name].double(), two[name].double(), atol=1e-5) for name in one)


def test_a_batch_that_cannot_be_divided_is_refused_before_anything_is_written(tmp_path):
    job = Job([*TRAIN, f"--checkpoint-dir={tmp_path / 'run'}", "--train-batch-size=49"], 2)
    assert job.wait() == [2, 2]
    assert "the batch of 49 images cannot be divided among 2 processes; choose a multiple of 2" in job.output(0)
    assert not (tmp_path / "run").exists()


def test_divergence_names_the_step_and_keeps_finite_weights(tmp_path):
    config = TrainConfig(
        ssd=TINY,
        indices="1:1:1:1:1:1:0:1",
        image_size=8,
        train_batch_size=48,
        epochs=1,
        device="cpu",
        base_learning_rate=1e30,
        checkpoint_every=1,
        checkpoint_dir=str(tmp_path),
    )
    with pytest.raises(DivergedError, match=r"(at|after) step \d+; the last checkpoint is kept"):
        train(config)
    found = newest_checkpoint(tmp_path)
    assert found is None or all(tensor.isfinite().all() for tensor in found[0].values())


def test_a_finished_training_is_only_evaluated_again(tmp_path):
    words = [*SHORT, f"--checkpoint-dir={tmp_path}"]
    finished(words)
    before = result(tmp_path)
    job = finished(words)
    assert "train 2/20" not in job.output() and result(tmp_path) == before
    assert list(read_events(tmp_path)[0]) == list(range(21)), "20 steps and one evaluation"


def test_a_training_may_change_how_it_evaluates_but_not_what_it_learns(tmp_path):
    finished([*TRAIN, "--epochs=0.1", "--mode=train", f"--checkpoint-dir={tmp_path}"])
    finished([*TRAIN, "--epochs=0.1", "--mode=train_and_eval", "--eval-batch-size=50", f"--checkpoint-dir={tmp_path}"])
    job = Job(
        [*TRAIN, "--epochs=0.1", "--label-smoothing=0.2", "--filters-multiplier=2", f"--checkpoint-dir={tmp_path}"]
    )
    assert job.wait() == [2]
    assert (
        "label_smoothing was 0.1 and is now 0.2" in job.output()
        and "filters_multiplier was 1.0 and is now 2.0" in job.output()
    )


def test_evaluating_without_weights_is_one_sentence(tmp_path):
    for flags in ([], [f"--checkpoint-dir={tmp_path}"], [f"--checkpoint={tmp_path / 'none.pth'}"]):
        job = Job([*TRAIN, "--mode=eval", *flags])
        assert job.wait() == [2] and job.output().count("\n") == 1


def test_evaluate_leaves_the_network_in_eval_mode():
    config = TrainConfig(ssd=TINY, indices="1:1:1:1:1:1:0:1", image_size=8)
    task = open_task(config)
    network = network_as_told(config, get_space(TINY).architecture(config.indices), task)
    found = evaluate(network, task, "valid", ALONE, batch_size=100)
    assert found.examples == 360 and not network.training
    assert 0 <= found.metrics["accuracy"] <= found.metrics["top5_accuracy"] <= 1


def test_a_search_space_needs_indices():
    with pytest.raises(InputError, match="--indices"):
        train(TrainConfig(ssd=TINY, device="cpu"))
