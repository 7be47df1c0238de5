"""No process outlives the tests, and their names are read."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from support.ids import parameter_id

MARK = "TUNAS_TEST_SESSION"
OURS = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
"""Processes of this one's own `multiprocessing`, which end with it."""
PATIENCE = 20.0
"""Seconds that processes have to end after the last test."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # xdist's workers, and what they start, have it from here
        os.environ[MARK] = uuid.uuid4().hex


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    return parameter_id(val, argname)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Once xdist has ended its workers: the session fails where something that it started still runs."""
    if hasattr(session.config, "workerinput") or not Path("/proc/self/environ").exists():
        return
    until = time.monotonic() + PATIENCE
    while (left := still_running()) and time.monotonic() < until:
        time.sleep(0.2)
    if left:
        print(f"\nprocesses outlive the tests: {'; '.join(left)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def still_running() -> list[str]:
    """Number and command of the processes that this session has started."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            started = parent == os.getpid() or mark in (entry / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue  # it has just ended, or is another user's
        if command and started and not any(name in command for name in OURS):
            found.append(f"{entry.name} {command[:120]}")
    return found
