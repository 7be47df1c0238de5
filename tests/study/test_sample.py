"""Random architectures within a range of costs."""

import numpy as np
import pytest

import tunas
from tunas.study.sample import random_architectures


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
