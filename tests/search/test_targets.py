"""Several targets in one search."""

import json

import numpy as np
import pytest
import torch

from support.jobs import TINY
from tunas import CostModel, InputError, SearchConfig, get_space, search
from tunas.cli.search import frontier_table
from tunas.cost import CostTerm
from tunas.report.analyze import analyze, findings
from tunas.report.watch import overview
from tunas.run.checkpoint import load_checkpoint
from tunas.run.events import read_events
from tunas.run.session import generator
from tunas.run.told import read_told
from tunas.search.aims import Aims
from tunas.search.controller import Controller
from tunas.search.objective import search_objectives
from tunas.search.plan import plan_search
from tunas.search.sharing import architecture_weights, baseline_momentum, choice_weights

SPACE = get_space(TINY)
FACTS = {"image_size": 8, "num_classes": 10}


@pytest.fixture
def files(tmp_path):
    """Accuracy grows, and so does cost, with every choice; a second device is ten times as slow."""
    paths = {}
    for name, bias, scale, unit in (
        ("accuracy", 0.3, 0.05, "accuracy"),
        ("cost", 1, 1.0, "ms"),
        ("slow", 10, 10, "ms"),
    ):
        terms = [CostTerm((place,), scale * np.arange(2.0)) for place in range(SPACE.num_choices)]
        paths[name] = str(tmp_path / f"{name}.json")
        CostModel(SPACE, bias, terms, unit=unit).save(paths[name])
    return paths


def config(files, directory, **more):
    settings = {"ssd": TINY, "image_size": 8, "accuracy_model": files["accuracy"], "cost_model": files["cost"]}
    return SearchConfig(**{**settings, "epochs": 2.0, "checkpoint_dir": str(directory), **more})


def aims(targets, **more):
    told = SearchConfig(ssd=TINY, cost_model="macs", rl_cost_model_target=targets, epochs=24, **more)
    plan = plan_search(told, 1077, digits=True, on_cuda=False)
    return Aims(SPACE, plan, told, search_objectives(told, plan.rl_cost_model_exponent, SPACE, FACTS)), plan


@pytest.mark.parametrize("priced", [0, 16])
def test_one_target_is_the_search_of_one_controller(priced):
    one, plan = aims(5e5, num_cost_samples=priced)
    beside = Controller(SPACE, momentum=plan.rl_baseline_momentum, beta2=plan.rl_adam_beta2)
    objective = one[0].objective
    for step in range(5):
        samples = one.sample(step, (0.5, 0.0))
        expected = beside.sample(generator(0, "controller", step), plan.replicas, 0.5, 0.0)
        assert (samples.indices == expected.indices).all() and (samples.log_prob == expected.log_prob).all()
        quality = np.linspace(0.1, 0.4, plan.replicas) * (step + 1)
        gradient = None
        if priced:
            gradient = beside.cost_gradient(generator(0, "cost", step), priced, objective.cost_reward, 0.5, 0.0)
        rewards = quality if priced else objective.reward(quality, samples.indices).reward
        said = one.learn(step, samples, quality, 0.1, (0.5, 0.0))
        update = beside.update(expected, rewards, 0.1, 0.0, gradient)
        assert {name: said[f"rlcontroller/{name}"] for name in update} == update
        assert (one[0].controller.logits == beside.logits).all() and beside.logits.any()


def test_a_flag_given_once_is_no_list():
    assert SearchConfig(rl_cost_model_target=(84.0,), cost_model=("pixel1",)) == SearchConfig(
        rl_cost_model_target=84.0, cost_model="pixel1"
    )


def test_weights_make_what_all_drew_a_sample_of_each_distribution():
    controllers = [Controller(SPACE), Controller(SPACE)]
    for controller, seed in zip(controllers, (0, 1), strict=True):
        controller.logits[controller.valid] = np.random.default_rng(seed).normal(size=controller.valid.sum())
    both, _ = aims((4e5, 6e5))
    for aim, controller in zip(both, controllers, strict=True):
        aim.controller.logits = controller.logits
    both.plan = plan_search(
        SearchConfig(train_batch_size=40_000, replicas=40_000), 1_000_000, digits=False, on_cuda=False
    )
    samples = both.sample(0, (0.0, 0.0))
    value = samples.indices @ np.arange(SPACE.num_choices) % 5
    for controller, weights in zip(controllers, architecture_weights(controllers, samples), strict=True):
        own = controller.sample(np.random.default_rng(3), 40_000).indices @ np.arange(SPACE.num_choices) % 5
        assert weights.mean() == pytest.approx(1, abs=0.03) and weights.max() <= 2
        assert (weights[:, 0] * value).mean() == pytest.approx(own.mean(), abs=0.06)
    for controller, weights in zip(controllers, choice_weights(controllers, samples), strict=True):
        place = SPACE.num_choices - 1
        chosen = (weights[:, place] * (samples.indices[:, place] == 1)).mean()
        assert chosen == pytest.approx(controller.probabilities()[place, 1], abs=0.02)


def test_a_target_with_one_replica_still_has_a_baseline():
    assert baseline_momentum(0.0, 4, 4) == 0.9 and baseline_momentum(0.95, 4, 32) == 0.95
    assert baseline_momentum(0.0, 1, 4) == 0.0 and baseline_momentum(0.0, 1, 1) == 0.9


