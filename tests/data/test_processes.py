"""The processes that decode: what ends them, what ends with them, and what is said of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from support.rendered import opened
from support.runs import ALONE
from tunas import InputError
from tunas.data.ahead import WaitingStopped, stopped_when
from tunas.data.images import decode
from tunas.errors import TemporaryError
from tunas.run.checkpoint_names import checkpoints
from tunas.run.loop import Run, carry_out
from tunas.run.session import Stopped, ended


@pytest.fixture
def forking(monkeypatch):
    """What is replaced here has to be replaced in the processes too."""
    if multiprocessing.get_start_method() != "fork":
        pytest.skip("processes do not fork here")
    return monkeypatch


@pytest.fixture
def slow(forking):
    """Decoding that takes for ever."""
    forking.setattr("tunas.data.decoder.decode", lambda encoded: time.sleep(600) or decode(encoded))
    forking.setattr("tunas.data.ahead.CLOSING", 0.2)


def streamed(datasets, **settings):
    data = opened(datasets["folder", "PNG"], num_workers=2, **settings)
    return data.stream("train", 8, seed=0, augment=True)


def test_too_little_shared_memory_is_reported_at_once(datasets, forking):
    def full(*arguments, **named):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    forking.setattr(torch.UntypedStorage, "_new_shared", full)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"/dev/shm\) is too small .*--shm-size.*--num_workers=0") as caught:
        next(streamed(datasets))
    assert time.monotonic() - began < 10 and "\n" not in str(caught.value)


def test_a_process_that_is_killed_is_one_sentence(datasets):
    stream = streamed(datasets)
    next(stream)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(TemporaryError, match=r"was ended by SIGKILL, as systems do where memory runs out") as caught:
        for _ in stream:
            pass
    assert "\n" not in str(caught.value)


def test_waiting_for_a_batch_ends_when_the_run_is_asked_to_stop(datasets, slow):
    stream = streamed(datasets)
    began = time.monotonic()
    with ended(stream), stopped_when(lambda: True), pytest.raises(WaitingStopped):
        next(stream)
    assert time.monotonic() - began < 10


def test_a_run_that_waits_obeys_signals(datasets, slow, monkeypatch, tmp_path):
    monkeypatch.setattr("tunas.run.session.OVERDUE", 0.1)
    stream = streamed(datasets)
    saved = []

    class Waiting(Run):
        label, steps, log_every, save_every = "test", 10, 100, 100

        def reading(self, start):
            return ended(stream)

        def advance(self, step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                next(stream)
            return {"loss": 0.0}

        def tensors(self):
            return {}

        def saved(self):
            saved.extend(path.name for path in checkpoints(tmp_path))

    with pytest.raises(Stopped, match="stopped by SIGTERM after step 3"):
        carry_out(Waiting(), tmp_path, ALONE)
    assert saved == ["checkpoint-0000000003.safetensors"]


def test_a_process_that_is_told_to_end_does_so_in_a_while_where_there_are_no_alarms(datasets, forking):
    forking.delattr(signal, "alarm")  # as on Windows
    forking.setattr("tunas.data.decoding.GRACE", 0.3)
    others = multiprocessing.active_children()  # that earlier tests left to end
    stream = streamed(datasets)
    for _ in range(2):  # one of each process: until its first, torch's own handler is there, which ends it with 0
        next(stream)
    process = next(child for child in multiprocessing.active_children() if child not in others)
    with ended(stream):
        process.terminate()
        process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM


def test_processes_end_in_order(datasets):
    """Exit code 0 each, or the handler that another loader of the program installs would call it a failure."""
    others = multiprocessing.active_children()
    streams = [streamed(datasets), streamed(datasets)]
    for stream in streams:
        next(stream)
    processes = [child for child in multiprocessing.active_children() if child not in others]
    streams[0].close()
    next(streams[1])
    streams[1].close()
    assert len(processes) == 4
    for process in processes:
        process.join(10)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]


SCRIPT = """
import multiprocessing, os, signal, sys, time
from tunas.data import DataConfig, open_data

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[2])
    data = open_data(DataConfig(dataset_dir=sys.argv[1], image_size=16, num_workers=2))
    stream = data.stream("train", 16, seed=0, augment=True)
    next(stream)
    print("begun", flush=True)
    if sys.argv[3] == "wait":
        time.sleep(600)
"""


def group_of(process: subprocess.Popen) -> list[int]:
    """Processes of the session that `process` began."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == process.pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def begun(datasets, tmp_path, method: str, then: str) -> subprocess.Popen:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # On one processor torch warns of too many workers, before the line that is waited for.
    words = [sys.executable, "-W", "ignore", str(script), str(datasets["folder", "PNG"]), method, then]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_nothing_outlives_a_run_that_is_killed(datasets, tmp_path, method):
    process = begun(datasets, tmp_path, method, "wait")
    assert len(group_of(process)) >= 3
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while (left := group_of(process)) and time.monotonic() < until:
        time.sleep(0.2)
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert not left


def test_an_open_stream_costs_nothing_when_the_interpreter_ends(datasets, tmp_path):
    def seconds_to_end() -> float:
        process = begun(datasets, tmp_path, "fork", "end")
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and output == ""
        return time.monotonic() - began

    # It would wait for 10 seconds, each time; a busy machine may take long once.
    assert any(seconds_to_end() < 8 for _ in range(3))


@pytest.mark.slow
def test_large_tables_are_mapped_by_processes_that_are_started_anew(datasets, monkeypatch):
    """A table of a million names is sent as the name of a file."""
    import pickle

    import numpy as np

    from tunas.data.file_table import FileExamples

    count = 1_000_000
    names = [f"n01440764_{number}.JPEG".encode() for number in range(count)]
    table = FileExamples("/nowhere", ["a"], ((0, name) for name in names), np.zeros(count), ["a"])
    sent = pickle.dumps(table)
    assert len(sent) < 1_000
    again = pickle.loads(sent)
    assert again.name(123_456) == table.name(123_456) == "/nowhere/a/n01440764_123456.JPEG"
    assert isinstance(again._tables["text"], np.memmap)
