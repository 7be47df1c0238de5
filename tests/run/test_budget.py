"""Runs of so many minutes."""

import contextlib
import json
import time
from types import SimpleNamespace

import pytest

from support.jobs import SEARCH, TRAIN, Job, finished, killed_and_restarted
from support.runs import ALONE
from tunas import InputError, TrainConfig
from tunas.run.budget import Trial, epochs_of, steps_within, within_minutes
from tunas.train.plan import plan_training


def trial(step=lambda place: None, eval_examples=0, eval_steps=None):
    return Trial(step, contextlib.nullcontext(), 10, 1000, eval_examples, eval_steps, passes=3)


def test_the_steps_that_fit_leave_time_for_the_scorings():
    assert steps_within(100, 1.0, trial()) == 95
    assert steps_within(100, 1.0, trial(eval_examples=300)) == 85, "one at the end, of 10 seconds"
    assert steps_within(100, 1.0, trial(eval_examples=300, eval_steps=10)) == 42, "and one every ten steps"
    assert steps_within(0.5, 1.0, trial()) == 0


@pytest.mark.parametrize("steps", [1, 7, 333, 27_049, 27_050])
def test_epochs_give_exactly_the_steps_they_were_made_for(steps):
    for batch, examples in ((48, 1077), (4096, 1_231_121), (64, 122)):
        config = TrainConfig(epochs=epochs_of(steps, batch, examples), train_batch_size=batch)
        assert plan_training(config, examples).steps == steps


def test_steps_are_timed_all_along_the_run_and_dear_beginnings_count_by_their_share(tmp_path, capsys, monkeypatch):
    """As in a search, whose first quarter costs more; by a clock of its own, which a busy machine does not move."""
    places, now = [], [0.0]
    monkeypatch.setattr("tunas.run.budget.time", SimpleNamespace(monotonic=lambda: now[0]))

    def step(place):
        places.append(place)
        now[0] += 0.04 if place < 0.25 else 0.01

    config = within_minutes(TrainConfig(minutes=0.2), tmp_path, ALONE, now[0], lambda config: trial(step))
    seconds = 0.95 * (12 - now[0]) / (config.epochs * 1000 / 10)
    assert min(places) < 0.25 < max(places)
    assert seconds == pytest.approx(0.25 * 0.04 + 0.75 * 0.01, rel=0.1)
    assert "fit into 0.2 minutes" in capsys.readouterr().err


def test_minutes_and_epochs_are_not_both_given_and_must_be_enough(tmp_path):
    now = time.monotonic()
    with pytest.raises(InputError, match="minutes or epochs, not both"):
        within_minutes(TrainConfig(minutes=1, epochs=1), tmp_path, ALONE, now, lambda config: trial())
    with pytest.raises(InputError, match="not one step fits into 1 minutes"):
        within_minutes(TrainConfig(minutes=1), tmp_path, ALONE, now - 60, lambda config: trial())


@pytest.mark.parametrize("command", [TRAIN, SEARCH], ids=["train", "search"])
def test_a_run_of_minutes_is_the_run_with_the_epochs_it_found_also_when_it_was_killed(tmp_path, command):
    """Bit for bit: the steps that were timed leave no trace."""
    killed_and_restarted([*command, "--minutes=0.1", "--checkpoint-every=5", f"--checkpoint-dir={tmp_path / 'm'}"], 2)
    epochs = json.loads((tmp_path / "m" / "params.json").read_text())["epochs"]
    finished([*command, f"--epochs={epochs!r}", f"--checkpoint-dir={tmp_path / 'e'}"])
    one, two = (json.loads((tmp_path / name / "params.json").read_text()) for name in "me")
    assert one["steps"] == two["steps"] and one["minutes"] == 0.1
    assert (tmp_path / "m" / "summary.csv").read_bytes() == (tmp_path / "e" / "summary.csv").read_bytes()
    job = Job([*command, "--minutes=5", f"--checkpoint-dir={tmp_path / 'm'}"])
    assert job.wait() == [2] and "minutes was 0.1 and is now 5" in job.output()
