"""The controller is the distribution that it says it is, and learns by the update that is written down.

Everything is held against enumeration of a small nested space, against autograd, or against the same update written
out slowly.
"""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tunas
from tunas import InputError, OneOf, Space
from tunas.errors import DivergedError
from tunas.search.controller import Controller
from tunas.space import (
    ALL,
    FILTERS,
    OP,
    Block,
    Conv,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
    active_positions,
)

seeds = st.integers(0, 2**32 - 1)
temperatures = st.sampled_from([0.5, 1.0, 3.0])


def nested_space():
    """A skippable layer that is one of two layers with choices of their own: three levels of OneOfs, 288 index
    strings."""
    bottleneck = InvertedBottleneck(kernel=OneOf((3, 5), OP), expansion=OneOf((Times(2.0), Times(1.0)), FILTERS))
    separable = SeparableConv(OneOf((3, 5, 7), OP))
    layer = Residual(OneOf((OneOf((bottleneck, separable), OP), Zero()), OP))
    return Space(
        "nested", Tower((Block((Conv(3), layer), OneOf((8, 24, 16), FILTERS)), Block((Conv(OneOf((1, 3), OP)),), 8)))
    )


SPACE = nested_space()
ALL_INDICES = np.array(list(itertools.product(*map(range, SPACE.sizes))))
ALL_ACTIVE = np.array([active_positions(SPACE, row) for row in ALL_INDICES])
ALL_DISTINCT = [tuple(np.where(active, row, 0)) for row, active in zip(ALL_INDICES, ALL_ACTIVE, strict=True)]


def random_controller(seed, space=SPACE, **options):
    controller = Controller(space, **options)
    logits = np.random.default_rng(seed).normal(size=controller.logits.shape)
    controller.logits = np.where(controller.valid, logits, 0.0)
    return controller


def torch_log_probs(logits, temperature=1.0):
    """Log-probabilities of every OneOf of SPACE as a list of tensors, from logits [C, K]."""
    return [torch.log_softmax(logits[c, :size] / temperature, 0) for c, size in enumerate(SPACE.sizes)]


def torch_string_log_probs(logits, temperature=1.0):
    """Log-probability of each of ALL_INDICES, [288], counting every OneOf."""
    log_probs = torch_log_probs(logits, temperature)
    return sum(log_probs[c][torch.tensor(ALL_INDICES[:, c])] for c in range(SPACE.num_choices))


def distinct_log_probs(logits, temperature=1.0):
    """{indices in use: log-probability} of every distinct architecture, from its active OneOfs alone, by autograd."""
    log_probs = torch_log_probs(logits, temperature)
    rows = {key: (row, active) for key, row, active in zip(ALL_DISTINCT, ALL_INDICES, ALL_ACTIVE, strict=True)}
    return {
        key: sum(log_probs[c][int(row[c])] for c in range(SPACE.num_choices) if active[c])
        for key, (row, active) in rows.items()
    }


def some_reward(indices):
    """A reward that no OneOf alone explains; takes arrays with ALL in them."""
    return np.sin((np.asarray(indices) + 1.5) @ np.arange(1, SPACE.num_choices + 1))


# Distribution


@given(seed=seeds, temperature=temperatures)
def test_probabilities_of_every_oneof_sum_to_one(seed, temperature):
    controller = random_controller(seed, temperature=temperature)
    probabilities = controller.probabilities()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert (probabilities[~controller.valid] == 0).all()
    expected = torch_log_probs(torch.tensor(controller.logits), temperature)
    np.testing.assert_allclose(controller.log_probabilities()[controller.valid], torch.cat(expected).numpy())


def test_a_new_controller_is_uniform():
    controller = Controller(SPACE)
    for row, size in zip(controller.probabilities(), SPACE.sizes, strict=True):
        np.testing.assert_allclose(row[:size], 1 / size)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, temperature=temperatures)
