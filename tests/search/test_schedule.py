"""Every ramp starts, bends and ends where it is said to."""

import pytest

from tunas import InputError
from tunas.recipe.schedule import scaled_learning_rate, steps_of
from tunas.search.schedule import RL_LEARNING_RATE, check_warmups, rl_learning_rate, warmup_probability

STEPS = 27_051  # 90 epochs of 1,231,121 images at batch 4096


def test_the_learning_rate_at_batch_4096_is_the_published_one():
    assert scaled_learning_rate(RL_LEARNING_RATE, 4096) == pytest.approx(4.8e-3)


def test_warmup_probability_falls_in_a_line_from_one_to_zero():
    assert [warmup_probability(step, 4) for step in range(7)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]
    assert warmup_probability(0, 0) == 0.0


def test_controller_waits_then_grows_tenfold():
    delay = steps_of(0.25, STEPS)
    assert delay == 6762
    assert rl_learning_rate(4.8e-3, delay - 1, STEPS, delay) == 0.0
    assert rl_learning_rate(4.8e-3, delay, STEPS, delay) == 4.8e-3
    assert rl_learning_rate(4.8e-3, (delay + STEPS) // 2, STEPS, delay) == pytest.approx(4.8e-3 * 10**0.5, rel=1e-3)
    assert rl_learning_rate(4.8e-3, STEPS, STEPS, delay) == pytest.approx(4.8e-2)
    assert rl_learning_rate(1.0, 5, 10, 0, growth=1.0) == 1.0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        check_warmups(0.0, 0.0, fraction) if fraction > 0 else check_warmups(fraction, 0.25, 0.25)


def test_warmups_that_outlast_the_delay_are_refused():
    check_warmups(0.25, 0.25, 0.25)
    check_warmups(0.0, 0.1, 0.25)
    with pytest.raises(
        InputError, match=r"the op warmup takes 0\.3 of the steps, but the controller starts to learn after 0\.25"
    ):
        check_warmups(0.3, 0.25, 0.25)
    with pytest.raises(InputError, match=r"the filters warmup takes 0\.5 .* must not outlast"):
        check_warmups(0.25, 0.5, 0.25)


def test_a_delay_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="delay of 11 steps does not fit into 10"):
        rl_learning_rate(1.0, 0, 10, 11)
