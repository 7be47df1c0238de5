"""The live view of searches."""

import io
import json
import shutil

import pytest
from rich.console import Console

from support.jobs import TINY
from tunas import SearchConfig, search
from tunas.cli import main
from tunas.report.watch import SPARKS, overview, sparkline


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "one"
    small = {"image_size": 8, "device": "cpu", "epochs": 0.2, "train_batch_size": 48, "replicas": 2, "num_workers": 0}
    search(SearchConfig(ssd=TINY, checkpoint_dir=str(directory), **small))
    return directory


def shown(*directories):
    console = Console(width=250, file=io.StringIO())
    console.print(overview(directories))
    return console.file.getvalue()


def test_a_finished_search_shows_what_it_found(finished):
    result = json.loads((finished / "result.json").read_text())
    page = shown(finished)
    assert "done" in page
    assert result["indices"] in page


def test_a_running_search_shows_how_far_it_is(finished, tmp_path):
    running = tmp_path / "running"
    shutil.copytree(finished, running)
    (running / "result.json").unlink()
    steps = json.loads((finished / "params.json").read_text())["steps"]
    assert f"{steps} of {steps}" in shown(running)


def test_a_directory_without_a_search_says_so_in_its_row(finished, tmp_path):
    page = shown(tmp_path, finished)
    assert "cannot read" in page and "done" in page


def test_the_command_ends_when_the_searches_have(finished, capsys):
    assert main(["analyze", f"--dirname={finished}", "--watch"]) == 0
    assert "done" in capsys.readouterr().out


def test_a_sparkline_rises_and_falls_with_the_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == SPARKS
    assert sparkline([]) == ""
    assert len(sparkline(range(1000))) == 40
    assert set(sparkline([2.0] * 5)) == {SPARKS[0]}
