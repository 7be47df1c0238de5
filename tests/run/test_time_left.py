"""The time left of a run whose steps do not all take the same time."""

import numpy as np
import pytest

from tunas import SearchConfig
from tunas.run.time_left import TimeLeft, in_words
from tunas.search.loop import SearchRun
from tunas.search.plan import plan_search

STEPS = 400
WARM = np.maximum(0, 1 - np.arange(STEPS) / 100)
MEASURED = np.arange(STEPS) >= 80
ASSUMED = np.stack([np.ones(STEPS), 3 * WARM, 4 / 6 * MEASURED], axis=1)
SECONDS = 0.5 + 1.2 * WARM + 0.5 * MEASURED
"""A first step takes 3.4 times as long as one without a warmup; an accuracy half as much again as was assumed."""


def estimates(noise=0.0, slower=1.0):
    """Estimate over truth after each step."""
    took = SECONDS * np.random.default_rng(0).uniform(1 - noise, 1 + noise, STEPS) * slower
    left, found = TimeLeft(ASSUMED), []
    for done, seconds in enumerate(took.tolist(), 1):
        left.took(seconds)
        found.append(left.seconds() / took[done:].sum() if done < STEPS else left.seconds())
    return np.array(found)


def test_a_warmup_does_not_make_the_rest_look_long():
    found = estimates(noise=0.3)
    mean_so_far = SECONDS[:20].mean() * (STEPS - 20) / SECONDS[20:].sum()
    assert abs(found[19] - 1) < 0.35 < mean_so_far - 1
    assert np.abs(found[150:-40] - 1).max() < 0.1 and found[-1] == 0


def test_what_was_assumed_gives_way_to_what_was_measured():
    assert estimates()[120:-1] == pytest.approx(1, abs=0.05)


def test_a_machine_that_becomes_slower_counts_as_it_is_now():
    left = TimeLeft(np.ones((1000, 1)))
    for step in range(600):
        left.took(1.0 if step < 400 else 3.0)
    assert left.seconds() == pytest.approx(1200, rel=0.05)


def test_nothing_is_said_before_the_first_step_and_a_run_that_goes_on_counts_from_there():
    left = TimeLeft(ASSUMED, start=300)
    assert left.seconds() is None and in_words(None) == ""
    left.took(2.0)
    assert left.seconds() == pytest.approx(198)
    assert (in_words(198.4), in_words(3723)) == ("3:18 left", "1:02:03 left")


def test_the_parts_of_a_search_follow_its_phases():
    plan = plan_search(SearchConfig(epochs=8, train_batch_size=64), 6400, digits=False, on_cuda=False)

    class Task:
        def size(self, split):
            return 960

    run = SearchRun.__new__(SearchRun)
    run.plan, run.state = plan, type("State", (), {"task": Task()})
    own, warm, measured, scored = run.work().T
    assert own.tolist() == [1] * 800
    assert (warm[0], warm[100], warm[200]) == (3, 1.5, 0)
    first = plan.unmeasured_steps
    assert 0 < first < 200 and measured[first - 1] == 0 and measured[first:] == pytest.approx(4 / 6)
    assert np.flatnonzero(scored).tolist() == [99, 199, 299, 399, 499, 599, 699, 799] and scored[99] == 960 / 64 / 6
