"""The weights' learning rate rises, bends and ends where it is said to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunas import InputError
from tunas.recipe.schedule import PEAK_LEARNING_RATE, cosine_decay_with_linear_warmup, scaled_learning_rate, steps_of

STEPS = 27_051  # 90 epochs of 1,231,121 images at batch 4096


def test_the_learning_rate_at_batch_4096_is_the_published_one():
    assert scaled_learning_rate(PEAK_LEARNING_RATE, 4096) == pytest.approx(2.64)


def test_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    rates = [cosine_decay_with_linear_warmup(2.0, step, 110, 10) for step in range(112)]
    assert rates[:11] == pytest.approx([0.2 * step for step in range(11)])
    assert rates[60] == pytest.approx(1.0)
    assert rates[35] == pytest.approx(2.0 * 0.8535533906)
    assert rates[110] == rates[111] == 0.0


@given(max_step=st.integers(1, 1000), warmup=st.integers(0, 1000), peak=st.floats(1e-6, 10))
def test_learning_rate_has_one_peak(max_step, warmup, peak):
    warmup = min(warmup, max_step)
    rates = [cosine_decay_with_linear_warmup(peak, step, max_step, warmup) for step in range(max_step + 1)]
    assert all(0 <= rate <= peak for rate in rates)
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1]) or warmup == max_step
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == 0


@pytest.mark.parametrize("fraction, steps", [(0.0, 0), (0.025, 676), (1.0, STEPS)])
def test_fractions_are_rounded_down_to_steps(fraction, steps):
    assert steps_of(fraction, STEPS) == steps


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(InputError, match="between 0 and 1"):
        steps_of(fraction, STEPS)


def test_a_warmup_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="warmup of 11 steps does not fit into 10"):
        cosine_decay_with_linear_warmup(1.0, 0, 10, 11)
