"""Independent searches and trainings, side by side: each a run directory of its own, finished ones never run again."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from tunas.errors import DivergedError, InputError, InUseError
from tunas.files import make_directory, write_text, writing_to
from tunas.flags import given
from tunas.needs import need_packages
from tunas.run.directory import PARAMS, RESULT, read_json_object, read_params
from tunas.run.session import Stopped
from tunas.run.settings import Kind, changes, in_words
from tunas.search.config import SearchConfig
from tunas.study.config import Engine
from tunas.study.processes import begin, context, shared_threads
from tunas.task import Task
from tunas.train.config import TrainConfig

JOB = "job.json"
"""In a job's directory: the seconds it took, over all sessions."""
LOGS = "logs"
"""Beside the jobs' directories: what those said that ran in processes of their own."""
TRIES = 3
"""How often a job is tried that fails for want of luck or memory."""
PATIENCE = 30.0
"""Seconds that a job waits for a directory that is in use."""
INPUT_ERROR = 2
"""Exit code of a job's process that is no use to try again."""


@dataclass(frozen=True)
class Job:
    """A search or a training.

    Args:
        name: of its directory below the others'.
        config: what to run; its `checkpoint_dir` is filled in.
    """

    name: str
    config: SearchConfig | TrainConfig


def run_jobs(
    jobs: Sequence[Job],
    directory: Path,
    *,
    workers: int = 1,
    engine: Engine = "local",
    label: str = "jobs",
    task: Task | None = None,
) -> None:
    """Runs every job that has not finished yet.

    Args:
        jobs: of different names.
        directory: where their directories are.
        workers: processes at a time, which share this machine's processors; 1 runs in this process.
        engine: `ray` hands them to a Ray cluster instead, whose machines see `directory` under the same name.
        task: what is learned, where the configurations do not say it; for one worker in this process.

    Raises:
        InputError: where a job cannot be carried out, with its own sentence.
        DivergedError: naming the jobs that failed three times; all others are done then.
    """
    check_engine(workers, engine)
    if engine == "ray":  # whose processes have working directories of their own
        directory = directory.absolute()
    for job in jobs:
        check_told(job.config, directory / job.name)
    waiting = [job for job in jobs if not is_done(directory / job.name)]
    if done := len(jobs) - len(waiting):
        print(f"{label}: {done} of {len(jobs)} are done already", file=sys.stderr)
    ready = [dataclasses.replace(job.config, checkpoint_dir=str(directory / job.name)) for job in waiting]
    make_directory(directory / LOGS)
    workers = min(workers, max(1, len(ready)))  # one job alone has all processors
    if engine == "ray":
        failed = _by_ray(ready, label)
    elif workers == 1:
        failed = _here(ready, label, task)
    else:
        failed = _in_processes(ready, workers, label)
    if failed:
        raise DivergedError(
            f"{len(failed)} of {len(jobs)} {label} failed {TRIES} times: {', '.join(failed)}; what they said is in "
            f"{directory / LOGS}; run the same command to try again"
        )


def check_engine(workers: int, engine: Engine) -> None:
    """Refuses what no job could be carried out with.

    Raises:
        InputError: where the engine is not installed or there are no workers.
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    if engine == "ray":
        need_packages("--engine=ray", "ray", install="tunas-torch[ray]")


def check_told(config: Any, directory: Path) -> None:
    """Refuses to take what a job came to for what another one would, where it was told something else.

    Raises:
        InputError: naming the settings.
    """
    if not is_done(directory) or not (directory / PARAMS).is_file():
        return
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in given(config).items()}
    told = {name: value for name, value in told.items() if name != "rl_learning_rate"}  # kept for the run's own batch
    kept = read_params(directory)
    if other := changes({name: kept.get(name) for name in told}, told, Kind.IDENTITY):
        raise InputError(
            f"{directory} was done with other settings ({in_words(other)}); name another directory, or give the same"
        )


def is_done(directory: Path) -> bool:
    """Whether the job in a directory has ended with a result."""
    return (directory / RESULT).is_file()


def seconds_of(directory: Path) -> float:
    """How long a job took, over all its sessions; 0 where it left no word."""
    path = directory / JOB
    return float(read_json_object(path).get("seconds", 0.0)) if path.is_file() else 0.0


def run_one(config: Any, task: Task | None = None) -> None:
    """Runs a search or a training to its end, and adds up the time that it took.

    Where another process works in its directory it waits a while: that of a command that was killed a moment ago ends
    by itself.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return _run_one(config, task)
        except InUseError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _run_one(config: Any, task: Task | None) -> None:
    """Runs a job whose directory is free, and adds up its time however it ends."""
    directory = Path(config.checkpoint_dir)
    before = seconds_of(directory)
    began = time.perf_counter()
    try:
        if isinstance(config, SearchConfig):
            from tunas.search.loop import search

            search(config, task)
        else:
            from tunas.train.loop import train

            train(config, task)
    finally:
        if directory.is_dir():
            with writing_to(directory):
                write_text(directory / JOB, f'{{"seconds": {before + time.perf_counter() - began:.1f}}}\n')