def test_log_prob_is_that_of_the_distinct_architecture(seed, temperature):
    controller = random_controller(seed, temperature=temperature)
    expected = distinct_log_probs(torch.tensor(controller.logits), temperature)
    assert sum(math.exp(value) for value in expected.values()) == pytest.approx(1.0)
    samples = controller.sample(np.random.default_rng(seed), 100)
    assert not samples.enabled.any()
    for indices, active, log_prob in zip(samples.indices, samples.active, samples.log_prob, strict=True):
        assert active.tolist() == active_positions(SPACE, indices)
        assert log_prob == pytest.approx(float(expected[tuple(np.where(active, indices, 0))]))


def test_architectures_are_drawn_as_often_as_they_are_likely():
    controller = random_controller(1)
    samples = controller.sample(np.random.default_rng(0), 200_000)
    numbers = np.ravel_multi_index(samples.indices.T, SPACE.sizes)
    frequencies = np.bincount(numbers, minlength=len(ALL_INDICES)) / len(samples)
    expected = torch_string_log_probs(torch.tensor(controller.logits)).exp().numpy()
    assert (np.abs(frequencies - expected) <= 5 * np.sqrt(expected / len(samples))).all()


def test_extreme_logits_stay_finite_and_in_range():
    controller = Controller(SPACE)
    controller.logits = np.where(
        controller.valid, 800.0 * np.sign(np.random.default_rng(0).normal(size=controller.logits.shape)), 0.0
    )
    samples = controller.sample(np.random.default_rng(0), 1000)
    assert np.isfinite(samples.log_prob).all()
    assert (samples.indices < SPACE.sizes).all() and (samples.indices >= 0).all()
    assert np.isfinite(controller.log_prob_gradient(samples)).all()
    samples = controller.sample(np.random.default_rng(0), 4)
    assert math.isfinite(controller.entropy()) and np.isfinite(controller.branch_entropy_gradient(samples)).all()


# Warmup


@settings(deadline=None, max_examples=40)
@given(seed=seeds, op=st.sampled_from([0.0, 0.3, 1.0]), filters=st.sampled_from([0.0, 0.6, 1.0]))
def test_log_prob_under_warmup_counts_choices_that_were_not_enabled(seed, op, filters):
    controller = random_controller(seed)
    log_probs = controller.log_probabilities()
    samples = controller.sample(np.random.default_rng(seed), 50, op, filters)
    for indices, enabled, active, log_prob in zip(
        samples.indices, samples.enabled, samples.active, samples.log_prob, strict=True
    ):
        expected = 0.0
        reached = [True] * SPACE.num_choices
        for c in reversed(range(SPACE.num_choices)):
            point = SPACE.points[c]
            if point.parent is not None:
                reached[c] = reached[point.parent] and (
                    enabled[point.parent] or indices[point.parent] == point.parent_choice
                )
            p = op if point.oneof.tag == OP else filters
            if enabled[c]:
                assert indices[c] == (ALL if point.oneof.tag == OP else SPACE.widest_indices[c])
            if reached[c]:
                expected += math.log(p) if enabled[c] else math.log1p(-p) + log_probs[c, indices[c]]
        assert active.tolist() == reached
        assert log_prob == pytest.approx(expected)


def test_warmup_enables_as_often_as_asked_and_leaves_the_rest_as_it_was():
    controller = random_controller(2)
    n = 100_000
    samples = controller.sample(np.random.default_rng(0), n, op_probability=0.3, filters_probability=0.7)
    for c, point in enumerate(SPACE.points):
        p = 0.3 if point.oneof.tag == OP else 0.7
        assert samples.enabled[:, c].mean() == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n))
        kept = samples.indices[~samples.enabled[:, c], c]
        frequencies = np.bincount(kept, minlength=point.size) / len(kept)
        np.testing.assert_allclose(
            frequencies, controller.probabilities()[c, : point.size], atol=5 / math.sqrt(len(kept))
        )
    both = samples.enabled[:, 0] & samples.enabled[:, 2]
    assert both.mean() == pytest.approx(0.3 * 0.3, abs=5 * math.sqrt(0.1 / n)), "each OneOf is drawn on its own"


def test_full_warmup_enables_everything_with_certainty():
    samples = random_controller(3).sample(np.random.default_rng(0), 10, 1.0, 1.0)
    assert samples.enabled.all() and samples.active.all()
    assert (samples.log_prob == 0).all()


