"""Each reward trades quality for cost as published, and says what it did."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunas import InputError
from tunas.search.reward import REWARD_FUNCTIONS, abs_reward, mnas_hard_reward, mnas_reward, reward_function

QUALITY = np.array([0.5, 0.6, 0.7])
COST = np.array([42.0, 84.0, 168.0])


def test_abs_punishes_a_cost_on_either_side_of_the_target():
    result = abs_reward(QUALITY, COST, 84.0)
    np.testing.assert_allclose(result.cost_ratio, [0.5, 1.0, 2.0])
    np.testing.assert_allclose(result.cost_adjustment, [-0.05, 0.0, -0.10])
    np.testing.assert_allclose(result.reward, [0.45, 0.6, 0.6])


def test_mnas_multiplies_by_a_power_of_the_cost_ratio():
    result = mnas_reward(QUALITY, COST, 84.0)
    np.testing.assert_allclose(result.cost_ratio, [0.5, 1.0, 2.0])
    np.testing.assert_allclose(result.cost_adjustment, [2**0.1, 1.0, 2**-0.1])
    np.testing.assert_allclose(result.reward, QUALITY * result.cost_adjustment)


def test_mnas_hard_multiplies_only_above_the_target():
    result = mnas_hard_reward(QUALITY, COST, 84.0)
    np.testing.assert_allclose(result.cost_adjustment, [1.0, 1.0, 2**-0.1])
    np.testing.assert_allclose(result.reward, QUALITY * result.cost_adjustment)


@pytest.mark.parametrize("name", ["abs", "mnas", "mnas_hard"])
@given(quality=st.floats(0.01, 1), cost=st.floats(1, 1000), target=st.floats(1, 1000), exponent=st.floats(-2, 0))
def test_every_reward_is_the_quality_on_target_and_never_grows_with_cost_beyond_it(
    name, quality, cost, target, exponent
):
    reward = reward_function(name)
    assert reward(quality, target, target, exponent).reward == pytest.approx(quality)
    beyond = target + cost
    assert reward(quality, beyond, target, exponent).reward <= reward(quality, target, target, exponent).reward + 1e-12


def test_below_the_target_abs_punishes_mnas_rewards_and_mnas_hard_does_not_care():
    on, below = (84.0, 60.0)
    change = {
        name: float(reward(0.7, below, 84.0).reward - reward(0.7, on, 84.0).reward)
        for name, reward in REWARD_FUNCTIONS.items()
    }
    assert change["abs"] < 0 < change["mnas"]
    assert change["mnas_hard"] == 0


def test_the_exponent_is_the_strength():
    assert abs_reward(0.5, 168.0, 84.0, exponent=-0.3).reward == pytest.approx(0.2)
    assert mnas_reward(0.5, 168.0, 84.0, exponent=-1.0).reward == pytest.approx(0.25)
    assert mnas_reward(0.5, 168.0, 84.0, exponent=0.0).reward == 0.5


@pytest.mark.parametrize("name", ["abs", "mnas", "mnas_hard"])
@pytest.mark.parametrize("target", [0.0, -84.0, float("nan"), float("inf")])
def test_a_target_that_is_not_positive_is_refused(name, target):
    with pytest.raises(InputError, match="target must be a positive number"):
        reward_function(name)(QUALITY, COST, target)


@pytest.mark.parametrize("name", ["abs", "mnas", "mnas_hard"])
@pytest.mark.parametrize("exponent", [0.1, float("nan")])
def test_an_exponent_that_rewards_cost_is_refused(name, exponent):
    with pytest.raises(InputError, match="exponent must be 0 or below"):
        reward_function(name)(QUALITY, COST, 84.0, exponent)


@pytest.mark.parametrize("name", ["mnas", "mnas_hard"])
def test_costs_that_a_power_cannot_take_are_refused(name):
    with pytest.raises(InputError, match="positive costs, but one is -3; use the abs reward"):
        reward_function(name)(QUALITY, [1.0, -3.0, 2.0], 84.0)


def test_an_unknown_reward_is_refused():
    with pytest.raises(InputError, match="unknown reward 'max'; known are abs, mnas, mnas_hard"):
        reward_function("max")
