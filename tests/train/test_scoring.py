"""Held-out accuracy during a training, the best weights, the average of the weights, and what loads them."""

import json

import pytest
import torch

import tunas
from support.jobs import TRAIN, Job, finished, killed_and_restarted
from support.runs import ALONE, scores
from tunas import InputError, TrainConfig
from tunas.data import normalize, open_data
from tunas.run.events import read_events
from tunas.run.scores import is_due
from tunas.task.opening import open_task
from tunas.train.evaluation import evaluate
from tunas.train.plan import plan_training
from tunas.train.scoring import best_checkpoint
from tunas.train.trained import trained_weights

RUN = (*TRAIN, "--epochs=1.5", "--base-learning-rate=0.05", "--ema-decay=0.9999", "--eval-every=0.25")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    finished([*RUN, f"--checkpoint-dir={directory}"])
    return directory


def test_scorings_are_due_after_so_many_epochs_and_at_the_end():
    assert [done for done in range(1, 11) if is_due(done, 10, 2.5)] == [3, 5, 8, 10]
    assert [done for done in range(1, 11) if is_due(done, 10, None)] == [10]


def test_the_held_out_accuracy_is_in_the_summary_and_in_the_events(run):
    found = scores(run)
    assert [int(row["step"]) for row in found] == [6, 12, 17, 23, 29, 33]  # 22.4 steps are an epoch
    scalars, _ = read_events(run)
    for row in found:
        assert scalars[int(row["step"])]["eval/accuracy"] == pytest.approx(float(row["eval_accuracy"]))
    result = json.loads((run / "result.json").read_text())
    assert float(found[-1]["eval_accuracy"]) == result["accuracy"]
    assert result["best"]["eval_accuracy"] == max(float(row["eval_accuracy"]) for row in found)


def test_the_best_weights_are_kept_and_score_what_the_summary_says(run):
    best = max(scores(run), key=lambda row: float(row["eval_accuracy"]))
    assert (
        len(list(run.glob("best-*"))) == 1 and best_checkpoint(run).name == f"best-{int(best['step']):010d}.safetensors"
    )
    found = evaluate(tunas.load_network(run, "best"), open_task(TrainConfig(image_size=8)), "valid", ALONE)
    assert found.metrics["accuracy"] == float(best["eval_accuracy"])


@pytest.mark.parametrize("which", ["best", "last", "ema"])
def test_an_evaluation_scores_the_weights_that_are_asked_for(run, which):
    before = (run / "result.json").read_text()
    finished([*RUN, "--mode=eval", f"--which={which}", f"--checkpoint-dir={run}"])
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(before)
    expected = evaluate(tunas.load_network(run, which), open_task(TrainConfig(image_size=8)), "valid", ALONE)
    assert result["accuracy"] == expected.metrics["accuracy"] and result["weights"] == which
    assert result["step"] == trained_weights(run, which).step


def test_the_average_follows_at_once_in_a_short_run(run):
    """A decay of 0.9999 without a warmup would still be at the first weights after 33 steps."""
    last, average = (trained_weights(run, which).tensors["head.classifier.bias"] for which in ("last", "ema"))
    assert torch.linalg.vector_norm(last - average) < 0.5 * torch.linalg.vector_norm(last)


def test_killed_and_restarted_it_writes_the_same_scores_and_the_same_best_weights(run, tmp_path):
    killed_and_restarted([*RUN, "--checkpoint-every=4", f"--checkpoint-dir={tmp_path}"], kills=3)
    assert (tmp_path / "summary.csv").read_bytes() == (run / "summary.csv").read_bytes()
    for which in ("best", "last", "ema"):
        one, two = (trained_weights(directory, which) for directory in (run, tmp_path))
        assert one.step == two.step and all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_with_the_test_set_nothing_is_chosen_by_it_unless_asked():
    assert plan_training(TrainConfig(use_held_out_test_set=True), 10_000).eval_steps is None
    assert plan_training(TrainConfig(use_held_out_test_set=True, eval_every=2), 10_000).eval_steps is not None
    assert plan_training(TrainConfig(train_batch_size=100), 10_000).eval_steps == 100


def test_weights_that_were_not_kept_are_one_sentence(tmp_path):
    finished([*TRAIN, "--epochs=0.1", "--mode=train", f"--checkpoint-dir={tmp_path}"])
    for which, sentence in (("best", "holds no best weights"), ("ema", "kept no average")):
        with pytest.raises(InputError, match=sentence):
            tunas.load_network(tmp_path, which)
    with pytest.raises(InputError, match="holds no training"):
        tunas.load_network(tmp_path / "none")


def test_a_loaded_network_is_in_eval_mode_and_gives_logits(run):
    network = tunas.load_network(run)
    images, _ = next(open_data(TrainConfig(image_size=8)).once("valid", 3))
    assert not network.training and network(normalize(images)).shape == (3, 10)


def test_a_running_training_is_followed_until_its_last_checkpoint(tmp_path):
    words = [*RUN, "--checkpoint-every=11", f"--checkpoint-dir={tmp_path / 'run'}"]
    follower = Job([*RUN, "--mode=eval", "--follow", f"--checkpoint-dir={tmp_path / 'run'}"])
    follower.until_output("waiting for the next checkpoint")
    finished(words)
    assert follower.wait() == [0], follower.output()
    steps = [int(row["step"]) for row in scores(tmp_path / "run" / "eval")]
    assert steps[-1] == 33 and set(steps) <= {11, 22, 33}
    assert scores(tmp_path / "run" / "eval")[-1]["eval_accuracy"] == scores(tmp_path / "run")[-1]["eval_accuracy"]
    assert "step 33/33: valid accuracy" in follower.output()
    assert json.loads((tmp_path / "run" / "eval" / "result.json").read_text())["step"] == 33
    finished(words)  # which the follower's files do not disturb


def test_the_best_weights_are_not_followed(tmp_path):
    job = Job([*TRAIN, "--mode=eval", "--follow", "--which=best", f"--checkpoint-dir={tmp_path}"])
    assert job.wait() == [2] and "--which=best is for when the training has ended" in job.output()