@pytest.mark.parametrize("op, filters", [(-0.1, 0.0), (0.0, 1.1), (math.nan, 0.0)])
def test_a_warmup_probability_outside_zero_to_one_is_refused(op, filters):
    with pytest.raises(InputError, match="between 0 and 1"):
        Controller(SPACE).sample(np.random.default_rng(0), 1, op, filters)


# Determinism


@pytest.mark.parametrize("probability", [0.0, 0.4])
def test_a_replica_draws_the_same_however_many_follow(probability):
    controller = random_controller(4, tunas.get_space("mobilenet_v3_like_search"))
    many = controller.sample(np.random.default_rng(9), 5000, probability, probability)
    few = controller.sample(np.random.default_rng(9), 3, probability, probability)
    for name in ("indices", "enabled", "active"):
        assert (getattr(many, name)[:3] == getattr(few, name)).all()
    np.testing.assert_allclose(many.log_prob[:3], few.log_prob, rtol=1e-12)


# Gradients


@settings(deadline=None, max_examples=25)
@given(seed=seeds, temperature=temperatures, op=st.sampled_from([0.0, 0.4, 1.0]))
def test_log_prob_gradient_is_that_of_autograd(seed, temperature, op):
    controller = random_controller(seed, temperature=temperature)
    samples = controller.sample(np.random.default_rng(seed), 20, op, op / 2)
    gradients = controller.log_prob_gradient(samples)
    for row in range(20):
        logits = torch.tensor(controller.logits, requires_grad=True)
        log_probs = torch_log_probs(logits, temperature)
        counted = samples.active[row] & ~samples.enabled[row]
        total = sum((log_probs[c][int(samples.indices[row, c])] for c in np.flatnonzero(counted)), 0 * logits.sum())
        total.backward()
        np.testing.assert_allclose(gradients[row], logits.grad.numpy(), atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, temperature=temperatures)
def test_the_entropy_is_that_of_the_enumerated_distribution(seed, temperature):
    controller = random_controller(seed, temperature=temperature)
    logits = torch.tensor(controller.logits)
    entropy = -sum(value.exp() * value for value in distinct_log_probs(logits, temperature).values())
    assert controller.entropy() == pytest.approx(float(entropy))


def torch_branch_entropies(logits, samples, temperature=1.0):
    """Replica by replica, OneOf by OneOf: the own entropies of those that are active."""
    log_probs = torch_log_probs(logits, temperature)
    own = [-(row.exp() * row).sum() for row in log_probs]
    return [sum((own[c] for c in np.flatnonzero(active)), 0 * logits.sum()) for active in samples.active]


@settings(deadline=None, max_examples=25)
@given(seed=seeds, temperature=temperatures)
def test_the_bonus_is_the_entropy_of_the_sampled_branch_and_takes_the_branch_as_given(seed, temperature):
    controller = random_controller(seed, temperature=temperature)
    samples = controller.sample(np.random.default_rng(seed), 5, 0.2, 0.2)
    logits = torch.tensor(controller.logits, requires_grad=True)
    entropies = torch_branch_entropies(logits, samples, temperature)
    (sum(entropies) / 5).backward()
    np.testing.assert_allclose(controller.branch_entropies(samples), [float(e.detach()) for e in entropies])
    np.testing.assert_allclose(controller.branch_entropy_gradient(samples), logits.grad.numpy(), atol=1e-12)


def test_a_choice_that_the_sampled_branch_skips_gets_no_bonus():
    """With the entropy of the whole distribution it would, in proportion to the chance of reaching it."""
    controller = random_controller(3)
    samples = controller.sample(np.random.default_rng(1), 1)
    skipped = ~samples.active[0]
    assert skipped.any() and not controller.branch_entropy_gradient(samples)[skipped].any()
    assert controller.branch_entropy_gradient(samples)[samples.active[0]].any(axis=1).all()


def exact_gradient(controller, reward=some_reward):
    """Gradient of the expected reward by enumeration and autograd."""
    logits = torch.tensor(controller.logits, requires_grad=True)
    expected = (torch_string_log_probs(logits, controller.temperature).exp() * torch.tensor(reward(ALL_INDICES))).sum()
    expected.backward()
    return logits.grad.numpy()


