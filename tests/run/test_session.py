import os
import signal
import threading

import pytest
import torch

from tunas.run.device import World
from tunas.run.session import STREAMS, Stopped, generator, run_steps, stop_requests

ALONE = World(0, 1, torch.device("cpu"))


def steps_run(first, last, log_every=1, save_every=1, signal_at=None, number=signal.SIGTERM):
    """(steps done, steps logged, counts saved) of a run that sends itself a signal in a step."""
    done, logged, saved = [], [], []

    def advance(step):
        if step == signal_at:
            os.kill(os.getpid(), number)
        done.append(step)
        return {"loss": float(step)}

    try:
        run_steps(
            "test",
            range(first, last),
            advance,
            log=lambda step, _: logged.append(step),
            save=lambda count, _: saved.append(count),
            status=lambda scalars, rate: "",
            log_every=log_every,
            save_every=save_every,
            world=ALONE,
        )
    except Stopped as stopped:
        return done, logged, saved, stopped
    return done, logged, saved, None


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
