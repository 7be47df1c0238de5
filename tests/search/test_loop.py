"""One step of a search, held against the same step written down with autograd."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tunas
from support.jobs import TINY
from support.prepared import SETTINGS, Prepared
from tunas import InputError, SearchConfig, get_space, search
from tunas.data import normalize
from tunas.errors import DivergedError
from tunas.report.analyze import analyze
from tunas.run.events import read_events
from tunas.space import ALL

SCALARS = {
    "model/loss",
    "model/empirical_loss",
    "model/regularization_loss",
    "model/learning_rate",
    "rlcontroller/validation_accuracy",
    "rlcontroller/reward",
    "rlcontroller/step_baseline",
    "rlcontroller/baseline",
    "rlcontroller/advantage",
    "rlcontroller/log_prob",
    "rlcontroller/empirical_loss",
    "rlcontroller/entropy_loss",
    "rlcontroller/estimated_cost",
    "rlcontroller/cost_ratio",
    "rlcontroller/cost_adjustment",
    "rlcontroller/learning_rate",
    "rlcontroller/increase_ops_prob",
    "rlcontroller/increase_filters_prob",
}


def test_every_scalar_of_the_specification_is_logged(tmp_path):
    search(SearchConfig(**SETTINGS, checkpoint_dir=str(tmp_path)))
    scalars, _ = read_events(tmp_path)
    assert list(scalars) == list(range(22)) and all(values.keys() >= SCALARS for values in scalars.values())
    assert "eval/accuracy" in scalars[21], "of the most likely architecture, at the end"
    space = get_space(TINY)
    logits = {f"rlpathlogits/{point.path}/{choice}" for point in space.points for choice in range(point.size)}
    assert all(values.keys() >= logits for values in scalars.values())
    assert {sum(tag.startswith("rltaglogits/") for tag in values) for values in scalars.values()} == {len(logits)}


@pytest.mark.parametrize("step", [2, 12])
def test_the_gradient_is_the_mean_over_replicas_of_cross_entropy_and_l2(step):
    """During the op warmup and after it."""
    prepared = Prepared(model_weight_decay=0.01)
    state, plan = prepared.search, prepared.plan
    indices = prepared.samples(step).indices
    assert (indices == ALL).any() == (step == 2)
    train, valid = prepared.batches(step)
    by_hand = Prepared().search
    by_hand.weights.grad.zero_()
    losses = []
    for replica, (images, labels) in enumerate(train):
        logits = by_hand.supernet(normalize(images), indices[replica])
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        losses.append((loss.item(), 0.01 * by_hand.supernet.l2().item()))
        ((loss + 0.01 * by_hand.supernet.l2()) / 4).backward()
    scalars = state.step(step, train, valid)
    assert torch.allclose(state.weights.grad, by_hand.weights.grad, atol=1e-6)
    assert scalars["model/empirical_loss"] == pytest.approx(np.mean(losses, 0)[0], rel=1e-5)
    assert scalars["model/regularization_loss"] == pytest.approx(np.mean(losses, 0)[1], rel=1e-5)
    assert scalars["model/loss"] == pytest.approx(np.sum(losses) / 4, rel=1e-5)
    assert scalars["model/learning_rate"] > 0 or plan.warmup_steps == 0


def test_weights_are_stepped_by_rmsprop_in_tensorflows_form():
    """docs/algorithm.md#weight-training: decay and momentum 0.9, epsilon 1 inside the root, average starting at one,
    learning rate inside the momentum."""
    prepared = Prepared()
    state = prepared.search
    weights, square, momentum = (
        state.weights.detach().clone(),
        torch.ones_like(state.weights),
        torch.zeros_like(state.weights),
    )
    for step in (3, 4, 5):
        rate = prepared.step(step)["model/learning_rate"]
        gradient = state.weights.grad
        square = 0.9 * square + 0.1 * gradient**2
        momentum = 0.9 * momentum + rate * gradient / (square + 1.0).sqrt()
        weights = weights - momentum
        assert torch.allclose(state.weights, weights, atol=1e-6)


def test_weights_that_no_architecture_uses_get_a_zero_gradient_and_still_move_by_their_momentum():
    prepared = Prepared(recipe="published")
    state = prepared.search
    prepared.step(0)
    before, momentum = state.weights.detach().clone(), state.tensors()["momentum_buffer"].clone()
    while (state.weights.grad != 0).all():
        prepared.step(12)
    prepared.step(13)
    unused = state.weights.grad == 0
    assert unused.any() and not unused.all()
    moved = unused & (momentum != 0)
    assert (state.weights[moved] != before[moved]).any()


def test_the_reward_is_the_accuracy_of_the_architectures_just_trained_and_their_cost():
    prepared = Prepared(num_cost_samples=0)
    state, step = prepared.search, 12
    indices = prepared.samples(step).indices
    train, valid = prepared.batches(step)
    scalars = state.step(step, train, valid)
    accuracies = []
    with torch.no_grad():
        for replica, (images, labels) in enumerate(valid):
            logits = state.supernet(normalize(images), indices[replica])
            accuracies.append(float((logits.argmax(1) == labels).float().mean()))
    cost = state.aims[0].objective.model.estimate(indices)
    assert scalars["rlcontroller/validation_accuracy"] == pytest.approx(np.mean(accuracies))
    assert scalars["rlcontroller/estimated_cost"] == pytest.approx(cost.mean())
    rewards = np.array(accuracies) - 1.0 * abs(cost / state.aims[0].objective.target - 1)
    assert scalars["rlcontroller/reward"] == pytest.approx(rewards.mean())


def test_the_first_part_of_the_delay_measures_nothing_and_leaves_the_averages():
    measuring = {"validation_accuracy", "reward", "step_baseline", "baseline", "advantage", "empirical_loss"}
    prepared = Prepared(rl_adam_beta2=0.0, rl_baseline_momentum=0.5)
    state, unmeasured = prepared.search, prepared.plan.unmeasured_steps
    assert 0 < unmeasured == prepared.plan.rl_delay_steps - 4
    for step in range(unmeasured):
        assert not state.measures(step)
        scalars = state.step(step, prepared.batches(step)[0], None)
        assert state.aims[0].controller.num_updates == 0 and not state.aims[0].controller.second_moment.any()
        assert not {f"rlcontroller/{name}" for name in measuring} & scalars.keys()
        assert scalars["rlcontroller/learning_rate"] == 0 and scalars["rlcontroller/estimated_cost"] > 0
    assert state.measures(unmeasured)
    prepared.step(unmeasured)
    assert state.aims[0].controller.num_updates == 1 and state.aims[0].controller.second_moment.any()


def test_measuring_nothing_changes_no_weight():
    one, other = Prepared(), Prepared()
    for step in range(3):
        one.step(step)
        other.search.step(step, other.batches(step)[0], None)
    assert torch.equal(one.search.weights, other.search.weights)


def test_the_controller_waits_for_its_delay():
    prepared = Prepared()
    for step in range(prepared.plan.rl_delay_steps):
        assert prepared.step(step)["rlcontroller/learning_rate"] == 0
        assert not prepared.search.aims[0].controller.logits.any()
    prepared.step(prepared.plan.rl_delay_steps)
    assert prepared.search.aims[0].controller.logits.any()


def test_a_step_is_a_function_of_the_state_and_its_number():
    one, two = Prepared(), Prepared()
    torch.manual_seed(99)
    np.random.seed(99)
    for step in range(6):
        assert one.step(step) == two.step(step)
    assert torch.equal(one.search.weights, two.search.weights)


def test_a_state_saved_and_loaded_goes_on_bit_by_bit():
    one, two = Prepared(), Prepared(seed=0)
    for step in range(8):
        one.step(step)
    tensors = {name: tensor.detach().clone() for name, tensor in one.search.tensors().items()}
    two.search.load(tensors, {**one.search.numbers(), "step": 8})
    for step in range(8, 14):
        assert one.step(step) == two.step(step)
    assert all(torch.equal(value, two.search.tensors()[name]) for name, value in one.search.tensors().items())


def test_another_seed_gives_other_weights_and_architectures():
    one, two = Prepared(), Prepared(seed=1)
    assert not torch.equal(one.search.weights, two.search.weights)
    assert (one.samples(12).indices != two.samples(12).indices).any()


def test_a_state_of_another_space_is_refused():
    state = Prepared().search
    tensors = {**state.tensors(), "weights": torch.zeros(3)}
    with pytest.raises(InputError, match="weights do not fit"):
        state.load(tensors, {**state.numbers(), "step": 1})


def test_a_loss_that_is_not_finite_names_step_and_architecture():
    prepared = Prepared()
    with torch.no_grad():
        prepared.search.weights.fill_(float("nan"))
    with pytest.raises(
        DivergedError, match=r"the loss is nan at step 12, architecture \d+(:\d+)+ .*last checkpoint is kept"
    ):
        prepared.step(12)


def test_recomputing_in_the_backward_pass_changes_nothing():
    one, two = Prepared(), Prepared(rematerialize=True)
    for step in (0, 1, 12):
        assert one.step(step)["model/loss"] == pytest.approx(two.step(step)["model/loss"], abs=1e-6)
    assert torch.allclose(one.search.weights, two.search.weights, atol=1e-6)


def test_a_search_from_python_returns_what_result_json_says(tmp_path):
    config = tunas.SearchConfig(**SETTINGS, checkpoint_dir=str(tmp_path / "run"))
    result = tunas.search(config)
    assert tunas.search(config) == result, "a finished search says its result again"
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (document["indices"], document["cost"], document["steps"]) == (
        result.architecture.text,
        result.cost,
        result.steps,
    )
    assert (
        result.steps == 22
        and result.unit == document["unit"] == "MACs"
        and document["shared_weights_accuracy"] == result.quality
    )
    assert result.cost == tunas.load_cost_model("macs", get_space(TINY), image_size=8, num_classes=10).estimate(
        result.architecture
    )


def test_a_finished_search_can_still_be_told_to_land_closer(tmp_path):
    settings = {**SETTINGS, "checkpoint_dir": str(tmp_path)}
    model = tunas.load_cost_model("macs", get_space(TINY), image_size=8, num_classes=10)
    costs = sorted(set(model.estimate(get_space(TINY).sample(np.random.default_rng(0), 500))))
    target = costs[0] + 0.5 * (costs[1] - costs[0])
    far = search(SearchConfig(**settings, rl_cost_model_target=target))
    near = search(SearchConfig(**settings, rl_cost_model_target=target, rl_cost_model_tolerance=1e-6))
    assert abs(near.cost - target) <= abs(far.cost - target) and near.cost == model.estimate(near.architecture)
    assert json.loads((tmp_path / "result.json").read_text())["indices"] == near.architecture.text
    assert analyze(tmp_path).architecture.indices == near.architecture.indices
    assert search(SearchConfig(**settings, rl_cost_model_target=target)) == far


def test_without_a_cost_model_accuracy_alone_counts(tmp_path):
    result = search(SearchConfig(**SETTINGS, enable_cost_model=False, checkpoint_dir=str(tmp_path)))
    assert result.cost is None and result.target is None
    assert "rlcontroller/estimated_cost" not in read_events(tmp_path)[0][0]


def test_a_search_goes_on_in_the_precision_that_it_began_in(tmp_path, monkeypatch):
    settings = {**SETTINGS, "enable_cost_model": False, "checkpoint_dir": str(tmp_path)}
    monkeypatch.setattr("tunas.search.loop.multiplies_bf16", lambda: True)
    found = search(SearchConfig(**settings))
    assert json.loads((tmp_path / "params.json").read_text())["valid_precision"] == "bf16"
    monkeypatch.setattr("tunas.search.loop.multiplies_bf16", lambda: False)
    assert search(SearchConfig(**settings)) == found
    with pytest.raises(InputError, match="valid_precision was 'bf16' and is now 'fp32'"):
        search(SearchConfig(**settings, valid_precision="fp32"))


def test_a_fixed_architecture_is_not_searched():
    with pytest.raises(InputError, match=r"one fixed architecture.*tunas train --ssd=mobilenet_v2"):
        search(SearchConfig(ssd="mobilenet_v2", device="cpu"))