def test_each_target_is_met_and_read_back(files, tmp_path):
    run = tmp_path / "run"
    found = search(config(files, run, rl_cost_model_target=(3.0, 5.0, 7.0), rl_cost_model_tolerance=0.01))
    assert [each.cost for each in found.frontier] == [3.0, 5.0, 7.0] and found.as_asked
    document = json.loads((run / "result.json").read_text())
    assert [each["indices"] for each in document["targets"]] == [each.architecture.text for each in found.frontier]
    assert "indices" not in document and document["targets"][1]["target"] == 5.0
    read = findings(run)
    assert [(each.target, each.cost) for each in read] == [(3.0, 3.0), (5.0, 5.0), (7.0, 7.0)]
    assert analyze(run, target=5.0).architecture == found.frontier[1].architecture
    assert analyze(run, target=5.0, tolerance=0.02).cost == 5.0
    for target, sentence in (
        (None, r"is for 3 targets \(3, 5, 7\); name one"),
        (4.0, "has no target 4; it is for 3, 5, 7"),
    ):
        with pytest.raises(InputError, match=sentence):
            analyze(run, target=target)
    with pytest.raises(InputError, match=r"an architecture for each of 3 targets \(3, 5, 7\): name one with --indices"):
        read_told(run).architecture()
    assert len(overview([run]).rows) == 3
    last = read_events(run)[0][found.steps - 1]
    assert {f"rlcontroller/{k}/estimated_cost" for k in range(3)} <= last.keys()
    assert not [
        tag for tag in last if tag.startswith(("rlcontroller/", "rlpathlogits/")) and tag.split("/")[1] not in "012"
    ]


def test_each_device_has_its_own_target(files, tmp_path):
    devices = (files["cost"], files["slow"])
    run = tmp_path / "run"
    found = search(
        config(files, run, cost_model=devices, rl_cost_model_target=(5.0, 50.0), rl_cost_model_tolerance=0.01)
    )
    assert [each.cost for each in found.frontier] == [5.0, 50.0]
    assert [each.device for each in findings(run)] == list(devices)


def test_a_constraint_binds_every_target(files, tmp_path):
    first = tmp_path / "first.json"  # what only the first four choices cost: 2 of 4 on average, and here at most one
    CostModel(SPACE, 1, [CostTerm((place,), np.arange(2.0)) for place in range(4)], unit="kB").save(first)
    targets = {"rl_cost_model_target": (4.0, 5.0), "constraint": (f"{first}=2",)}
    found = search(config(files, tmp_path / "run", **targets))
    assert [each.cost for each in found.frontier] == [4.0, 5.0]
    for each in json.loads((tmp_path / "run/result.json").read_text())["targets"]:
        (said,) = each["constraints"].values()
        assert said["limit"] == 2 >= said["cost"]
    table = frontier_table(config(files, tmp_path, **targets), found)
    assert table.columns[-1].header == f"{first} (limit 2)"
    assert list(table.columns[-1].cells) == [f"{each.constraints[str(first)]['cost']:.4g}" for each in found.frontier]


def test_it_goes_on_bit_for_bit(files, tmp_path):
    targets = {"rl_cost_model_target": (3.0, 6.0), "checkpoint_every": 100}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for directory in (whole, broken):
        search(config(files, directory, **targets))
    (broken / "result.json").unlink()
    kept = broken / "checkpoint-0000000500.safetensors"
    for path in broken.glob("checkpoint-*.safetensors"):
        if path.name > kept.name:
            path.unlink()
    search(config(files, broken, **targets))
    assert (broken / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert read_events(broken)[0] == read_events(whole)[0]
    last = max(path.name for path in whole.glob("checkpoint-*.safetensors"))
    one, two = (load_checkpoint(directory / last)[0] for directory in (whole, broken))
    assert one.keys() == two.keys() >= {"controller/0/logits", "controller/1/logits"}
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rl_cost_model_target": (3.0, 5.0, 7.0), "replicas": 32}, "32 replicas cannot be dealt to 3 targets"),
        ({"rl_cost_model_target": (3.0, 5.0, 3.0)}, "--rl_cost_model_target=3 is given twice"),
        ({"rl_cost_model_target": (3.0, -5.0)}, "rl_cost_model_target must be a positive number, not -5"),
        ({"rl_cost_model_target": (3.0, 500.0)}, "costs 500 ms; they cost"),
        ({"rl_cost_model_target": (3.0, 5.0), "at_most": 4.0}, "leave out --rl_cost_model_target"),
        ({"cost_model": ("macs", "params")}, "2 times --cost_model and 0 times --rl_cost_model_target"),
        (
            {"cost_model": ("macs", "params"), "rl_cost_model_target": (1.0, 2.0, 3.0)},
            "give one cost model for all targets, or one for each",
        ),
    ],
)
def test_what_cannot_be_is_said_before_the_start(files, tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        search(config(files, tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_replicas_and_batch_fit_the_targets_where_they_are_left_out():
    for count, replicas, batch in ((1, 4, 64), (3, 3, 63), (4, 4, 64), (5, 5, 60)):
        targets = tuple(float(each) for each in range(1, count + 1))
        plan = plan_search(SearchConfig(rl_cost_model_target=targets), 1077, digits=True, on_cuda=False)
        assert (plan.replicas, plan.batch) == (replicas, batch)
