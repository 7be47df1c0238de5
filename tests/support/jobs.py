"""The command line and other programs in processes of their own: started within milliseconds, alone or as the ranks
of a job, and killed at will."""

from __future__ import annotations

import multiprocessing
import os
import random
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tunas.study.processes import IMPORTED  # sets what a server imports, and has to come first

TINY = f"{Path(__file__).parent / 'tiny_space.py'}:tiny"
"""The search space of `tiny_space.py`, as --ssd takes it."""
INDICES = "1:0:1:0:0:0:0:1"
"""An architecture of it, as --indices takes it."""
DOTS = Path(__file__).with_name("dots.py")
"""A file with a task of one's own."""
OWN_PROGRAM = Path(__file__).with_name("own_program.py")
"""A file with a model and a task of one's own."""
SEARCH = (
    "search",
    f"--ssd={TINY}",
    "--image-size=8",
    "--train-batch-size=48",
    "--replicas=4",
    "--device=cpu",
    "--num-workers=0",
)
TRAIN = (
    "train",
    f"--ssd={TINY}",
    "--indices=1:1:1:1:1:1:0:1",
    "--image-size=8",
    "--train-batch-size=48",
    "--device=cpu",
    "--log-every=1",
)
TIMEOUT = 300.0
"""Seconds after which a job counts as hanging."""

FORKING = multiprocessing.get_context("forkserver")
"""Starts processes that have imported what a search and a training need."""
FORKING.set_forkserver_preload([*IMPORTED, "tunas.cli", "sklearn.datasets", "tyro", "rich.table"])


class Job:
    """`tunas <words>` in `ranks` processes, as torchrun would start them."""

    def __init__(self, words: Sequence[str], ranks: int = 1):
        self.outputs = [Path(tempfile.mkstemp(prefix="tunas-job-")[1]) for _ in range(ranks)]
        port = _free_port()
        self.processes = [
            FORKING.Process(target=_run, args=(list(words), rank, ranks, port, str(output)), daemon=True)
            for rank, output in enumerate(self.outputs)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> list[int]:
        """Exit codes, as a shell gives them, once all have ended."""
        until = time.monotonic() + TIMEOUT
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
        assert not hanging, f"ranks {hanging} hang: {self.output(hanging[0])}"
        return [
            code if code >= 0 else 128 - code
            for code in (process.exitcode for process in self.processes)
            if code is not None
        ]

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        for rank in range(len(self.processes)) if ranks is None else ranks:
            pid = self.processes[rank].pid
            if pid is not None and self.processes[rank].is_alive():
                os.kill(pid, number)

    def output(self, rank: int = 0) -> str:
        """What a rank wrote to standard output and error so far."""
        return self.outputs[rank].read_text()

    def until_output(self, text: str, rank: int = 0) -> None:
        """Waits until a rank has written `text`."""
        until = time.monotonic() + TIMEOUT
        while text not in self.output(rank):
            assert self.processes[rank].is_alive() and time.monotonic() < until, f"no {text!r} in: {self.output(rank)}"
            time.sleep(0.01)


def finished(words: Sequence[str], ranks: int = 1) -> Job:
    """A job that has ended well."""
    job = Job(words, ranks)
    assert job.wait() == [0] * ranks, "\n".join(job.output(rank) for rank in range(ranks))
    return job


def first_to_end(jobs: Sequence[Job]) -> tuple[Job, list[Job]]:
    """(the job that ends first, the others), of jobs started at once."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        for job in jobs:
            if not any(process.is_alive() for process in job.processes):
                return job, [other for other in jobs if other is not job]
        time.sleep(0.01)
    raise AssertionError("no job ends")


def killed_and_restarted(words: Sequence[str], kills: int, seed: int = 0, longest: float = 1.0) -> None:
    """Runs the command to its end, killing it `kills` times, each at a random moment within `longest` seconds."""
    rng = random.Random(seed)
    for _ in range(kills):
        job = Job(words)
        job.processes[0].join(rng.uniform(0.0, longest))
        job.signal(signal.SIGKILL)
        job.wait()
    finished(words)


class Program(Job):
    """A program of one file, in a process that has torch, torchvision and timm already and this package not yet.

    Args:
        file: of Python.
        arguments: after its name in `sys.argv`.
        directory: where it runs.
    """

    def __init__(self, file: Path, *arguments: str, directory: Path | None = None):
        self.outputs = [Path(tempfile.mkstemp(prefix="tunas-job-")[1])]
        given = ([str(file), *arguments], str(directory or Path.cwd()), str(self.outputs[0]))
        self.processes = [FORKING.Process(target=_run_program, args=given, daemon=True)]
        self.processes[0].start()

    def result(self) -> str:
        """What it wrote, once it has ended well."""
        assert self.wait() == [0], self.output()
        return self.output()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(words: list[str], rank: int, ranks: int, port: int, output: str) -> None:
    _redirect(output)
    if ranks > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
        os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}})
    from tunas.cli import main

    _end(main(words))


def _run_program(words: list[str], directory: str, output: str) -> None:
    _redirect(output)
    os.chdir(directory)
    sys.argv = words
    for name in [name for name in sys.modules if name.partition(".")[0] == "tunas"]:
        del sys.modules[name]
    try:
        runpy.run_path(words[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        _end(1)
    _end(0)


def _redirect(output: str) -> None:
    """Sends what the process writes into a file, and makes it a process as any other."""
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 (until the process ends)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    # Its own processes start as everywhere on this system, and not each from a fork server that imports all this again.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # may start data workers
    import torch

    torch.set_num_threads(1)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
