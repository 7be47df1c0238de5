"""Random architectures within a range of costs."""

import numpy as np
import pytest

import tunas
from tunas.cli.sample import SampleConfig
from tunas.study.sample import random_architectures, sample_within


def test_the_sample_is_uniform_among_those_in_the_range() -> None:
    space = tunas.get_space("proxylessnas_search")
    model = tunas.load_cost_model("pixel1", space)
    found = random_architectures(space, model, 83.0, 85.0, 3000, seed=1)
    indices = np.array([architecture.indices for architecture, _ in found])
    rng = np.random.default_rng(2)
    drawn = space.sample(rng, 200_000)
    costs = model.estimate(drawn)
    inside = drawn[(costs >= 83) & (costs <= 85)]
    for position, size in enumerate(space.sizes):
        expected = np.bincount(inside[:, position], minlength=size) / len(inside)
        seen = np.bincount(indices[:, position], minlength=size) / len(indices)
        assert np.abs(seen - expected).max() < 0.05


def test_the_same_seed_gives_the_same_architectures() -> None:
    space = tunas.get_space("mobilenet_v3_like_search")
    model = tunas.load_cost_model("pixel1", space)
    first, again, other = (random_architectures(space, model, 57.0, 59.0, 5, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


def test_an_empty_range_says_what_random_architectures_cost() -> None:
    space = tunas.get_space("proxylessnas_search")
    model = tunas.load_cost_model("pixel1", space)
    with pytest.raises(
        tunas.InputError, match=r"found 0 of 1 .* cost 500 to 600 ms among .* random ones, which cost \d+"
    ):
        random_architectures(space, model, 500.0, 600.0, 1, seed=0)


def test_one_bound_given_keeps_the_default_of_the_other() -> None:
    both, low, high = (
        [cost for _, cost in sample_within(SampleConfig("proxylessnas_search", num_samples=20, **bounds))[0]]
        for bounds in ({}, {"min_cost": 84.0}, {"max_cost": 84.0})
    )
    assert min(both) >= 83 and max(both) <= 85
    assert min(low) >= 84 and max(low) <= 85
    assert min(high) >= 83 and max(high) <= 84


def test_a_bound_beyond_the_default_of_the_other_says_which_one_to_give() -> None:
    with pytest.raises(tunas.InputError, match="min_cost 90 and the default max_cost, 85, exclude each other; give"):
        sample_within(SampleConfig("proxylessnas_search", min_cost=90.0))


def test_without_published_windows_a_bound_left_out_is_none() -> None:
    (found,), _ = sample_within(SampleConfig("proxylessnas_search", cost_model="params", min_cost=3e6))
    assert found[1] >= 3e6