def reward_of_active(indices):
    """A reward that, like a network's, does not depend on indices that are not in use."""
    active = np.array([active_positions(SPACE, row) for row in indices])
    return some_reward(np.where(active, indices, 0))


def test_policy_gradient_is_the_gradient_of_the_expected_reward():
    controller = random_controller(5)
    n = 200_000
    samples = controller.sample(np.random.default_rng(0), n)
    rewards = reward_of_active(ALL_INDICES)[np.ravel_multi_index(samples.indices.T, SPACE.sizes)]
    products = rewards[:, None, None] * controller.log_prob_gradient(samples)
    error = products.mean(axis=0) - exact_gradient(controller, reward_of_active)
    assert (np.abs(error) <= 5 * products.std(axis=0) / math.sqrt(n) + 1e-12).all()


def test_cost_gradient_is_unbiased():
    controller = random_controller(6, temperature=2.0)
    rng = np.random.default_rng(0)
    table = reward_of_active(ALL_INDICES)
    calls = []

    def cost_reward(indices):
        calls.append(indices.shape)
        return table[np.ravel_multi_index(indices.T, SPACE.sizes)] + 10.0  # a constant changes nothing

    estimates = np.array([controller.cost_gradient(rng, 4, cost_reward) for _ in range(20_000)])
    error = estimates.mean(axis=0) - exact_gradient(controller, reward_of_active)
    assert (np.abs(error) <= 5 * estimates.std(axis=0) / math.sqrt(len(estimates)) + 1e-12).all()
    assert set(calls) == {(4, SPACE.num_choices)}


@pytest.mark.parametrize("op, filters", [(0.5, 0.0), (0.5, 0.5)])
def test_cost_gradient_under_warmup_is_the_leave_one_out_estimate(op, filters):
    controller = random_controller(7)
    gradient = controller.cost_gradient(np.random.default_rng(3), 50, some_reward, op, filters)
    samples = controller.sample(np.random.default_rng(3), 50, op, filters)
    rewards = some_reward(samples.indices)
    others = (rewards.sum() - rewards) / 49
    expected = ((rewards - others)[:, None, None] * controller.log_prob_gradient(samples)).mean(axis=0)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_many_cost_samples_vary_less_than_the_plain_estimate():
    controller = random_controller(8)
    rng = np.random.default_rng(0)
    few = np.array([controller.cost_gradient(rng, 8, some_reward) for _ in range(300)])
    many = np.array([controller.cost_gradient(rng, 512, some_reward) for _ in range(300)])
    assert many.var(axis=0).sum() < few.var(axis=0).sum() / 20


def test_splitting_quality_from_cost_leaves_the_expected_update_direction():
    controller = random_controller(9)
    n = 100_000
    rng = np.random.default_rng(0)
    quality = reward_of_active(ALL_INDICES)
    cost = np.cos(3 * reward_of_active(ALL_INDICES))
    samples = controller.sample(rng, n)
    rows = np.ravel_multi_index(samples.indices.T, SPACE.sizes)
    gradients = controller.log_prob_gradient(samples)
    plain = (quality + cost)[rows][:, None, None] * gradients
    split = quality[rows][:, None, None] * gradients
    shared = controller.cost_gradient(rng, n, lambda indices: cost[np.ravel_multi_index(indices.T, SPACE.sizes)])
    allowed = 6 * (plain.std(axis=0) + split.std(axis=0)) / math.sqrt(n) + 1e-12
    assert (np.abs(plain.mean(axis=0) - split.mean(axis=0) - shared) <= allowed).all()


def test_a_cost_gradient_from_one_architecture_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        Controller(SPACE).cost_gradient(np.random.default_rng(0), 1, some_reward)


# Update


