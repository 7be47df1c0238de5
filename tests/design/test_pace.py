"""What runs side by side is timed so: at the same time, with the threads and the environment that it will have."""

import dataclasses
import json
import os
from pathlib import Path

from support.jobs import INDICES, TINY
from tunas import TrainConfig
from tunas.design.pace import pace_beside

WATCHED = Path(__file__).parents[1] / "support" / "watched.py"
CONFIG = TrainConfig(ssd=TINY, indices=INDICES, epochs=2.0, train_batch_size=48, device="cpu", num_workers=0)
WATCHED_CONFIG = dataclasses.replace(CONFIG, task=f"{WATCHED}:task")


def test_runs_side_by_side_share_the_processors_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("WATCHED_IN", str(tmp_path))
    found = pace_beside([WATCHED_CONFIG, dataclasses.replace(WATCHED_CONFIG, seed=1)], 2)
    assert (found.trial.batch, found.trial.examples, found.steps(2)) == (48, 160, 6)
    assert found.start > 0 and found.seconds(2) > found.start + 6 * found.step > found.start
    first, second = (json.loads(path.read_text()) for path in tmp_path.iterdir())
    assert first["threads"] == second["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert max(first["times"][0], second["times"][0]) < min(first["times"][-1], second["times"][-1])


def test_one_run_is_timed_here_where_the_processes_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WATCHED_ENDS", "1")
    found = pace_beside([WATCHED_CONFIG] * 2, 2)
    assert found.step > 0 and "one run is timed alone" in capsys.readouterr().err
