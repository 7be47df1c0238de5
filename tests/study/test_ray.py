"""The same jobs on a Ray cluster, here one on this machine: tried again where they fail, never run twice, and gone on
with after the driver was killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.jobs import TINY
from tunas import InputError, TrainConfig
from tunas.study.jobs import Job, run_jobs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="takes ray"),
]
FLAKY = """
import os, pathlib, sys
sys.path.insert(0, {tests!r})
from support.tiny_space import tiny

def flaky():
    crashed = pathlib.Path({marker!r})
    if not crashed.exists():
        crashed.touch()
        os._exit(1)
    return tiny()
"""


def training(ssd: str = TINY, **more) -> TrainConfig:
    common = {"image_size": 8, "device": "cpu", "epochs": 0.2, "num_workers": 0, **more}
    return TrainConfig(ssd=ssd, indices="1:1:1:1:1:1:0:1", **common)


@pytest.fixture
def cluster():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_a_process_that_ends_is_replaced_and_bad_input_is_not_tried_again(cluster, tmp_path):
    file = tmp_path / "flaky.py"
    file.write_text(FLAKY.format(tests=str(Path(__file__).parents[1]), marker=str(tmp_path / "crashed")))
    run_jobs([Job("flaky", training(f"{file}:flaky")), Job("plain", training())], tmp_path / "out", engine="ray")
    assert (tmp_path / "crashed").exists()
    for name in ("flaky", "plain"):
        assert json.loads((tmp_path / "out" / name / "result.json").read_text())["accuracy"] >= 0
    written = (tmp_path / "out/plain/result.json").stat().st_mtime_ns
    bad = Job("bad", training(dataset_dir=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match=r"bad: .*nowhere"):
        run_jobs([Job("plain", training()), bad], tmp_path / "out", engine="ray")
    assert (tmp_path / "out/plain/result.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "command",
    [
        ("study", "--min_cost=6000", "--max_cost=9000", "--random=3", "--searches=1"),
        ("design", "--cost_model=params", "--latency=3000", "--tolerance=0.1", "--random=2", "--device=torch-cpu"),
    ],
    ids=lambda words: words[0],
)
def test_a_driver_that_is_killed_goes_on_where_it_was(command, tmp_path):
    words = [sys.executable, "-m", "tunas", *command, f"--ssd={TINY}", "--image_size=8", "--search=epochs=1",
             "--train=epochs=6", f"--out={tmp_path}", "--engine=ray"]  # fmt: skip
    trainings = "train-*" if command[0] == "study" else "train/*"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    driver = subprocess.Popen(words, env=environment, start_new_session=True)
    until = time.monotonic() + 240
    while not (done := list(tmp_path.glob(f"{trainings}/result.json"))):
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    written = {path: path.stat().st_mtime_ns for path in done}
    assert subprocess.run(words, env=environment, check=False, timeout=400).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in done} == written
    assert len(list(tmp_path.glob(f"{trainings}/result.json"))) == (4 if command[0] == "study" else 3)