def slow_updates(controller, batches, learning_rates, entropy_regularization, cost_gradients):
    """The same updates as docs/algorithm.md#controller words them: one replica, one OneOf, one choice at a time."""
    logits, size = controller.logits.copy(), controller.logits.shape
    moment, average = np.zeros(size), 0.0
    for t, (samples, rewards) in enumerate(batches, start=1):
        average = 0.95 * average + 0.05 * sum(rewards) / len(rewards)
        baseline = average / (1 - 0.95**t)
        gradients = []
        for r, reward in enumerate(rewards):
            gradient = np.zeros(size)
            for c in range(size[0]):
                if samples.active[r, c] and not samples.enabled[r, c]:
                    weights = [math.exp(logits[c, k]) for k in range(SPACE.sizes[c])]
                    for k, weight in enumerate(weights):
                        gradient[c, k] = (reward - baseline) * ((k == samples.indices[r, c]) - weight / sum(weights))
            gradients.append(gradient + (cost_gradients[t - 1] if cost_gradients else 0.0))
        moment = 0.999 * moment + 0.001 * sum(g**2 for g in gradients) / len(gradients)
        rate = learning_rates[t - 1]
        tensor = torch.tensor(logits, requires_grad=True)
        (sum(torch_branch_entropies(tensor, samples)) / len(rewards)).backward()
        step = rate * math.sqrt(1 - 0.999**t) * (sum(gradients) / len(gradients)) / (np.sqrt(moment) + 1e-8)
        logits = logits + step + rate * entropy_regularization * tensor.grad.numpy()
    return logits


@pytest.mark.parametrize("entropy_regularization", [0.0, 0.5])
@pytest.mark.parametrize("shared", [False, True])
def test_updates_are_those_of_the_slow_way(entropy_regularization, shared):
    start = random_controller(10)
    fast = random_controller(10)
    rng = np.random.default_rng(0)
    batches, shared_gradients = [], []
    learning_rates = [0.0, 0.0, 0.05, 0.1, 0.2]
    for step, rate in enumerate(learning_rates):
        samples = fast.sample(rng, 6, 0.3 if step < 2 else 0.0, 0.3 if step < 2 else 0.0)
        rewards = some_reward(samples.indices)
        shared_gradients.append(fast.cost_gradient(rng, 10, some_reward))
        batches.append((samples, rewards))
        fast.update(samples, rewards, rate, entropy_regularization, shared_gradients[-1] if shared else None)
    expected = slow_updates(
        start, batches, learning_rates, entropy_regularization, shared_gradients if shared else None
    )
    np.testing.assert_allclose(fast.logits, expected, atol=1e-10)
    assert (fast.logits[~fast.valid] == 0).all()


def test_replicas_that_disagree_move_less_than_replicas_that_agree():
    space = Space("two", Tower((Block((Conv(OneOf((3, 5), OP)),), 8),)))
    agree, disagree = Controller(space, momentum=0.0), Controller(space, momentum=0.0)
    samples = agree.sample(np.random.default_rng(0), 64)
    prefers_first = np.where(samples.indices[:, 0] == 0, 1.0, 0.0)
    noise = np.tile([30.0, -30.0], 32)
    agree.update(samples, prefers_first, 0.1)
    disagree.update(samples, prefers_first + noise, 0.1)
    assert np.abs(disagree.logits).max() < np.abs(agree.logits).max()


def test_nothing_moves_but_the_moments_while_the_learning_rate_is_zero():
    controller = random_controller(11)
    before = controller.logits.copy()
    samples = controller.sample(np.random.default_rng(0), 8)
    controller.update(samples, some_reward(samples.indices), 0.0, entropy_regularization=1.0)
    assert (controller.logits == before).all()
    assert controller.num_updates == 1 and controller.second_moment.any()


def test_an_update_logs_baseline_advantage_and_losses():
    controller = random_controller(12)
    entropy = controller.entropy()
    rng = np.random.default_rng(0)
    first = controller.sample(rng, 4)
    logged = controller.update(first, [1.0, 2.0, 3.0, 6.0], 0.0, entropy_regularization=0.25)
    assert (
        logged["step_baseline"] == logged["baseline"] == 3.0
    )  # zero-debiased, and updated before the advantage is taken
    assert logged["advantage"] == pytest.approx(0.0)
    assert logged["log_prob"] == pytest.approx(first.log_prob.mean())
    assert logged["empirical_loss"] == pytest.approx(-np.mean(np.array([-2.0, -1.0, 0.0, 3.0]) * first.log_prob))
    assert logged["entropy"] == pytest.approx(entropy)
    assert logged["entropy_loss"] == pytest.approx(-0.25 * controller.branch_entropies(first).mean())
    second = controller.update(controller.sample(rng, 2), [5.0, 5.0], 0.0)
    assert second["step_baseline"] == 5.0
    assert second["baseline"] == pytest.approx((0.95 * 0.05 * 3 + 0.05 * 5) / (1 - 0.95**2))
    assert second["advantage"] == pytest.approx(5.0 - second["baseline"])