def _here(configs: Iterable[Any], label: str, task: Task | None) -> list[str]:
    """Runs the jobs in this process, one after the other; names of those that failed."""
    configs = list(configs)
    failed = []
    for number, config in enumerate(configs, 1):
        print(f"{label}: {number} of {len(configs)}, {Path(config.checkpoint_dir).name}", file=sys.stderr, flush=True)
        for attempt in range(TRIES):
            try:
                run_one(config, task)
                break
            except DivergedError as error:
                print(f"{Path(config.checkpoint_dir).name}: {error}", file=sys.stderr)
                if attempt == TRIES - 1:
                    failed.append(Path(config.checkpoint_dir).name)
    return failed


def _in_processes(configs: Iterable[Any], workers: int, label: str) -> list[str]:
    """Runs the jobs in processes of their own, `workers` at a time; names of those that failed."""
    waiting = [(config, 0) for config in configs]
    total, done = len(waiting), 0
    failed: list[str] = []
    running: dict[int, tuple[Any, Any, int]] = {}
    began = time.perf_counter()
    with shared_threads(workers), _ended(running):
        while waiting or running:
            while waiting and len(running) < workers:
                config, attempt = waiting.pop(0)
                process = context().Process(target=_logged, args=(config, dict(os.environ)))
                process.start()
                running[process.sentinel] = (process, config, attempt)
            for sentinel in wait(list(running)):
                process, config, attempt = running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                name = Path(config.checkpoint_dir).name
                if process.exitcode == INPUT_ERROR:
                    raise InputError(f"{name}: {_last_words(config)}")
                if process.exitcode == 0:
                    done += 1
                elif attempt + 1 < TRIES:
                    waiting.append((config, attempt + 1))
                    print(f"{label}: {name} ended with code {process.exitcode}; trying again", file=sys.stderr)
                else:
                    failed.append(name)
                left = (time.perf_counter() - began) / max(1, done) * (total - done)
                print(f"{label}: {done} of {total} done, about {left / 60:.0f} min left", file=sys.stderr, flush=True)
    return failed


@contextlib.contextmanager
def _ended(running: dict[int, tuple[Any, Any, int]]) -> Iterator[None]:
    """Ends what still runs with the context, also where that ends by SIGTERM: each saves its state and stops."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()


def _log_of(config: Any) -> Path:
    """Where a job's process writes what it says."""
    directory = Path(config.checkpoint_dir)
    return directory.parent / LOGS / f"{directory.name}.txt"


def _logged(config: Any, environment: dict[str, str]) -> None:
    """The whole work of a process; what it prints goes to the job's log."""
    log = open(_log_of(config), "a", buffering=1)  # noqa: SIM115 (open as long as the process lives)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    begin(environment)
    _end_with_parent()
    try:
        run_one(config)
    except InputError as error:
        print(f"tunas: {error}", file=sys.stderr)
        sys.exit(INPUT_ERROR)
    except Stopped as stopped:
        sys.exit(stopped.code)


def _end_with_parent() -> None:
    """Stops this process as SIGTERM does, its state saved, once the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def stop() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, name="tunas-parent", daemon=True).start()


def _last_words(config: Any) -> str:
    """The last line that a job's process said."""
    lines = _log_of(config).read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("tunas: ") if lines else "it said nothing"


def _by_ray(configs: Iterable[Any], label: str) -> list[str]:
    """Hands the jobs to the cluster at RAY_ADDRESS, or to one on this machine; names of those that failed."""
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    remote: Any = ray.remote  # typed as if all exceptions to try again at had one type
    run = remote(max_retries=TRIES - 1, retry_exceptions=[DivergedError, OSError])(run_one)
    pending = {run.remote(config): Path(config.checkpoint_dir).name for config in configs}
    total, failed = len(pending), []
    while pending:
        finished, _ = ray.wait(list(pending), num_returns=1)
        for reference in finished:
            name = pending.pop(reference)
            try:
                ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError):
                    raise InputError(f"{name}: {error.cause}") from None
                print(f"{label}: {name} failed: {error.cause}", file=sys.stderr)
                failed.append(name)
            except ray.exceptions.RayError as error:
                print(f"{label}: {name} failed: {error}", file=sys.stderr)
                failed.append(name)
        print(f"{label}: {total - len(pending)} of {total} ended", file=sys.stderr, flush=True)
    return failed
