"""Packages, compilers and places to write, checked before the work."""

import os

import pytest

from tunas import InputError
from tunas.files import check_writable
from tunas.needs import has_package, need_compiler, need_packages


def test_a_missing_package_is_named_with_the_way_to_get_it():
    need_packages("this", "json", install="x")
    assert has_package("json") and not has_package("no_such_package.inside")
    with pytest.raises(InputError, match="this needs no_such_a and no_such_b, not installed here: pip install 'tunas"):
        need_packages("this", "json", "no_such_a", "no_such_b", install="tunas-torch[devices]")


def test_a_compiler_is_the_one_that_cxx_names_or_one_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match="none is on PATH"):
        need_compiler("--compile", "cpu")
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    need_compiler("--compile", "cpu")
    monkeypatch.setenv("CXX", "nowhere/g++ -O2")
    with pytest.raises(InputError, match="none is on PATH"):
        need_compiler("--compile", "cpu")


def test_compiling_for_cuda_needs_triton(monkeypatch):
    monkeypatch.setattr("tunas.needs.has_package", lambda name: False)
    with pytest.raises(InputError, match="--compile needs triton"):
        need_compiler("--compile", "cuda")


def test_checking_that_a_file_can_be_written_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "deep" / "below" / "file.csv")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("precious")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    for path, sentence in ((tmp_path, "is a directory"), (tmp_path / "file" / "x", "file is no directory")):
        with pytest.raises(InputError, match=sentence):
            check_writable(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_refused(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="no permission to write in"):
        check_writable(tmp_path / "closed" / "file")