def test_it_finds_the_best_architecture():
    controller = Controller(SPACE)
    best = np.array([1, 0, 2, 1, 0, 2, 1])
    rng = np.random.default_rng(0)
    for _ in range(1500):
        samples = controller.sample(rng, 16)
        rewards = ((samples.indices == best) & samples.active).mean(axis=1) + 0.1 * rng.normal(size=16)
        controller.update(samples, rewards, 0.02)
    found = controller.most_likely()
    assert found.pruned() == SPACE.architecture(best.tolist()).pruned()


def test_an_entropy_bonus_keeps_the_distribution_wide():
    entropies = []
    for bonus in (0.0, 2.0):
        controller = random_controller(13)
        rng = np.random.default_rng(0)
        for _ in range(300):
            samples = controller.sample(rng, 8)
            controller.update(samples, some_reward(samples.indices), 0.05, entropy_regularization=bonus)
        entropies.append(controller.entropy())
    assert entropies[1] > entropies[0] + 0.5


@pytest.mark.parametrize("rewards", [[1.0], [[1.0], [2.0]], 3.0])
def test_rewards_that_do_not_match_the_samples_are_refused(rewards):
    controller = Controller(SPACE)
    samples = controller.sample(np.random.default_rng(0), 2)
    with pytest.raises(InputError, match="expected 2 rewards"):
        controller.update(samples, rewards, 0.1)


def test_a_reward_that_is_not_finite_stops_the_search_and_changes_nothing():
    controller = Controller(SPACE)
    samples = controller.sample(np.random.default_rng(0), 3)
    with pytest.raises(DivergedError, match="replica 1"):
        controller.update(samples, [0.5, math.nan, 0.5], 0.1)
    assert controller.num_updates == 0 and not controller.second_moment.any()


# State


def test_most_likely_takes_the_largest_logit_of_every_oneof():
    controller = random_controller(14)
    expected = [int(np.argmax(row[:size])) for row, size in zip(controller.logits, SPACE.sizes, strict=True)]
    assert controller.most_likely() == SPACE.architecture(expected)
    negative = Controller(SPACE)
    negative.logits = np.where(negative.valid, -1.0, 0.0)  # the padding is larger than every choice
    assert negative.most_likely() == SPACE.architecture([0] * SPACE.num_choices)


@given(seed=seeds, temperature=temperatures)
def test_the_log_probability_of_an_architecture_counts_what_is_in_use(seed, temperature):
    controller = random_controller(seed, temperature=temperature)
    expected = distinct_log_probs(torch.tensor(controller.logits), temperature)
    np.testing.assert_allclose(controller.log_prob(ALL_INDICES), [float(expected[key]) for key in ALL_DISTINCT])


@given(seed=seeds, target=st.floats(1.0, 40.0), tolerance=st.floats(0.001, 0.2))
def test_a_cost_is_landed_on_with_the_likeliest_of_the_near_architectures(seed, target, tolerance):
    controller = random_controller(seed)
    prices = np.random.default_rng(seed).uniform(0.0, 3.0, controller.valid.shape)

    def costs_of(indices):
        return np.take_along_axis(prices, indices.T, 1).sum(axis=0) + indices.prod(axis=1)

    best = np.array(controller.most_likely().indices)
    found = np.array(controller.likeliest_within(costs_of, target, tolerance).indices)
    costs, changed = costs_of(ALL_INDICES), (best != ALL_INDICES).sum(axis=1)
    missed = np.maximum(np.abs(costs - target) - tolerance * target, 0.0)
    if missed[changed == 0] == 0:
        assert (found == best).all()
        return
    near = np.flatnonzero(changed <= 2)
    nearest = near[missed[near] == missed[near].min()]
    (here,) = np.flatnonzero((found == ALL_INDICES).all(axis=1))
    assert here in nearest
    assert controller.log_prob(ALL_INDICES[here][None])[0] == pytest.approx(
        controller.log_prob(ALL_INDICES[nearest]).max()
    )


