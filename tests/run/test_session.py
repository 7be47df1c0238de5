import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from support.runs import ALONE
from tunas.run.checkpoint import load_checkpoint, save_checkpoint
from tunas.run.checkpoint_names import checkpoints
from tunas.run.events import read_events
from tunas.run.loop import Run, carry_out
from tunas.run.session import STREAMS, Stopped, generator, stop_requests


class Count(Run):
    """Adds up its steps, and sends itself a signal in one of them."""

    label = "test"

    def __init__(self, steps, log_every=1, save_every=1, signal_at=None, number=signal.SIGTERM):
        self.steps, self.log_every, self.save_every = steps, log_every, save_every
        self.signal_at, self.number = signal_at, number
        self.total = torch.zeros(())
        self.done, self.written, self.kept = [], [], []

    def advance(self, step):
        if step == self.signal_at:
            os.kill(os.getpid(), self.number)
        self.total += step
        self.done.append(step)
        return {"loss": float(step)}

    def logged(self, step, scalars):
        self.written.append(step)
        return super().logged(step, scalars)

    def tensors(self):
        return {"total": self.total}

    def load(self, tensors, numbers):
        self.total = tensors["total"]

    def saved(self):
        self.kept.append(len(self.done))


def steps_run(first, last, **how):
    """(steps done, steps logged, counts saved) of a run that goes on after `first` steps."""
    run = Count(last, **how)
    with tempfile.TemporaryDirectory() as directory:
        if first:
            run.total += sum(range(first))
            save_checkpoint(Path(directory), first, run.tensors(), {"events": {}})
        try:
            assert carry_out(run, Path(directory), ALONE) == first
        except Stopped as stopped:
            return run.done, run.written, [first + count for count in run.kept], stopped
        left = load_checkpoint(checkpoints(Path(directory))[0])
        logged = sorted(read_events(Path(directory))[0])
    assert left[0]["total"] == sum(range(last)) and left[1]["step"] == last and logged == run.written
    return run.done, run.written, [first + count for count in run.kept], None


def test_random_numbers_depend_on_seed_stream_and_step_alone():
    draws = {
        (seed, stream, step): generator(seed, stream, step).random()
        for seed in (0, 1)
        for stream in STREAMS
        for step in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert all(generator(*key).random() == value for key, value in draws.items())


def test_the_last_step_is_logged_and_saved():
    assert steps_run(0, 8, log_every=3, save_every=5) == (list(range(8)), [0, 3, 6, 7], [5, 8], None)


def test_a_resumed_run_logs_and_saves_at_the_same_steps():
    assert steps_run(5, 8, log_every=3, save_every=5) == ([5, 6, 7], [6, 7], [8], None)


def test_a_finished_run_does_nothing():
    assert steps_run(8, 8) == ([], [], [], None)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_the_step_finish_and_saves(number, code):
    done, logged, saved, stopped = steps_run(0, 8, save_every=100, signal_at=2, number=number)
    assert (done, logged, saved) == ([0, 1, 2], [0, 1, 2], [3])
    assert stopped.code == code and "after step 3; run the same command to go on" in str(stopped)


def test_a_signal_in_the_last_step_changes_nothing():
    assert steps_run(0, 3, save_every=100, signal_at=2) == ([0, 1, 2], [0, 1, 2], [3], None)


def test_a_second_interrupt_ends_the_run_at_once_but_torchruns_own_does_not(monkeypatch):
    with stop_requests(), pytest.raises(KeyboardInterrupt):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    with stop_requests() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == signal.SIGINT


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(steps_run(0, 2)))
    thread.start()
    thread.join()
    assert results == [([0, 1], [0, 1], [1, 2], None)]
