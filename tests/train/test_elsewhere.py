"""What a training can be told works for several processes, and for a model and a task of one's own."""

import csv
import json

import pytest
import torch

from support.jobs import OWN_PROGRAM, SEARCH, TRAIN, finished
from tunas.run.checkpoint import newest_checkpoint
from tunas.train.trained import trained_weights

QUICK = ["--minutes=0.03", "--device=cpu", "--num-workers=0"]


def document(path):
    return json.loads(path.read_text())


def scores(directory, quality):
    with open(directory / "summary.csv", newline="") as file:
        return [float(row[f"eval_{quality}"]) for row in csv.DictReader(file)]


def test_two_processes_start_from_given_weights_take_so_many_minutes_and_are_followed(tmp_path):
    run = tmp_path / "run"
    finished([*SEARCH, "--epochs=0.1", f"--checkpoint-dir={tmp_path / 'search'}"])
    finished([*TRAIN, "--minutes=0.03", f"--init-from={tmp_path / 'search'}", f"--checkpoint-dir={run}"], ranks=2)
    params, result = document(run / "params.json"), document(run / "result.json")
    assert params["minutes"] == 0.03 and params["processes"] == 2 and params["epochs"] > 0
    assert result["init_from"] == str(tmp_path / "search") and result["images"] == 360
    followed = finished([*TRAIN, "--mode=eval", "--follow", f"--checkpoint-dir={run}"], ranks=2)
    assert f"step {params['steps']}/{params['steps']}: valid accuracy" in followed.output(0)
    assert "valid accuracy" not in followed.output(1)
    found = document(run / "eval" / "result.json")
    assert (found["accuracy"], found["images"]) == (pytest.approx(result["accuracy"]), 360)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Runs of one's own model on one's own task: a search, and a training that inherits its weights."""
    root = tmp_path_factory.mktemp("own")
    told = [f"--ssd={OWN_PROGRAM}:space", f"--task={OWN_PROGRAM}:task", "--train-batch-size=64"]
    finished(["search", *told, *QUICK, "--cost_model=macs", f"--checkpoint-dir={root / 'search'}"])
    from_search = ["train", f"--from={root / 'search'}", f"--init-from={root / 'search'}", "--train-batch-size=64"]
    finished([*from_search, *QUICK, "--base-learning-rate=1e-30", f"--checkpoint-dir={root / 'train'}"])
    return root


def test_ones_own_model_inherits_the_weights_of_its_search(own):
    params = document(own / "train" / "params.json")
    assert params["minutes"] == 0.03 and params["task"] == f"{OWN_PROGRAM}:task"
    assert params["indices"] == document(own / "search" / "result.json")["indices"]
    trained = trained_weights(own / "train").tensors
    width = (8, 16, 24)[int(params["indices"].split(":")[0])]
    shared = newest_checkpoint(own / "search")[0]["weights"]
    assert trained["first.weight"].shape == (width, 8)
    for row in trained["first.weight"]:
        assert (shared.unfold(0, 8, 1) == row).all(1).any()


def test_ones_own_training_is_followed_and_gone_on_from(own, tmp_path):
    again = ["train", f"--from={own / 'train'}", "--device=cpu"]
    finished([*again, "--mode=eval", "--follow", f"--checkpoint-dir={own / 'train'}"])
    assert scores(own / "train" / "eval", "explained")[-1] == scores(own / "train", "explained")[-1]
    still = ["--epochs=1", "--train-batch-size=64", "--base-learning-rate=1e-30"]
    finished([*again, *still, f"--init-from={own / 'train'}", f"--checkpoint-dir={tmp_path}"])
    before, after = (trained_weights(run).tensors for run in (own / "train", tmp_path))
    assert all(torch.equal(before[name], after[name]) for name in before)