def test_a_large_space_is_landed_on_within_a_percent():
    space = tunas.get_space("mobilenet_v3_like_search")
    costs = tunas.load_cost_model("pixel1", space)
    for seed in range(5):
        controller = random_controller(seed, space)
        target = 1.04 * costs.estimate(controller.most_likely())
        assert costs.estimate(controller.likeliest_within(costs.estimate, target, 0.01)) == pytest.approx(
            target, rel=0.01
        )


def test_a_restored_controller_goes_on_bit_for_bit():
    def run(controller, steps):
        for step in steps:
            samples = controller.sample(np.random.default_rng([0, step]), 8)
            controller.update(samples, some_reward(samples.indices), 0.05, 0.1)

    straight, stopped, resumed = Controller(SPACE), Controller(SPACE), Controller(SPACE)
    run(straight, range(20))
    run(stopped, range(11))
    state = stopped.state_dict()
    run(stopped, range(11, 13))  # the state is a copy
    resumed.load_state_dict(state)
    run(resumed, range(11, 20))
    assert (resumed.logits == straight.logits).all()
    assert (resumed.second_moment == straight.second_moment).all()
    assert resumed.baseline == straight.baseline


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda s: s.pop("logits"), "lacks logits"),
        (lambda s: s.update(logits=np.zeros((2, 2))), r"logits must have shape \[7, 3\], not \[2, 2\]"),
        (lambda s: s.update(sizes=s["sizes"][::-1]), "another space than nested"),
        (lambda s: s.update(logits=np.full((7, 3), np.nan)), "logits holds a value that is not finite"),
        (lambda s: s.update(second_moment=np.full((7, 3), -1.0)), "below 0"),
        (lambda s: s.update(num_updates=-1), "below 0"),
        (lambda s: s.update(reward_average=math.inf), "not finite"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, complaint):
    controller = random_controller(15)
    before = controller.state_dict()
    state = Controller(SPACE).state_dict()
    change(state)
    with pytest.raises(InputError, match=complaint):
        controller.load_state_dict(state)
    assert (controller.logits == before["logits"]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"beta2": 1.0},
        {"epsilon": 0.0},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match=f"controller's {next(iter(options))} must be"):
        Controller(SPACE, **options)


def test_a_space_without_choices_is_refused():
    with pytest.raises(InputError, match="nothing to search: mobilenet_v2 has no OneOf"):
        Controller(tunas.get_space("mobilenet_v2"))


def test_every_logit_is_named_by_path_and_by_number_within_its_kind():
    controller = random_controller(16)
    named = dict(controller.logit_names())
    assert len(named) == 2 * sum(SPACE.sizes)
    kernel = next(c for c, point in enumerate(SPACE.points) if point.path.endswith("choices/1/kernel_size"))
    assert named[f"rlpathlogits/{SPACE.points[kernel].path}/2"] == controller.logits[kernel, 2]
    tags = [point.oneof.tag for point in SPACE.points]
    second_filters = [c for c, tag in enumerate(tags) if tag == FILTERS][1]
    assert named["rltaglogits/filters_indices_1/0"] == controller.logits[second_filters, 0]
    assert named["rltaglogits/op_indices_0/1"] == controller.logits[tags.index(OP), 1]
    published = dict(Controller(tunas.get_space("proxylessnas_search")).logit_names())
    assert "rlpathlogits/blocks/2/layers/0/choices/0/kernel_size/2" in published


def test_controller_and_cost_model_need_no_torch():
    imports = "import sys, tunas.cost.model, tunas.search.controller, tunas.search.reward, tunas.search.schedule"
    subprocess.run([sys.executable, "-c", f"{imports}; assert 'torch' not in sys.modules"], check=True)
