"""The check that no process outlives the tests sees one that does."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("checks_of_the_session", Path(__file__).parent / "conftest.py")
session = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(session)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_process_that_is_left_is_seen_also_where_its_parent_is_gone(monkeypatch):
    monkeypatch.setenv(session.MARK, "of this test alone")
    started = "subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, stdout=-3, stderr=-3)"
    script = f"import subprocess, sys; print({started}.pid)"
    reader, writer = os.pipe()
    words = [sys.executable, "-c", script]
    number = subprocess.run(words, stdin=reader, capture_output=True, text=True, check=True).stdout.strip()
    try:
        assert any(line.startswith(f"{number} ") for line in session.still_running())
    finally:
        os.close(writer)
        os.close(reader)
