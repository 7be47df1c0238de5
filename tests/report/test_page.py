"""The page about runs: everything in one file, nothing from elsewhere, nothing unescaped; and in a browser."""

import json
import re
import shutil
import subprocess

import pytest

from jobs import TINY
from tunas import SearchConfig, TrainConfig, search, train
from tunas.errors import InputError
from tunas.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
SIX_MEGABYTES = 6 * 2**20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    small = {"ssd": TINY, "image_size": 8, "device": "cpu", "num_workers": 0, "train_batch_size": 48, "log_every": 1}
    found = search(SearchConfig(checkpoint_dir=str(root / "search"), epochs=0.4, replicas=2, **small))
    indices = found.architecture.text
    train(TrainConfig(checkpoint_dir=str(root / "<script>alert(1)"), epochs=0.4, indices=indices, **small))
    return [root / "search", root / "<script>alert(1)"]


@pytest.fixture(scope="module")
def page(runs):
    return write_page(runs, runs[0].parent / "page" / "report.html")


def own_text(page):
    """Without scripts."""
    return re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_the_page_is_one_file_of_bounded_size_that_asks_for_nothing(page):
    assert page.stat().st_size < SIX_MEGABYTES
    assert not re.search(r"""(src|href)=["'](?!data:)""", own_text(page))


def test_names_are_escaped(page):
    assert "<script>alert" not in page.read_text()
    assert "&lt;script&gt;alert(1)" in own_text(page)


def test_it_shows_the_search_the_decisions_and_the_architecture(page):
    text = page.read_text()
    for title in (
        "Reward",
        "Entropy of the controller",
        "What the controller learned",
        "The architecture",
        "Side by side",
    ):
        assert title in text
    assert "tunas search --" in text and "tunas train --" in text


def test_the_numbers_beside_it_are_those_of_the_run(page, runs):
    numbers = json.loads(page.with_suffix(".json").read_text())
    result = json.loads((runs[0] / "result.json").read_text())
    found = numbers[str(runs[0])]
    assert found["Result"]["architecture"] == result["indices"]
    probabilities = found["What the controller learned"]
    assert all(abs(sum(row) - 1) < 1e-2 for row in probabilities.values())
    where = next(value for title, value in found.items() if title.startswith("Where the"))
    assert sum(where.values()) == pytest.approx(result["cost"])


def test_the_printed_command_has_what_the_run_was_told(page, runs):
    numbers = json.loads(page.with_suffix(".json").read_text())
    command = numbers[str(runs[0])]["The same again"]
    assert command[:2] == ["tunas", "search"]
    assert {f"--ssd={TINY}", "--image_size=8", "--epochs=0.4", "--replicas=2", "--train_batch_size=48"} <= set(command)


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    for path, said in ((tmp_path, "holds no run"), (tmp_path / "notes.json", "neither a run directory")):
        with pytest.raises(InputError, match=said):
            write_page([path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_it_without_an_error_and_without_the_network(page, tmp_path):
    picture = tmp_path / "page.png"
    run = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--log-level=0",
         "--virtual-time-budget=10000", "--window-size=400,3000", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert run.stdout.count('class="main-svg"') > 5
    assert picture.read_bytes().startswith(b"\x89PNG")
