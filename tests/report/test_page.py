"""The page about runs: everything in one file, nothing from elsewhere, nothing unescaped; and in a browser."""

import dataclasses
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from support.jobs import TINY
from tunas import InputError, SearchConfig, TrainConfig, get_space, search, train
from tunas.cli.flags import parsed
from tunas.export.directory import ABOUT, about_bytes
from tunas.report.page import write_page
from tunas.study.config import StudyConfig
from tunas.study.rank import rank
from tunas.study.study import RANDOM, RANDOM_CSV, SEARCHED_CSV, STUDY, Trained, compared, write_rows

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
SIX_MEGABYTES = 6 * 2**20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    small = {"ssd": TINY, "image_size": 8, "device": "cpu", "num_workers": 0, "train_batch_size": 48, "log_every": 1}
    found = search(SearchConfig(checkpoint_dir=str(root / "search"), epochs=0.4, replicas=2, **small))
    indices = found.architecture.text
    train(TrainConfig(checkpoint_dir=str(root / "<script>alert(1)"), epochs=0.4, indices=indices, **small))
    several = SearchConfig(checkpoint_dir=str(root / "several"), epochs=0.4, replicas=2, **small)
    search(dataclasses.replace(several, rl_cost_model_target=(6000.0, 8000.0)))
    rank(str(root / "search"), str(written_study(root / "study")), examples=96, out=str(root / "search" / "rank.json"))
    written_export(root / "exports" / "onnxruntime<script>")
    written_design(root / "design", root / "exports")
    return [root / name for name in ("search", "<script>alert(1)", "several", "study", "exports", "design")]


def written_study(directory):
    space, rng = get_space(TINY), np.random.default_rng(0)
    entries = [(f"random-{place}", RANDOM, found) for place, found in enumerate(space.sample(rng, 8).tolist())]
    entries.append(("searched-0", "searched", space.sample(rng, 1)[0].tolist()))
    rows = [
        Trained(name, kind, space.architecture(found), 7e3 + place, 0.6 + 0.01 * place, 2.0, 10.0, 25.0 * (place == 8))
        for place, (name, kind, found) in enumerate(entries)
    ]
    directory.mkdir()
    figures = compared(rows) | {"ssd": space.name, "range": [6e3, 9e3], "unit": "MACs"}
    (directory / STUDY).write_text(json.dumps(figures))
    write_rows(directory / RANDOM_CSV, StudyConfig(ssd=TINY), rows[:-1], "MACs")
    write_rows(directory / SEARCHED_CSV, StudyConfig(ssd=TINY), rows[-1:], "MACs")
    return directory


def written_design(directory, exports):
    comparison = {"random": {"mean": 0.85, "count": 3}, "searched": {"mean": 0.87, "count": 1}}
    row = {"name": "small", "target": 7e3, "predicted": 7.1e3, "measured": 0.5, "quality": 0.9, "file_quality": 0.89,
           "comparison": comparison, "indices": "0:1", "complaint": None}  # fmt: skip
    document = {"rows": [row], "unit": "MACs", "quality_name": "accuracy", "ssd": TINY, "split": "test",
                "seconds": 90.0, "other_device": None}  # fmt: skip
    shutil.copytree(exports, directory / "export" / "small")
    (directory / "outcome.json").write_text(json.dumps(document))


def written_export(directory):
    check = {"passed": False, "complaint": "it is slow & <b>wrong</b>", "accuracy": 0.7, "torch_accuracy": 0.9,
             "agreement": 0.75, "images": 64, "split": "test"}  # fmt: skip
    document = {"check": check, "latency": {"milliseconds": 1.5, "device": "a CPU"}, "predicted_cost": None,
                "files": {"model.onnx": {"bytes": 2**20}}, "ssd": TINY, "indices": "0", "image_size": 8,
                "parameters": 1234}  # fmt: skip
    directory.mkdir(parents=True)
    (directory / ABOUT).write_bytes(about_bytes(document))


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
    assert "<script>alert" not in page.read_text() and "<b>wrong" not in page.read_text()
    assert "&lt;script&gt;alert(1)" in own_text(page) and "&lt;b&gt;wrong" in own_text(page)


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


def test_a_search_for_several_targets_shows_a_frontier_and_a_network_for_each(page, runs):
    found = json.loads(page.with_suffix(".json").read_text())[str(runs[2])]
    targets = json.loads((runs[2] / "result.json").read_text())["targets"]
    assert [row["architecture"] for row in found["The frontier"]] == [target["indices"] for target in targets]
    assert {"The architecture (6000 MACs)", "What the controller learned (8000 MACs)"} <= set(found)
    config = parsed(SearchConfig, found["The same again"][2:], "tunas search")
    assert config.rl_cost_model_target == (6000.0, 8000.0)


def test_a_study_a_ranking_and_exports_are_shown_with_their_figures(page, runs):
    numbers = json.loads(page.with_suffix(".json").read_text())
    study = numbers[str(runs[3])]
    assert study["Searched against random"] == json.loads((runs[3] / STUDY).read_text())
    assert len(study["Every architecture"]) == 9
    ranking = json.loads((runs[0] / "rank.json").read_text())
    assert numbers[str(runs[0])]["Is the ranking by shared weights real?"] == ranking
    exported = numbers[str(runs[4])]
    assert exported["Not as it should be"] == ["onnxruntime<script>: it is slow & <b>wrong</b>"]
    design = numbers[str(runs[5])]["What was designed"]
    assert design["rows"][0]["quality"] == 0.9 and str(runs[5] / "export" / "small") in numbers
    text = own_text(page)
    assert "3 random ones of the same cost" in text and "<td>0.8700</td>" in text
    assert "FAILED" in text and "75.00%" in text and "search = random trainings" in text


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    for path, said in (
        (tmp_path, "is no run directory"),
        (tmp_path / "notes.json", "nor a study or design that has ended"),
    ):
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
