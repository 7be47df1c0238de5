"""Rates by depth, and the classifier first."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from support.jobs import TINY
from support.runs import ALONE
from tunas import InputError, TrainConfig, build_network, get_space, train
from tunas.recipe.finetune import drop_paths_by_depth, parameter_groups, set_learning_rates
from tunas.recipe.lesson import Lesson
from tunas.task.opening import open_task
from tunas.train.evaluation import Evaluation, trouble
from tunas.train.plan import plan_training
from tunas.train.step import Training

INDICES = "1:1:1:1:1:1:0:1"


def network():
    return build_network(get_space(TINY).architecture(INDICES), 10)


def rates(groups):
    return {id(p): group["lr"] for group in groups for p in group["params"]}


def test_every_parameter_is_in_one_group_and_only_the_tower_s_kernels_decay():
    net = network()
    for layer_decay in (1.0, 0.5):
        groups = parameter_groups(net, 0.1, layer_decay)
        listed = [id(p) for group in groups for p in group["params"]]
        assert sorted(listed) == sorted(id(p) for p in net.parameters())
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        assert decayed == {id(p) for p in net.tower.parameters() if p.dim() == 4}


def test_each_block_learns_slower_than_the_one_behind_it():
    net = network()
    groups = parameter_groups(net, 0.1, 0.5)
    set_learning_rates(groups, 2.0, head_only=False)
    found = rates(groups)
    assert found[id(net.head.classifier.weight)] == 2.0
    blocks = list(net.tower.blocks)
    for number, block in enumerate(blocks):
        assert {found[id(p)] for p in block.parameters()} == {2.0 * 0.5 ** (len(blocks) - number)}


def test_a_network_without_blocks_has_one_rate_and_says_so():
    kernel, bias = parameter_groups(nn.Linear(3, 2), 0.1)
    assert kernel["rate"] == bias["rate"] == 1.0
    assert (kernel["weight_decay"], bias["weight_decay"]) == (0.1, 0.0)
    with pytest.raises(InputError, match="this network has no blocks"):
        parameter_groups(nn.Linear(3, 2), 0.1, 0.5)


def test_while_the_classifier_learns_alone_nothing_else_changes():
    config = TrainConfig(
        ssd=TINY, indices=INDICES, image_size=8, train_batch_size=64, epochs=2, head_epochs=1, device="cpu", hflip=0.0
    )
    task = open_task(config)
    plan = plan_training(config, task.size("train"))
    assert (plan.head_steps, plan.steps) == (16, 33)
    net = network()
    training = Training(net, Lesson(task, plan.used_recipe), plan, config, ALONE)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = next(task.stream("train", 64, seed=0))
    training.step(plan.head_steps - 1, batch)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}
    training.step(plan.head_steps + 3, batch)
    assert not torch.equal(net.tower.blocks[0][0].conv.conv.weight, before["tower.blocks.0.0.conv.conv.weight"])
    assert net.tower.training
    assert plan.learning_rate_at(0) == plan.learning_rate and plan.learning_rate_at(plan.head_steps) == 0.0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"layer_decay": 0.0}, "layer_decay is above 0"),
        ({"layer_decay": 1.5}, "layer_decay is above 0"),
        ({"head_epochs": 5, "epochs": 5}, "must leave epochs to the other weights"),
        ({"head_epochs": -1}, "head_epochs"),
    ],
)
def test_schedules_that_cannot_be_are_refused(flags, sentence):
    with pytest.raises(InputError, match=sentence):
        plan_training(TrainConfig(**flags), 1_000)


def test_a_network_that_does_worse_than_guessing_is_called_broken(tmp_path, capsys):
    config = TrainConfig(
        ssd=TINY,
        indices=INDICES,
        image_size=8,
        train_batch_size=64,
        epochs=1,
        device="cpu",
        checkpoint_dir=str(tmp_path),
    )
    train(dataclasses.replace(config, base_learning_rate=400.0, clip_grad=0.0, warmup_steps_fraction=0.0))
    said = capsys.readouterr().err
    assert "recipe small: 1,077 training examples are fewer than 100,000; mirroring would harm" in said
    assert "guessing would cost 2.3: the training broke down" in said
    assert trouble(Evaluation({"loss": 2.4}, 10), "valid", 2.303) is None
    assert trouble(Evaluation({"loss": 9.0}, 10), "valid", None) is None


def test_layers_are_dropped_more_often_the_deeper_they_are():
    net = build_network(get_space("mnasnet_b1").architecture(""), 10)
    drop_paths_by_depth(net, 0.3)
    rates_found = [m.path_dropout_rate for m in net.modules() if hasattr(m, "path_dropout_rate")]
    assert rates_found == sorted(rates_found) and rates_found[-1] == 0.3
    assert rates_found[0] == pytest.approx(0.3 / len(rates_found))


def test_given_weights_learn_at_a_tenth_of_the_rate_and_the_reason_says_so():
    plain, tuned = (plan_training(TrainConfig(init_from=source), 1_000) for source in (None, "w.safetensors"))
    assert tuned.learning_rate == pytest.approx(0.1 * plain.learning_rate)
    assert "0.1 of its learning rate" in tuned.used_recipe.reason
    given = plan_training(TrainConfig(init_from="w.safetensors", base_learning_rate=0.5), 1_000)
    assert given.used_recipe.learning_rate == 0.5
