"""Freed memory stays with the process where glibc has it."""

import platform

import pytest

from support.jobs import Program

CHURN = """
import resource, sys
from tunas.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
import torch
def churn():
    for _ in range(20):
        torch.ones(16 * 2**20)  # 64 MiB
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


HOLES = """
import os
from tunas.allocator import give_back_memory, keep_freed_memory
import torch
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
keep_freed_memory()
before, large = resident(), [torch.ones(2**20) for _ in range(64)]  # 4 MiB each
small = [torch.ones(64 * 2**10) for _ in range(2)]
del large
kept = resident() - before
assert give_back_memory()
print(kept, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_what_a_job_left_is_given_back_though_something_small_stays_above_it(tmp_path):
    (tmp_path / "holes.py").write_text(HOLES)
    kept, left = map(int, Program(tmp_path / "holes.py").result().split())
    assert kept > 250 and left < 50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_large_blocks_are_not_faulted_in_again_at_every_operation(tmp_path):
    (tmp_path / "churn.py").write_text(CHURN)
    faults = {name: int(Program(tmp_path / "churn.py", name).result()) for name in ("kept", "plain")}
    assert faults["kept"] < faults["plain"] / 10


def test_another_c_library_is_left_alone(monkeypatch):
    from tunas import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_freed_memory() is allocator.give_back_memory() is False
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
