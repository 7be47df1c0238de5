"""What a training refuses before its first step."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tunas
from support.jobs import TINY
from tunas import InputError, TrainConfig
from tunas.train.modes import EVALUATION, MEANT_FOR, TRAINING

QUICK = TrainConfig(
    ssd=TINY,
    indices="1:1:1:1:1:1:0:1",
    image_size=16,
    num_workers=0,
    device="cpu",
    epochs=1,
    train_batch_size=32,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate("ab"):
        (tmp_path / "d/train" / name).mkdir(parents=True)
        for number in range(64):
            pixels = np.full((16, 16, 3), 60 + 120 * label, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "d/train" / name / f"{number}.png")
    return tmp_path / "d"


def config(folder: Path, **settings: object) -> TrainConfig:
    run = str(folder.parent / "run")
    return dataclasses.replace(QUICK, **{"dataset_dir": str(folder), "checkpoint_dir": run, **settings})


def refused(folder: Path, sentence: str, **settings: object) -> None:
    with pytest.raises(InputError, match=sentence):
        tunas.train(config(folder, **settings))
    assert not list(folder.parent.glob("run/*.json")) and not list(folder.parent.glob("run/checkpoint*"))


def test_a_cost_model_that_is_not_there_is_refused_before_the_first_step(folder: Path) -> None:
    refused(folder, "there is no cost model 'phone.json'", cost_model="phone.json")


def test_an_evaluation_image_that_cannot_be_decoded_is_refused_before_the_first_step(folder: Path) -> None:
    for place in folder.glob("train/*/*.png"):
        if int(place.stem) % 2:  # some of them are held out
            place.write_bytes(b"no image")
    refused(folder, "cannot read image .*png", on_bad_image="fail")


def test_a_multiplier_of_the_widths_has_no_cost_model(folder: Path) -> None:
    refused(folder, "--cost_model means nothing with --filters_multiplier", cost_model="macs", filters_multiplier=2.0)


def test_parts_of_one_image_on_maps_of_one_pixel_are_refused_with_the_setting_to_change(folder: Path) -> None:
    network = {"ssd": "mnasnet_b1", "indices": "", "image_size": 32}
    for batch, parts in ((64, 64), (33, 17)):
        settings = {"train_batch_size": batch, "gradient_accumulation": parts, **network}
        refused(folder, "leaves one image for a part, .* give a smaller --gradient_accumulation", **settings)


def test_compiling_needs_a_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    refused(folder, r"--compile needs a C\+\+ compiler, none is on PATH", compile=True)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"checkpoint": "/no/such.pth"}, "--checkpoint means nothing with --mode=train_and_eval; it names the weights"),
        (
            {"mode": "train", "timm_model": "mnasnet_100"},
            "--timm_model means nothing with --mode=train and without --init_from",
        ),
        ({"mode": "train", "eval_batch_size": 7}, "--eval_batch_size means nothing with --mode=train"),
        (
            {"mode": "eval", "timm_model": "mnasnet_100", "epochs": None},
            "--timm_model means nothing without",
        ),
        (
            {"mode": "eval", "checkpoint": "w.pth", "train_batch_size": None},
            "--epochs only matters in a training, not with --mode=eval; leave it out",
        ),
        (
            {"mode": "eval", "checkpoint": "w.pth", "train_batch_size": None, "epochs": None, "hflip": 0.5},
            "--hflip only matters in a training, not with --mode=eval; leave it out",
        ),
        ({"dataset_dir": None, "train_cache_size": 300}, "--train_cache_size means nothing to the embedded digits"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(folder: Path, settings: dict[str, object], sentence: str) -> None:
    refused(folder, sentence, **settings)


def test_every_flag_of_a_mode_is_one_and_no_mode_is_left_out() -> None:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    assert MEANT_FOR.keys() <= fields
    assert all(modes <= TRAINING | EVALUATION for modes in MEANT_FOR.values())


def test_an_evaluation_may_repeat_what_its_run_was_told_and_nothing_else(folder: Path) -> None:
    trained = tunas.train(config(folder, mode="train"))
    evaluated = tunas.train(config(folder, mode="eval"))
    assert evaluated.evaluation is not None and trained.evaluation is None
    with pytest.raises(InputError, match=r"--epochs only matters in a training, .* was not trained with that"):
        tunas.train(config(folder, mode="eval", epochs=2))


def test_weights_of_a_run_are_not_scored_on_other_classes(folder: Path) -> None:
    tunas.train(config(folder, mode="train"))
    weights = max((folder.parent / "run").glob("checkpoint-*"))
    (folder / "train/b").rename(folder / "train/c")
    scored = {"mode": "eval", "checkpoint": str(weights), "checkpoint_dir": str(folder.parent / "scored")}
    settings = {**scored, "epochs": None, "train_batch_size": None}
    with pytest.raises(InputError, match=r"class 1 was 'b' and is now 'c' \(2 classes then, 2 now\)"):
        tunas.train(config(folder, **settings))
    (folder / "train/c").rename(folder / "train/b")
    assert tunas.train(config(folder, **settings)).evaluation.examples > 0


def test_what_does_not_change_what_was_computed_may_change(folder: Path) -> None:
    tunas.train(config(folder))
    moved = folder.parent / "moved"
    shutil.move(folder, moved)
    changed = dataclasses.replace(
        config(folder, cost_model="macs", eval_batch_size=7, on_bad_image="skip"), dataset_dir=str(moved)
    )
    assert tunas.train(changed).document["cost_unit"] == "MACs"
    first, second = map(json.loads, (folder.parent / "run/history.jsonl").read_text().splitlines())
    assert first["changes"] == {} and second["changes"] == {"on_bad_image": {"was": "fail", "is": "skip"}}
    with pytest.raises(InputError, match=r"label_smoothing was .* and is now"):
        tunas.train(dataclasses.replace(changed, label_smoothing=0.2))
