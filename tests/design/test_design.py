"""The whole way on a space small enough for a test: the same after a kill, refused early, and nothing done twice."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from support.jobs import OWN_PROGRAM, TINY, killed_and_restarted
from tunas import CostModel, DesignConfig, InputError, design, get_space
from tunas.cli import main
from tunas.study import jobs

SMALL = DesignConfig(
    ssd=TINY,
    cost_model="params",
    latency=(1500.0,),
    device="torch-cpu",
    search=("epochs=1", "train_batch_size=96", "replicas=4"),
    train=("epochs=0.8", "train_batch_size=512", "hflip=0"),
    tolerance=0.1,
    image_size=16,
    compute="cpu",
)


def words(config: DesignConfig) -> list[str]:
    """The command line that says a configuration."""
    given = [field for field in dataclasses.fields(config) if getattr(config, field.name) != field.default]
    said = []
    for field in given:
        value = getattr(config, field.name)
        said += [f"--{field.name}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return ["design", *said]


@pytest.fixture(scope="module", autouse=True)
def little_is_timed():
    """A plan times steps for some seconds; here for as few steps as it can."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tunas.design.pace.LIMIT", 0.0)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("design") / "out"
    config = dataclasses.replace(SMALL, out=str(out), latency=(1500.0, 3000.0), candidates=2, random=1, seeds=2)
    config = dataclasses.replace(config, init_from="search")
    return config, design(config)


def result(out: str, name: str) -> dict:
    return json.loads(Path(out, name, "result.json").read_text())


def test_each_target_has_a_row_with_what_was_asked_predicted_and_found(finished):
    config, found = finished
    space = get_space(TINY)
    assert [row.target for row in found.rows] == [1500, 3000]
    for row in found.rows:
        trained = result(config.out, f"train/{row.name}")
        assert row.predicted == trained["parameters"] == trained["predicted_cost"]
        assert row.quality == trained["accuracy"] and row.architecture == space.architecture(trained["indices"])
        about = json.loads((row.file / "model.json").read_text())
        assert row.file_quality == about["check"]["accuracy"] == pytest.approx(row.quality, abs=0.01)
        assert row.measured > 0 and trained["split"] == "test"
        assert trained["init_from"] == f"{config.out}/search"
    assert found.other_device == "the cost is parameters, not time"


def test_winners_are_compared_with_random_architectures_over_seeds(finished):
    config, found = finished
    for row in found.rows:
        mine = [result(config.out, f"train/{row.name}{seed}")["accuracy"] for seed in ("", "-seed-1")]
        random = [result(config.out, f"train/{row.name}-random-0{seed}") for seed in ("", "-seed-1")]
        searched = row.comparison["searched"]
        assert searched["mean"] == pytest.approx(sum(mine) / 2)
        assert searched["seed_spread"] == pytest.approx(abs(mine[0] - mine[1]) / 2**0.5)
        assert row.comparison["random"]["mean"] == pytest.approx(sum(r["accuracy"] for r in random) / 2)
        assert all(abs(r["predicted_cost"] / row.target - 1) <= 0.02 for r in random)


def test_the_candidate_that_is_best_on_held_out_examples_is_the_one_that_ships(finished):
    config, found = finished
    for row in found.rows:
        paths = sorted(Path(config.out, "train").glob(f"{row.name}-candidate-*"))
        tried = [json.loads((path / "result.json").read_text()) for path in paths]
        assert all(one["split"] == "valid" and abs(one["predicted_cost"] / row.target - 1) <= 0.1 for one in tried)
        assert len({one["indices"] for one in tried}) == len(tried)
        best = max(tried, key=lambda one: one["accuracy"])
        assert row.architecture.text == best["indices"]


def test_what_is_finished_is_not_done_again(finished, monkeypatch, capsys):
    config, found = finished
    monkeypatch.setattr(jobs, "run_one", lambda *_: pytest.fail("ran again"))
    assert main(words(config)) == 0
    page = capsys.readouterr()
    assert page.err.count("done already") == 5
    for row in found.rows:
        assert f"indices = {row.architecture.text}" in page.out and str(row.file) in page.out
    assert "against random architectures of the same cost" in page.out


def test_more_random_architectures_are_added_to_a_finished_design(finished, monkeypatch):
    config, _ = finished
    ran = []
    monkeypatch.setattr(jobs, "run_one", lambda run, task: ran.append(Path(run.checkpoint_dir).name))
    with pytest.raises(InputError):  # nothing was trained, so there is nothing to read back
        design(dataclasses.replace(config, random=2))
    assert ran == [f"{t}-random-1{seed}" for t in ("1500", "3000") for seed in ("", "-seed-1")]


def test_another_latency_before_the_search_has_begun_is_planned_anew(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, out=str(tmp_path / "out"))
    monkeypatch.setattr(jobs, "run_one", lambda *_: None)
    for latency in (1500.0, 1600.0):
        with pytest.raises(InputError, match=r"cannot read .*search/result.json"):  # as nothing was searched
            design(dataclasses.replace(config, latency=(latency,)))
    (tmp_path / "out/search").mkdir()
    with pytest.raises(InputError, match=r"other settings \(latency was \[1600.0\] and is now \[1700.0\]\)"):
        design(dataclasses.replace(config, latency=(1700.0,)))


def test_another_design_in_the_same_directory_is_refused(finished):
    config, _ = finished
    with pytest.raises(InputError, match=r"other settings \(latency was .*; seed was 0 and is now 1\)"):
        design(dataclasses.replace(config, latency=(1500.0,), seed=1))


