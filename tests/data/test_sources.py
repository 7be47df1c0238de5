"""Every layout gives the same pixels, labels and splits, and says clearly what is wrong with what it cannot read."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from support.rendered import (
    CLASS_NAMES,
    TRAIN_PER_CLASS,
    WRITERS,
    Rendered,
    add_member,
    everything,
    opened,
    write_folder,
    write_tfds,
    write_webdataset,
)
from tunas import InputError
from tunas.data import DataConfig, open_data
from tunas.data.webdataset import expand_braces

LAYOUTS = tuple(WRITERS)
TOTAL = TRAIN_PER_CLASS * len(CLASS_NAMES)


def names_file(path: Path, pictures: Rendered, count: int = 5) -> str:
    path.write_text("".join(f"{each.name}\n" for each in pictures.train[:: TOTAL // count]))
    return str(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised(datasets, layout):
    data = opened(datasets[layout, "PNG"])
    assert data.class_names == CLASS_NAMES and data.num_classes == 4 and data.image_size == 32
    valid = 2 * len(CLASS_NAMES)
    assert {split: data.size(split) for split in data.splits} == {
        "train": TOTAL - valid,
        "valid": valid,
        "full_train": TOTAL,
        "test": 16,
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_all_layouts_give_the_same(datasets, kind, pictures, tmp_path):
    listed = names_file(tmp_path / "valid.txt", pictures)
    data = {layout: opened(datasets[layout, kind], valid_filenames=listed) for layout in LAYOUTS}
    for split in ("train", "valid", "full_train", "test"):
        images, labels = everything(data["folder"], split)
        streamed = [
            next(each.stream(split, 9, seed=3, start_step=4, augment=split == "train")) for each in data.values()
        ]
        for layout, (other_images, other_labels) in zip(LAYOUTS, streamed, strict=True):
            assert torch.equal(other_images, streamed[0][0]) and torch.equal(other_labels, streamed[0][1])
            again, same_labels = everything(data[layout], split)
            assert torch.equal(again, images) and torch.equal(same_labels, labels)


def test_labels_belong_to_their_pictures(datasets, pictures):
    images, labels = everything(opened(datasets["folder", "PNG"]), "test")
    assert labels.tolist() == [each.label for each in pictures.test]
    assert len({image.numpy().tobytes() for image in images}) == 16


def test_tfds_holds_out_its_first_examples_of_every_class(datasets, pictures):
    data = opened(datasets["tfds", "PNG"])
    images, labels = everything(data, "full_train")
    first = torch.cat([torch.nonzero(labels == label)[:2, 0] for label in range(4)])
    rest = torch.tensor([k for k in range(TOTAL) if k not in first.tolist()])
    assert torch.equal(everything(data, "valid")[0], images[first])
    assert torch.equal(everything(data, "train")[0], images[rest])


def test_the_choice_of_a_folder_and_of_shards_is_the_same(datasets):
    held_out = [everything(opened(datasets[layout, "PNG"]), "valid")[1].tolist() for layout in ("folder", "webdataset")]
    assert held_out[0] == held_out[1] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_no_test_images_is_no_error_until_they_are_asked_for(tmp_path, pictures):
    write_folder(tmp_path, Rendered(train=pictures.train))
    data = opened(tmp_path)
    with pytest.raises(InputError, match="no split 'test'; it has train, valid, full_train"):
        data.size("test")


def test_the_run_directory_names_the_classes(datasets, tmp_path):
    config = DataConfig(dataset_dir=str(datasets["folder", "PNG"]), image_size=16)
    open_data(config, run_dir=tmp_path / "run")
    described = json.loads((tmp_path / "run" / "data.json").read_text())
    assert described["class_names"] == list(CLASS_NAMES) and described["num_classes"] == 4
    assert described["sizes"] == {"train": 72, "valid": 8, "full_train": 80, "test": 16}


def test_a_flat_validation_directory_is_explained(tmp_path, pictures):
    write_folder(tmp_path, Rendered(train=pictures.train))
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "a.png").write_bytes(pictures.test[0].encoded)
    data = opened(tmp_path)  # a search that never reads the test set is not stopped
    with pytest.raises(InputError, match=r"no split 'test'; .*no class directories; move each into val/<class>/"):
        data.size("test")


def test_a_class_of_val_alone_is_refused(tmp_path, pictures):
    write_folder(tmp_path, pictures)
    (tmp_path / "val" / "zebra").mkdir()
    with pytest.raises(InputError, match="1 classes that the training images have not, such as 'zebra'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"valid_fraction": 0.1}, "splits of the embedded digits are fixed"),
        ({"dataset_dir": "/tmp", "valid_fraction": 0.1, "valid_filenames": "x"}, "leave out valid_fraction"),
        ({"dataset_dir": "/nowhere"}, "/nowhere is not a directory"),
        ({"data_format": "folder"}, "folder needs a dataset_dir"),
        ({"data_format": "digits", "dataset_dir": "/tmp"}, "lie in no directory"),
        ({"valid_filenames": "x.txt"}, "digits have no file names"),
        ({"image_size": 0}, "at least 1, not 0"),
        ({"num_workers": -1}, "at least 0, not -1"),
        ({"dataset_dir": "/tmp", "train_cache_size": 100}, "at least the image size, 224, not 100"),
        ({"dataset_dir": "gs://bucket/x", "data_format": "folder"}, "must lie on this machine"),
        ({"dataset_dir": "a-{0..3.tar"}, "a brace is not closed"),
    ],
)
def test_settings_that_fit_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        open_data(DataConfig(**settings))


def test_a_home_directory_is_found(datasets, monkeypatch):
    monkeypatch.setenv("HOME", str(datasets["folder", "PNG"].parent))
    assert opened("~/folder").size("full_train") == TOTAL


def test_an_empty_directory_names_the_layouts(tmp_path):
    with pytest.raises(
        InputError, match=r"holds no dataset: neither train/<class>/ .* nor dataset_info.json .* nor \*.tar .* no files"
    ):
        opened(tmp_path)


# --- TFDS


def test_tfds_is_found_at_each_level(datasets):
    root = datasets["tfds", "PNG"]
    assert {opened(path).name for path in (root, root / "shapes", root / "shapes" / "1.0.0")} == {"shapes/1.0.0"}


def test_the_newest_version_is_read(tmp_path, pictures):
    root = write_tfds(tmp_path, pictures)
    for version in ("1.10.0", "1.9.0"):
        shutil.copytree(root / "shapes" / "1.0.0", root / "shapes" / version)
        info = root / "shapes" / version / "dataset_info.json"
        info.write_text(info.read_text().replace('"1.0.0"', f'"{version}"'))
    assert opened(root).name == "shapes/1.10.0"


def test_several_tfds_datasets_are_not_guessed_between(tmp_path, pictures):
    root = write_tfds(tmp_path, pictures)
    shutil.copytree(root / "shapes", root / "others")
    with pytest.raises(InputError, match="holds several datasets"):
        opened(root)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": None}, "lists no splits"),
        ({"splits": [{"name": "test", "shardLengths": ["3"]}]}, "has no split 'train'; it has test"),
        ({"splits": [{"name": "train"}]}, "does not give the shard lengths of its split 'train'"),
        ({"fileFormat": "riegeli"}, "stored as riegeli; only tfrecord and array_record can be read"),
        (
            {"splits": [{"name": "train", "shardLengths": ["26", "27", "26"]}]},
            "holds 27 records, but dataset_info.json says 26",
        ),
        ({"splits": [{"name": "train", "shardLengths": ["3"] * 4}]}, "cannot read .*-00000-of-00004: No such file"),
        (
            {"splits": [{"name": "train", "shardLengths": ["3"], "filepathTemplate": "../{SPLIT}"}]},
            "leads out of the dataset's directory",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, pictures, changes, message):
    directory = write_tfds(tmp_path, pictures) / "shapes" / "1.0.0"
    edit(directory / "dataset_info.json", **changes)
    with pytest.raises(InputError, match=message):
        opened(tmp_path)


def test_features_that_do_not_fit_are_refused(tmp_path, pictures):
    directory = write_tfds(tmp_path, pictures) / "shapes" / "1.0.0"
    (directory / "label.labels.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"names 2 classes, but features.json says 4"):
        opened(tmp_path)
    edit(directory / "features.json", featuresDict={"features": {"audio": {"pythonClassName": "x.Audio"}}})
    with pytest.raises(InputError, match="must have one feature of type Image, or one called 'image'; it has audio"):
        opened(tmp_path)
    (directory / "features.json").write_text("{")
    with pytest.raises(InputError, match=r"features.json is not valid JSON"):
        opened(tmp_path)


def test_a_dataset_of_an_old_tfds_without_features_is_read(datasets, tmp_path, pictures):
    directory = write_tfds(tmp_path, pictures) / "shapes" / "1.0.0"
    (directory / "features.json").unlink()
    info = json.loads((directory / "dataset_info.json").read_text())
    for split in info["splits"]:
        del split["filepathTemplate"]
    del info["fileFormat"]
    (directory / "dataset_info.json").write_text(json.dumps(info))
    data = opened(tmp_path)
    assert data.class_names == CLASS_NAMES
    assert torch.equal(everything(data, "test")[0], everything(opened(datasets["tfds", "PNG"]), "test")[0])


def test_the_index_of_records_is_kept(tmp_path, pictures, monkeypatch):
    root = write_tfds(tmp_path / "data", pictures)
    first = everything(opened(root, tmp_path / "cache"), "test")
    monkeypatch.setattr("tunas.data.tfds.record_places", lambda path: pytest.fail("indexed again"))
    assert torch.equal(first[0], everything(opened(root, tmp_path / "cache"), "test")[0])


def test_a_damaged_index_is_made_again(tmp_path, pictures, caplog):
    root = write_tfds(tmp_path / "data", pictures)
    opened(root, tmp_path / "cache")
    index = next((tmp_path / "cache").glob("tfds-train-*.npz"))
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 255
    index.write_bytes(content)
    assert opened(root, tmp_path / "cache").size("full_train") == TOTAL
    assert "is damaged" in caplog.text and "will be made again" in caplog.text


# --- WebDataset


def test_braces_expand_as_in_a_shell():
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{0..2}{a,b}") == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert expand_braces("{t-{00..01},v}.tar") == ["t-00.tar", "t-01.tar", "v.tar"]
    assert expand_braces("plain") == ["plain"]
    assert expand_braces("{9..10}") == ["9", "10"]
    assert len(expand_braces("{0000..1023}")) == 1024
    with pytest.raises(InputError, match="more than 1000000"):
        expand_braces("{0..999}{0..999}{0..9}")


def test_patterns_and_directories_lead_to_the_same_shards(datasets, tmp_path):
    root = datasets["webdataset", "PNG"]
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    for path in root.glob("*.tar"):
        shutil.copy(
            path,
            tmp_path
            / ("train" if "train" in path.name else "val")
            / path.name.replace("train-", "").replace("val-", ""),
        )
    shutil.copy(root / "classnames.txt", tmp_path)
    wanted = everything(opened(root), "test")[0]
    for pattern in (
        f"{root}/shapes-train-{{0000..0002}}.tar::{root}/shapes-val-0000.tar",
        f"{root}/shapes-{{train-{{0000..0002}},val-0000}}.tar",
        f"{root}/shapes-*.tar",
        str(tmp_path),
    ):
        data = opened(pattern)
        assert data.size("full_train") == TOTAL and data.class_names == CLASS_NAMES
        assert torch.equal(everything(data, "test")[0], wanted)


@pytest.mark.parametrize("layout", ["tfds", "webdataset"])
def test_shards_behind_a_url_are_read(datasets, layout):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    root = datasets[layout, "PNG"]
    for path in root.rglob("*.*"):
        if path.is_file():
            memory.pipe(f"/{layout}/{path.relative_to(root)}", path.read_bytes())
    url = (
        f"memory://{layout}" if layout == "tfds" else f"memory://{layout}/shapes-{{train-{{0000..0002}},val-0000}}.tar"
    )
    near, far = opened(root), opened(url)
    assert far.class_names == near.class_names
    for split, augment in (("train", True), ("test", False)):
        pairs = zip(
            near.stream(split, 8, seed=1, augment=augment), far.stream(split, 8, seed=1, augment=augment), strict=False
        )
        for (images, labels), (far_images, far_labels) in itertools.islice(pairs, 3):
            assert torch.equal(images, far_images) and torch.equal(labels, far_labels)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/train-{00..01}.tar", "cannot read memory://nowhere/train-00.tar: "),
        ("memory://nowhere", "holds no dataset"),
        ("nothing://bucket/train.tar", "cannot read nothing://bucket/train.tar: Protocol not known: nothing"),
    ],
)
def test_urls_that_lead_nowhere_are_refused(url, message):
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match=message):
        opened(url)


def test_a_missing_shard_is_named(datasets):
    with pytest.raises(InputError, match=r"cannot read .*shapes-train-0003.tar: No such file"):
        opened(f"{datasets['webdataset', 'PNG']}/shapes-train-{{0000..0003}}.tar")


def test_labels_in_json_are_read(tmp_path, pictures):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for each in pictures.train:
            add_member(tar, f"deep/{each.name}", each.encoded)
            add_member(
                tar, f"deep/{each.name.partition('.')[0]}.json", json.dumps({"label": each.label, "width": 7}).encode()
            )
    data = opened(tmp_path)
    assert data.class_names == ("0", "1", "2", "3") and data.size("full_train") == TOTAL
    assert everything(data, "full_train")[1].tolist() == [each.label for each in pictures.train]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("a.png", b"x"), ("b.png", b"x"), ("b.cls", b"1")],
            "holds 1 images without a .cls or .json label, such as 'a'",
        ),
        ([("a.png", b"x"), ("a.cls", b"cat")], "'a.cls' in .* must hold a label, a whole number"),
        ([("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")], "holds two images called 'a'"),
        ([("a.txt", b"x")], "hold no images with labels"),
        (
            [("a.png", b"x"), ("a.json", b'{"label": 0.5}')],
            r"'a.json' in .* holds no label: a whole number .* or a class",
        ),
        ([("a.png", b"x"), ("a.cls", b"1"), ("b.png", b"x"), ("b.txt", b"cat")], "numbers such as 1 and names such as"),
    ],
)
def test_members_that_make_no_examples_are_refused(tmp_path, members, message):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, content in members:
            add_member(tar, name, content)
    with pytest.raises(InputError, match=message):
        opened(tmp_path)


def test_damaged_tar_files_are_refused_with_the_place_of_the_damage(tmp_path, pictures):
    root = write_webdataset(tmp_path / "wds", pictures)
    path = root / "shapes-train-0001.tar"
    content = path.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        third = tar.getmembers()[2]
    for damaged, message in (
        (content[: third.offset_data + 10], "cut short within"),
        (content[: third.offset] + b"\xff" * 512 + content[third.offset + 512 :], f"is damaged at byte {third.offset}"),
        (b"nothing like a tar file" * 100, "is damaged, or no tar file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=message) as caught:
            opened(root)
        assert path.name in str(caught.value)


@pytest.mark.parametrize("layout", ["folder", "tfds", "webdataset", "parquet"])
def test_files_are_read_where_there_is_no_pread(layout, datasets, tmp_path, monkeypatch):
    pixels, labels = everything(opened(datasets[layout, "PNG"], tmp_path / "1"), "train")
    monkeypatch.delattr(os, "pread")  # as on Windows
    again = everything(opened(datasets[layout, "PNG"], tmp_path / "2"), "train")
    assert torch.equal(again[0], pixels) and torch.equal(again[1], labels)


def test_too_few_class_names_are_refused(tmp_path, pictures):
    root = write_webdataset(tmp_path / "wds", pictures)
    (root / "classnames.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="names 2 classes, but the labels go up to 3"):
        opened(root)


def test_examples_are_small_when_sent_to_workers(datasets):
    """Tables rather than a string for every image: what forks or is pickled does not grow with the dataset's names."""
    import pickle

    for layout in ("folder", "tfds", "webdataset", "parquet"):
        data = opened(datasets[layout, "PNG"])
        decoder = data._parts["train"].decoder
        assert len(pickle.dumps(decoder)) < 12_000
        job_images = pickle.loads(pickle.dumps(decoder))
        assert np.array_equal(job_images.indices, decoder.indices)
