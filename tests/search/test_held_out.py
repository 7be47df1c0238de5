"""Held-out quality of the most likely architecture during a search."""

import json
import shutil

import numpy as np
import pytest
import torch

from support.jobs import SEARCH, finished, killed_and_restarted
from support.runs import scores
from tunas import SearchConfig, SuperNet, get_space
from tunas.data import normalize, open_data
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.events import read_events
from tunas.search.plan import plan_search

WORDS = (*SEARCH, "--epochs=1.5", "--eval-every=0.5", "--seed=3", "--rl-batch-size-multiplier=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("search")
    finished([*WORDS, f"--checkpoint-dir={directory}"])
    return directory


def test_the_most_likely_architecture_is_scored_on_held_out_images_with_the_shared_weights(run):
    found = scores(run)
    assert [int(row["step"]) for row in found] == [12, 23, 33]
    scalars, _ = read_events(run)
    assert all(
        scalars[int(row["step"]) - 1]["eval/accuracy"] == pytest.approx(float(row["eval_accuracy"])) for row in found
    )
    [accuracy] = shared_weights_accuracies(run, [found[-1]["indices"]])
    assert float(found[-1]["eval_accuracy"]) == pytest.approx(accuracy, abs=1e-3)


def shared_weights_accuracies(run, texts):
    """Of architectures, on the whole batches of the held-out part."""
    space = get_space(SEARCH[1].removeprefix("--ssd="))
    supernet = SuperNet(space, 10)
    with torch.no_grad():
        supernet.flatten().copy_(newest_checkpoint(run)[0]["weights"])
    config = SearchConfig(
        ssd=space.name,
        image_size=8,
        train_batch_size=48,
        replicas=4,
        epochs=1.5,
        seed=3,
        rl_batch_size_multiplier=2,
    )
    data = open_data(config)
    plan = plan_search(config, data.size("train"), digits=True, on_cuda=False)
    batch = plan.valid_share * plan.replicas
    stream = data.stream("valid", batch, seed=3)
    accuracies = []
    for _ in range(max(1, data.size("valid") // batch)):
        images, labels = next(stream)
        for part in range(plan.replicas):
            share = slice(part * plan.valid_share, (part + 1) * plan.valid_share)
            seen = normalize(images[share])
            with torch.no_grad():
                classes = [supernet(seen, space.architecture(text)).argmax(1) for text in texts]
            accuracies.append([float((each == labels[share]).float().mean()) for each in classes])
    return np.mean(accuracies, axis=0).tolist()


def test_scoring_changes_nothing_of_the_search_and_survives_a_kill(run, tmp_path):
    killed_and_restarted([*WORDS, "--checkpoint-every=5", f"--checkpoint-dir={tmp_path / 'killed'}"], kills=2)
    assert (tmp_path / "killed" / "summary.csv").read_bytes() == (run / "summary.csv").read_bytes()
    finished([*WORDS, "--eval-every=100", f"--checkpoint-dir={tmp_path / 'rarely'}"])
    one, two = (newest_checkpoint(directory)[0] for directory in (run, tmp_path / "rarely"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_search_chooses_among_its_likeliest_architectures_by_the_whole_held_out_part(run, tmp_path):
    shutil.copytree(run, tmp_path / "again")
    words = [*WORDS, "--rl-cost-model-tolerance=0.2", "--choose-from=24", f"--checkpoint-dir={tmp_path / 'again'}"]
    said = finished(words).output()
    result = json.loads((tmp_path / "again" / "result.json").read_text())
    found, target = result["candidates"], result["target"]
    assert (
        result["indices"] == found[0]["indices"]
        and f"of {len(found)}: {found[0]['shared_weights_accuracy']:.4f}" in said
    )
    assert 8 <= len(found) <= 24 and len({each["indices"] for each in found}) == len(found)
    assert all(abs(each["cost"] / target - 1) <= 0.2 for each in found)
    count = len(found) // 8
    assert len({each["examples"] for each in found[:count]}) == 1 and found[0]["examples"] > found[count]["examples"]
    for part in (found[:count], found[count:]):
        qualities = [each["shared_weights_accuracy"] for each in part]
        assert qualities == sorted(qualities, reverse=True)
    everyone = shared_weights_accuracies(run, [each["indices"] for each in found])
    assert found[0]["shared_weights_accuracy"] == pytest.approx(everyone[0], abs=1e-3)
    assert everyone[0] == max(everyone[:count])


def test_two_processes_score_as_one_does(run, tmp_path):
    finished([*WORDS, f"--checkpoint-dir={tmp_path}"], 2)
    for one, two in zip(scores(run), scores(tmp_path), strict=True):
        assert float(one["eval_accuracy"]) == pytest.approx(float(two["eval_accuracy"]), abs=0.02)


def test_a_step_in_the_events_is_whole_also_where_only_its_score_is_due(tmp_path):
    finished([*SEARCH, "--epochs=0.5", "--eval-every=0.2", "--log-every=100", f"--checkpoint-dir={tmp_path}"])
    scalars, _ = read_events(tmp_path)
    assert list(scalars) == [0, 4, 8, 10]
    assert len({frozenset(values.keys() - {"eval/accuracy"}) for values in scalars.values()}) == 1