def test_the_device_is_measured_and_the_winner_timed_beside_its_networks(tmp_path, capsys):
    config = dataclasses.replace(
        SMALL,
        out=str(tmp_path / "out"),
        cost_model=None,
        latency=(),
        measure=("num_architectures=32", "rounds=2", "repeats=1", "warmup=1"),
        force=True,
    )
    found = design(config)
    (row,) = found.rows
    assert found.other_device is None and found.unit == "ms" and row.at_speed_of_then > 0
    page = capsys.readouterr().out
    assert "held-out mean error" in page and "32 networks to measure: as asked for" in page
    path = tmp_path / "out/cost_model.json"
    model = CostModel.load(path, get_space(TINY))
    assert model.provenance["image_size"] == 16 and model.provenance["samples"] == 32
    provenance = {**model.provenance, "held_out_mean_relative_error": 0.3}
    CostModel(model.space, model.bias, model.terms, model.unit, model.device, provenance).save(path)
    with pytest.raises(InputError, match=r"too noisy to search for: .* 30.0% off .*--force"):
        design(dataclasses.replace(config, force=False))


@pytest.mark.slow
def test_a_design_that_is_killed_goes_on_to_the_same_result(finished, tmp_path):
    steps = ("epochs=1", "train_batch_size=128", "hflip=0")
    config = dataclasses.replace(SMALL, out=str(tmp_path / "out"), train=steps)
    killed_and_restarted(words(config), kills=3, seed=1, longest=6.0)
    whole = dataclasses.replace(config, out=str(tmp_path / "whole"))
    design(whole)
    for name in ("search", "train/1500"):
        first, second = result(config.out, name), result(whole.out, name)
        assert {**first, "checksum": "", "init_from": None} == {**second, "checksum": "", "init_from": None}


def test_a_model_and_a_task_of_ones_own_are_designed_with_and_measured(tmp_path, capsys):
    own = {"ssd": f"{OWN_PROGRAM}:space", "task": f"{OWN_PROGRAM}:task", "image_size": None, "train": ("epochs=1",)}
    known = dataclasses.replace(SMALL, **own, latency=(160.0,), random=1, out=str(tmp_path / "known"), tolerance=0.2)
    (row,) = design(known).rows
    assert row.predicted == 161 and row.file is None and row.quality == result(known.out, "train/160")["explained"]
    activation = ("relu", "gelu")[row.architecture.indices[1]]
    assert f"width 16, activation {activation}" in (tmp_path / "known/report.html").read_text()
    assert main(words(known)) == 0 and f"{row.quality:.4f}" in capsys.readouterr().out
    measured = dataclasses.replace(known, cost_model=None, latency=(), random=0, measure=("num_architectures=6",))
    with pytest.raises(InputError, match="num_architectures=6 are too few to fit"):
        design(dataclasses.replace(measured, out=str(tmp_path / "measured")))


def test_a_plan_writes_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*words(dataclasses.replace(SMALL, out=str(out), random=3)), "--plan"]) == 0
    page = capsys.readouterr().out
    assert not out.exists()
    assert "the winner and 3 random architectures" in page and "together" in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latency": (5.0, 5.0)}, "--latency=5 is given twice"),
        ({"latency": (10.0,)}, r"no architecture of .*tiny costs 10 parameters; they cost 810 parameters to 4386"),
        ({"measure": ("rounds=3",)}, "--cost_model prices without"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"random": -1}, "random must be 0 or more"),
        ({"train": ("indices=0:1",)}, "indices is set already"),
        ({"train": ("epochs=0.001",)}, "are less than one batch"),
        ({"search": ("epochs=-1",)}, "epochs must be a positive number"),
        ({"latency": (874.0,), "random": 1}, "found 0 of 1 architectures of"),
        ({"search": ("epoch=3",)}, "give a flag of `tunas search`"),
        ({"device": "torch-gpu"}, "unknown device 'torch-gpu'"),
        ({"cost_model": None, "measure": ("num_architectures=9",)}, "num_architectures=9 are too few to fit"),
        ({"cost_model": None, "measure": ("num_architectures=many",)}, "num_architectures=many: give how many"),
        ({"ssd": "mobilenet_v2"}, "nothing to search"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(tmp_path, changes, said):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=said):
        design(dataclasses.replace(SMALL, **{"out": str(out)} | changes))
    assert not out.exists()


def test_too_few_minutes_are_refused_and_no_decoded_images_stay(tmp_path):
    for split, label, number in itertools.product(("train", "test"), ("dark", "light"), range(20)):
        picture = tmp_path / "photos" / split / label / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 16), 10 * number + 40 * (label == "light")).save(picture)
    out = tmp_path / "out"
    small = {"search": ("train_batch_size=16", "replicas=4"), "train": ("train_batch_size=16", "hflip=0")}
    told = dataclasses.replace(SMALL, **small, out=str(out), dataset_dir=str(tmp_path / "photos"), num_workers=0)
    with pytest.raises(InputError, match=r"--minutes=0.001 is not enough: .* about [\d.]+ minutes here"):
        design(dataclasses.replace(told, latency=(1400.0,), minutes=0.001))
    assert not out.exists()


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear …")
    with pytest.raises(InputError, match=r"is not empty and holds no design.json \(but letter.txt\)"):
        design(dataclasses.replace(SMALL, out=str(tmp_path)))


def test_a_full_disk_is_seen_in_the_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(InputError, match=r"has 1 kB free, and the design writes about \d+ MB"):
        design(dataclasses.replace(SMALL, out=str(tmp_path / "out")))
