"""Learning from mixed images and from teachers: a network's logits, live or kept."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from support.jobs import TINY
from tunas import InputError, SearchConfig, TrainConfig, search, train
from tunas.data import DataConfig, normalize, open_data
from tunas.recipe import logits as kept_logits
from tunas.recipe.choose import chosen_recipe
from tunas.recipe.config import RecipeConfig, TeachConfig
from tunas.recipe.lesson import Keyed, Lesson, Taught
from tunas.recipe.logits import INDEX, Logits, shard_path
from tunas.recipe.teach import teach
from tunas.recipe.teacher import LogitsTeacher, NetworkTeacher, open_teacher
from tunas.task.opening import open_task

CPU = torch.device("cpu")
INDICES = "1:1:1:1:1:1:0:1"
RUN = {"ssd": TINY, "image_size": 8, "train_batch_size": 128, "device": "cpu"}


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig(image_size=8))


@pytest.fixture(scope="module")
def taught_run(tmp_path_factory):
    """A short training, as a teacher."""
    directory = tmp_path_factory.mktemp("teacher") / "run"
    train(TrainConfig(**RUN, indices=INDICES, epochs=2, checkpoint_dir=str(directory), use_held_out_test_set=True))
    return directory


@pytest.fixture
def written(taught_run, tmp_path, monkeypatch):
    """Its logits, in several shards."""
    monkeypatch.setattr(kept_logits, "SHARD", 500)
    config = TeachConfig(
        image_size=8, teacher=str(taught_run), logits_dir=str(tmp_path / "logits"), views=2, device="cpu", seed=7
    )
    return config, teach(config)


def recipe(**flags):
    return chosen_recipe(RecipeConfig(**flags), 1_000, 8)


def lesson(task, teacher=None, **flags):
    return Lesson(task, recipe(**flags), teacher, temperature=2.0, weight=0.25)


# --- mixing


def test_mixed_labels_follow_mixed_pixels_and_the_seed_alone():
    task = open_task(TrainConfig(**RUN))
    images, labels = next(task.stream("train", 16, seed=0))
    mixing = lesson(task, mixup=1.0)
    inputs, targets = mixing.prepared(images, labels, seed=3)
    assert torch.allclose(targets.sum(1), torch.ones(16)) and targets.shape == (16, 10)
    again, _ = mixing.prepared(images, labels, seed=3)
    other, _ = mixing.prepared(images, labels, seed=4)
    assert torch.equal(inputs, again) and not torch.equal(inputs, other)
    share = targets[torch.arange(16), labels]
    partner = normalize(images).roll(1, 0)
    different = labels != labels.roll(1, 0)
    expected = share[:, None, None, None] * normalize(images) + (1 - share[:, None, None, None]) * partner
    assert torch.allclose(inputs[different], expected[different], atol=1e-5)


def test_a_lesson_without_mixing_or_teacher_is_the_task_s_own():
    task = open_task(TrainConfig(**RUN))
    images, labels = next(task.stream("train", 16, seed=0))
    inputs, targets = lesson(task).prepared(images, labels, seed=3)
    outputs = torch.randn(16, 10)
    assert torch.equal(inputs, task.prepare(images)) and torch.equal(targets, labels)
    late, labels_late = lesson(task, mixup=1.0).prepared(images, labels, seed=3, mixes=False)
    assert torch.equal(late, inputs) and torch.equal(labels_late, labels)
    assert torch.equal(lesson(task).loss(outputs, targets), task.loss(outputs, labels))


# --- a network that teaches


def test_the_loss_is_the_labels_and_the_teacher_s_in_their_shares():
    task = open_task(TrainConfig(**RUN))
    outputs, opinion, labels = torch.randn(6, 10), torch.randn(6, 10), torch.arange(6)
    found = lesson(task).loss(outputs, Taught(labels, opinion))
    p, q = (F.softmax(each / 2.0, 1) for each in (opinion, outputs))
    divergence = (p * (p.log() - q.log())).sum(1).mean() * 4.0
    assert found.item() == pytest.approx((0.75 * task.loss(outputs, labels) + 0.25 * divergence).item(), rel=1e-5)


class Means(nn.Module):
    """Mean of each channel, and how large the images are."""

    def forward(self, x):
        return torch.cat([x.mean((2, 3)), torch.full((len(x), 1), float(x.shape[2]))], 1)


def test_a_teacher_of_another_size_and_normalisation_sees_what_it_was_trained_on():
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    teacher = NetworkTeacher("means", Means(), 8, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    found = teacher.logits(normalize(images))
    expected = (images.float() / 255 - 0.5).div(0.5).mean((2, 3))
    assert torch.allclose(found[:, :3], expected, atol=0.05) and found[0, 3] == 16
    assert teacher.said == "images of 8 pixels are resized to 16 for the teacher means"
    assert NetworkTeacher("means", Means(), 8, 8).said == ""


def test_a_timm_model_with_a_checkpoint_teaches(data, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=10)
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    teacher = open_teacher("test_vit.r160_in1k", str(tmp_path / "teacher.safetensors"), data, CPU)
    images = torch.rand(2, 3, 160, 160)
    own = NetworkTeacher(
        "same", model.eval(), 160, 160, tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"])
    )
    teacher.is_resized = False
    assert torch.allclose(teacher.logits(images), own.logits(images))


def test_teachers_that_cannot_be_used_are_refused(data, tmp_path, taught_run):
    model = timm.create_model("test_vit.r160_in1k", pretrained=False, num_classes=12)
    save_file(model.state_dict(), tmp_path / "twelve.safetensors")
    with pytest.raises(InputError, match="tells 12 classes apart, the dataset digits has 10"):
        open_teacher("test_vit.r160_in1k", str(tmp_path / "twelve.safetensors"), data, CPU)
    with pytest.raises(InputError, match="needs weights"):
        open_teacher("test_vit.r160_in1k", None, data, CPU)
    with pytest.raises(InputError, match="neither a directory"):
        open_teacher("no_such_model", None, data, CPU)
    with pytest.raises(InputError, match="holds neither a training"):
        open_teacher(str(tmp_path), None, data, CPU)
    described = json.loads((taught_run / "data.json").read_text())
    with pytest.raises(InputError, match="which are not the 10 of other"):
        classes = SimpleNamespace(name="other", class_names=("x", *described["class_names"][1:]), num_classes=10)
        open_teacher(str(taught_run), None, classes, CPU)


# --- kept logits


def test_kept_logits_equal_live_ones_where_the_views_are_equal(taught_run, written, data):
    config, lecture = written
    assert (lecture.examples, lecture.views, lecture.shards, lecture.written) == (1437, 2, 6, 6)
    live = open_teacher(str(taught_run), None, data, CPU)
    kept = open_teacher(config.logits_dir, None, data, CPU)
    assert isinstance(kept, LogitsTeacher)
    task = open_task(TrainConfig(**RUN))
    taught = Lesson(task, dataclasses.replace(recipe(), augmentation=kept.kept.augmentation), kept)
    for split, step in (("train", 0), ("full_train", 40)):
        (images, targets) = next(taught.stream(split, 64, seed=3, start_step=step))
        assert isinstance(targets, Keyed)
        inputs, targets = taught.prepared(images, targets, seed=0)
        assert torch.allclose(targets.logits, live.logits(inputs), atol=1e-4)
    assert {0, 1} == {int(e) % 2 for e in next(data.keys_stream("train", 1077, seed=0, start_step=0))[0]} | {1}


def test_what_is_there_is_not_written_again_and_what_is_damaged_is(written):
    config, lecture = written
    paths = [shard_path(lecture.directory, number) for number in range(lecture.shards)]
    before = [path.read_bytes() for path in paths]
    paths[1].unlink()
    paths[4].write_bytes(before[4][:-4] + b"\0\0\0\1")
    assert teach(config).written == 2
    assert [path.read_bytes() for path in paths] == before


def test_damaged_logits_are_refused_by_a_training(written, data):
    lecture = written[1]
    path = shard_path(lecture.directory, 2)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(InputError, match="run the same `tunas teach` again"):
        Logits.opened(lecture.directory, data)


def test_a_dataset_with_the_same_names_and_other_images_is_another_one(tmp_path):
    def fingerprint(where: str, shades: tuple[int, int]) -> str:
        for label, shade in zip("ab", shades, strict=True):
            (tmp_path / where / "train" / label).mkdir(parents=True)
            for number in range(4):
                image = Image.fromarray(np.full((8, 8, 3), shade + number, np.uint8))
                image.save(tmp_path / where / "train" / label / f"{number}.png")
        return kept_logits.fingerprint_of(open_data(DataConfig(dataset_dir=str(tmp_path / where), image_size=8)))

    assert fingerprint("here", (10, 90)) == fingerprint("copied", (10, 90)) != fingerprint("other", (10, 91))


def test_logits_of_another_dataset_or_size_are_refused(written, data):
    lecture = written[1]
    with pytest.raises(InputError, match="are of images of 8 pixels, these are 16"):
        Logits.opened(lecture.directory, open_data(DataConfig(image_size=16)))
    index = json.loads((lecture.directory / INDEX).read_text())
    (lecture.directory / INDEX).write_text(json.dumps({**index, "fingerprint": "0"}))
    with pytest.raises(InputError, match="are of another dataset"):
        Logits.opened(lecture.directory, data)


def test_a_directory_of_other_logits_is_not_added_to(written):
    config, _ = written
    with pytest.raises(InputError, match="holds other logits"):
        teach(dataclasses.replace(config, seed=8))
    with pytest.raises(InputError, match="holds logits already"):
        teach(dataclasses.replace(config, teacher=config.logits_dir))


def test_logits_that_were_begun_before_views_could_be_stretched_go_on(written, data):
    config, lecture = written
    index = json.loads((lecture.directory / INDEX).read_text())
    del index["augmentation"]["elastic"]
    (lecture.directory / INDEX).write_text(json.dumps(index))
    for path in lecture.directory.glob("*.safetensors"):
        path.unlink()
    assert teach(config).written == lecture.shards == teach(dataclasses.replace(config, elastic=0.0)).shards
    assert Logits.opened(lecture.directory, data).augmentation.elastic == 0


@pytest.mark.parametrize(
    "flags",
    [{"hflip": 0.5}, {"augment": "published"}, {"mixup": 0.5}, {"plain_fraction": 0.5, "randaugment": 5}],
)
def test_flags_that_would_change_the_views_of_logits_are_refused(written, tmp_path, flags):
    config, _ = written
    with pytest.raises(InputError, match=f"{next(iter(flags))}"):
        train(
            TrainConfig(
                **RUN, indices=INDICES, teacher=config.logits_dir, epochs=1, checkpoint_dir=str(tmp_path / "r"), **flags
            )
        )


@pytest.mark.parametrize("kept", [False, True])
def test_searches_and_trainings_learn_from_a_teacher_and_say_so(taught_run, written, tmp_path, kept):
    teacher = written[0].logits_dir if kept else str(taught_run)
    settings = {**RUN, "teacher": teacher, "epochs": 1, "teacher_weight": 1.0}
    result = train(TrainConfig(**settings, indices=INDICES, checkpoint_dir=str(tmp_path / "train")))
    assert json.loads((tmp_path / "train" / "params.json").read_text())["teacher"] == teacher
    alone = {**settings, "teacher": None}
    with pytest.raises(InputError, match="--teacher_weight means nothing without --teacher"):
        train(TrainConfig(**alone, indices=INDICES, checkpoint_dir=str(tmp_path / "plain")))
    del alone["teacher_weight"]
    plain = train(TrainConfig(**alone, indices=INDICES, checkpoint_dir=str(tmp_path / "plain")))
    assert result.evaluation.metrics["loss"] != plain.evaluation.metrics["loss"]
    found = search(SearchConfig(**settings, checkpoint_dir=str(tmp_path / "search")))
    assert found.architecture.space.num_choices == len(found.architecture.indices)


def test_a_checkpoint_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="name the model with teacher"):
        train(TrainConfig(**RUN, indices=INDICES, teacher_checkpoint="x.pth", checkpoint_dir=str(tmp_path / "r")))
    assert not np.any([path.name == "params.json" for path in tmp_path.rglob("*")])
