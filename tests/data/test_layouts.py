"""Folders as people keep them, lists, and what other software writes: all of it is read, or what is not is said."""

from __future__ import annotations

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from support.rendered import (
    CLASS_NAMES,
    NAMED,
    Picture,
    Rendered,
    everything,
    opened,
    parts_of,
    write_array_record,
    write_csv,
    write_folder,
    write_kaggle,
    write_parquet,
    write_plain,
    write_shard,
    write_tfds,
    write_webdataset,
)
from tunas import InputError
from tunas.data.images import decode


def same_images(data, other, split="full_train"):
    return all(torch.equal(a, b) for a, b in zip(everything(data, split), everything(other, split), strict=True))


# --- folders


def test_class_folders_without_splits_are_split_class_by_class(tmp_path, pictures):
    data = opened(write_plain(tmp_path / "flowers", pictures.train))
    assert data.name == "flowers" and data.class_names == CLASS_NAMES
    sizes = {"train": 64, "valid": 8, "full_train": 72, "test": 8}
    assert {split: data.size(split) for split in data.splits} == sizes
    for split in ("valid", "test"):
        assert everything(data, split)[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    shown = [image.numpy().tobytes() for split in ("train", "valid", "test") for image in everything(data, split)[0]]
    assert len(set(shown)) == 80  # disjoint, and nothing is lost


def test_both_fractions_can_be_set(tmp_path, pictures):
    data = opened(write_plain(tmp_path, pictures.train), valid_fraction=0.25, test_fraction=0.5)
    assert [data.size(split) for split in ("train", "valid", "test", "full_train")] == [20, 20, 40, 40]


def test_a_test_set_is_taken_from_training_images_when_asked(tmp_path, pictures):
    root = write_folder(tmp_path, Rendered(train=pictures.train))
    assert "test" not in opened(root).splits
    assert opened(root, test_fraction=0.1).size("test") == 8


@pytest.mark.parametrize("inner", ["images", "a/b"])
def test_images_below_a_class_are_read(tmp_path, pictures, inner):
    """As in Tiny-ImageNet, train/<class>/images/*."""
    flat = opened(write_plain(tmp_path / "flat" / "train", pictures.train).parent)
    deep = opened(write_plain(tmp_path / "deep" / "train", pictures.train, inner).parent)
    assert deep.class_names == flat.class_names and same_images(flat, deep)


def test_the_order_is_torchvision_s(tmp_path, pictures):
    from torchvision.datasets import ImageFolder

    root = write_plain(tmp_path / "train", pictures.train[:60])
    for number, inner in enumerate(("b", "a/x", "a-y", "Z")):
        write_plain(root, pictures.train[number::4], inner)
    table = opened(tmp_path)._parts["full_train"].decoder.examples
    assert [(table.name(k), int(table.labels()[k])) for k in range(len(table))] == ImageFolder(str(root)).samples


def test_links_that_lead_in_circles_are_followed_once(tmp_path, pictures):
    root = write_plain(tmp_path / "train", pictures.train)
    (root / "n001" / "up").symlink_to(root / "n001", target_is_directory=True)
    assert opened(tmp_path).size("full_train") in (80, 100)


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints", "$RECYCLE.BIN"])
def test_what_systems_leave_behind_is_no_class(tmp_path, pictures, name):
    root = write_folder(tmp_path, pictures)
    for place in (root, root / "train", root / "train" / "n001", root / "val"):
        (place / name).mkdir()
        (place / name / "._n001_000.png").write_bytes(b"\0\5\26\7")
    (root / "train" / "n001" / "._n001_000.png").write_bytes(b"\0\5\26\7")
    (root / "train" / "n001" / "Thumbs.db").write_bytes(b"x")
    data = opened(root)
    assert data.class_names == CLASS_NAMES and data.size("full_train") == 80 and data.size("test") == 16


def test_an_empty_class_is_refused_by_name_or_kept(tmp_path, pictures):
    root = write_folder(tmp_path, pictures)
    (root / "train" / "n000").mkdir()
    (root / "train" / "n009").mkdir()
    with pytest.raises(InputError, match=r"2 directories in .*train hold no images: 'n000', 'n009'; .*--allow_empty"):
        opened(root)
    assert opened(root, allow_empty_classes=True).class_names == ("n000", *CLASS_NAMES, "n009")


def test_files_that_are_not_read_are_counted_once(tmp_path, pictures, caplog):
    root = write_folder(tmp_path, pictures)
    for number in range(3):
        (root / "train" / "n002" / f"{number}.txt").write_text("x")
    (root / "train" / "n003" / "README").write_text("x")
    with caplog.at_level(logging.WARNING, "tunas.data"):
        opened(root)
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}/train: 4 files are no images that can be read and are left out: 3 .txt, 1 without extension"
    ]


@pytest.mark.parametrize("extension", [".jfif", ".JPE", ".gif", ".avif", ".pnm", ".jp2"])
def test_every_format_that_can_be_decoded_is_read(tmp_path, pictures, extension):
    from PIL import features

    needed = {".avif": "avif", ".jp2": "jpg_2000"}.get(extension)
    if needed and not features.check(needed):
        pytest.skip(f"Pillow without {needed}")
    root = write_plain(tmp_path / "train", pictures.train)
    kind = {".jfif": "JPEG", ".JPE": "JPEG", ".pnm": "PPM", ".jp2": "JPEG2000"}.get(extension, extension[1:].upper())
    Image.new("RGB", (20, 20), (200, 0, 0)).save(root / "n004" / f"zz{extension}", kind)
    data = opened(tmp_path)
    assert data.size("full_train") == 81
    assert everything(data, "full_train")[0][-1].float().mean((1, 2))[0] > 180


@pytest.mark.parametrize(("train", "test"), [("Train", "VALID"), ("training", "testing"), ("TRAIN", "Validation")])
@pytest.mark.parametrize("layout", ["folder", "webdataset", "parquet"])
def test_splits_are_recognised_by_one_table(tmp_path, pictures, layout, train, test):
    if layout == "folder":
        root = write_folder(tmp_path, pictures)
        (root / "train").rename(root / "_")
        (root / "_").rename(root / train)
        (root / "val").rename(root / "__")
        (root / "__").rename(root / test)
    else:
        write = write_webdataset if layout == "webdataset" else write_parquet
        root = write(tmp_path / "data", pictures)
        for path in [path for path in root.rglob("*") if path.suffix in (".tar", ".parquet")]:
            name = path.name.replace("train", train).replace("validation", test).replace("val-", f"{test}-")
            path.rename(path.with_name(name))
    data = opened(root)
    assert data.size("full_train") == 80 and data.size("test") == 16


def test_two_names_of_one_split_are_not_chosen_between(tmp_path, pictures):
    root = write_folder(tmp_path, pictures)
    (root / "valid").mkdir()
    with pytest.raises(InputError, match="holds both 'val' and 'valid', which name the same split"):
        opened(root)


def test_a_dataset_with_three_splits_is_validated_on_its_own(tmp_path, pictures):
    root = write_folder(tmp_path, pictures)
    shutil.copytree(root / "val", root / "test")
    (root / "test" / "n001" / "n001_000.png").unlink()
    data = opened(root)
    sizes = {"train": 80, "valid": 16, "full_train": 96, "test": 15}
    assert {split: data.size(split) for split in data.splits} == sizes
    assert torch.equal(everything(data, "valid")[0][1:], everything(data, "test")[0])


# --- Kaggle's ImageNet


@pytest.fixture
def kaggle(tmp_path, pictures):
    return write_kaggle(tmp_path / "imagenet", pictures)


def test_kaggle_s_flat_validation_images_have_their_solution(kaggle, pictures):
    assert "test" not in opened(kaggle).splits
    lines = ["ImageId,PredictionString"]
    for number, each in enumerate(reversed(pictures.test), start=1):
        lines.append(
            f"ILSVRC2012_val_{number:08d},{CLASS_NAMES[each.label]} 1 2 3 4 {CLASS_NAMES[each.label]} 5 6 7 8 "
        )
    (kaggle / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    for place in (kaggle, kaggle / "ILSVRC" / "Data" / "CLS-LOC"):
        data = opened(place)
        assert data.size("full_train") == 80
        assert everything(data, "test")[1].tolist() == [each.label for each in reversed(pictures.test)]


def test_flat_validation_images_are_labelled_by_the_development_kit_s_ground_truth(kaggle, pictures):
    from scipy.io import savemat

    kit = kaggle / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    numbers = {3: 1, 1: 2, 0: 3, 2: 4}  # in an order of their own
    synsets = np.zeros(5, [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    for label, number in numbers.items():
        synsets[number - 1] = (number, f"n0000000{label + 1}")
    synsets[4] = (5, "n00001740")
    train = kaggle / "ILSVRC" / "Data" / "CLS-LOC" / "train"
    for label, name in enumerate(CLASS_NAMES):
        (train / name).rename(train / f"n0000000{label + 1}")
    savemat(kit / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[each.label]}\n" for each in reversed(pictures.test))
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    assert everything(opened(kaggle), "test")[1].tolist() == [each.label for each in reversed(pictures.test)]


# --- lists


def test_a_list_without_splits_and_with_a_byte_order_mark_is_read(tmp_path, pictures):
    path = write_csv(tmp_path, Rendered(train=pictures.train))
    lines = [line.partition(",")[2] for line in path.read_text().splitlines()]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", ";").replace("label", "Class").encode())
    data = opened(path)
    assert {split: data.size(split) for split in data.splits} == {"train": 64, "valid": 8, "full_train": 72, "test": 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("file_name", "colour"), "no column of file names: it has colour, label, split"),
        (lambda text: text.replace("label", "width"), "no column of labels"),
        (lambda text: text.replace("train,", "eval,", 1), "row 1 of .* is of split 'eval'; known are train"),
        (lambda text: text.replace("train,", ",", 1), "names a split for some images but none for others"),
        (lambda text: text.replace("n001_000.png", "n001_001.png", 1), "lists images/n001_001.png more than once"),
        (
            lambda text: text.replace("n001_000.png", "gone.png", 1),
            "1 of 80 files that .* are not there, such as .*gone",
        ),
        (lambda text: text.replace(",n001\n", ",0.5\n", 1), "are numbers such as 0.5, which are no classes"),
        (lambda text: text.replace(",n001\n", ",\n", 1), "row 1 of .* has no label"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(tmp_path, pictures, change, message):
    path = write_csv(tmp_path, pictures)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        opened(path)


def test_numbers_as_labels_are_ordered_as_numbers(tmp_path, pictures):
    path = write_csv(tmp_path, pictures)
    text = path.read_text()
    for name, number in zip(CLASS_NAMES, ("10", "9", "2", "1"), strict=True):
        text = text.replace(f",{name}\n", f",{number}\n")
    path.write_text(text)
    data = opened(path)
    assert data.class_names == ("1", "2", "9", "10")
    assert everything(data, "test")[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_json_lines_beside_the_images_label_them(tmp_path, pictures, datasets):
    root = tmp_path / "train"
    root.mkdir()
    lines = []
    for each in pictures.train:
        (root / each.name).write_bytes(each.encoded)
        lines.append(json.dumps({"file_name": each.name, "label": CLASS_NAMES[each.label]}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    assert same_images(opened(tmp_path), opened(datasets["folder", "PNG"]))


def test_captions_beside_class_folders_are_no_labels(tmp_path, pictures, datasets):
    root = write_folder(tmp_path, pictures)
    (root / "train" / "metadata.csv").write_text("file_name,text\nn001/n001_000.png,a disc\n")
    assert same_images(opened(root), opened(datasets["folder", "PNG"]))


def test_a_directory_of_no_layout_is_told_what_was_seen_and_what_is_nearest(tmp_path, pictures):
    for each in pictures.train:
        (tmp_path / each.name).write_bytes(each.encoded)
    with pytest.raises(
        InputError, match=r"80 \.png files in it, but no class directories: put the images of each class"
    ):
        opened(tmp_path)
    (tmp_path / "names.csv").write_text("x")
    with pytest.raises(InputError, match=r"names\.csv lists names and labels, give --dataset_dir=.*/names\.csv"):
        opened(tmp_path)


# --- Hugging Face


def test_a_split_without_labels_is_not_read(tmp_path, pictures):
    root = write_parquet(tmp_path, pictures)
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(root / "data" / "validation-00000-of-00001.parquet")
    hidden = rows.set_column(1, "label", pa.array([-1] * len(rows), pa.int64()))
    pq.write_table(hidden, root / "data" / "test-00000-of-00001.parquet")
    assert opened(root).size("test") == 16
    (root / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(
        InputError, match=r"no split 'test'; .*the split test of .* is not read: its images have no labels"
    ):
        opened(root).size("test")


@pytest.mark.parametrize("kind", ["bytes", "names", "categories"])
def test_parquet_files_of_one_s_own_are_read(tmp_path, pictures, datasets, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [each.label if kind == "bytes" else CLASS_NAMES[each.label] for each in pictures.train]
    column = pa.array(labels)
    table = pa.table(
        {
            "id": list(range(80)),
            "image": pa.array([each.encoded for each in pictures.train], pa.binary()),
            "label": column.dictionary_encode() if kind == "categories" else column,
        }
    )
    pq.write_table(table, tmp_path / "mine.parquet", compression="zstd")
    for place in (tmp_path, tmp_path / "mine.parquet", f"{tmp_path}/*.parquet"):
        data = opened(place, test_fraction=None)
        assert data.class_names == (("0", "1", "2", "3") if kind == "bytes" else CLASS_NAMES)
        assert data.size("test") == 8 and data.size("full_train") == 72


def test_parquet_files_that_do_not_fit_are_refused(tmp_path, pictures):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match=r"train.parquet is damaged, or no parquet"):
        opened(tmp_path)
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), path)
    with pytest.raises(
        InputError, match=r"must have one column of images, or one called 'image'; it has text \(string\)"
    ):
        opened(tmp_path)
    pq.write_table(pa.table({"image": [b"a"], "label": [0.5]}), path)
    with pytest.raises(InputError, match="are of type double; whole numbers or names are read"):
        opened(tmp_path)


def test_parquet_behind_a_url_is_read(tmp_path, pictures, datasets):
    import fsspec

    memory = fsspec.filesystem("memory")
    root = datasets["parquet", "PNG"]
    for path in (root / "data").iterdir():
        memory.pipe(f"/hub/data/{path.name}", path.read_bytes())
    assert same_images(opened(root), opened("memory://hub"))


def test_an_order_by_windows_holds_every_image_once():
    from tunas.data.order import WINDOW, windowed_permutation, windows

    groups = np.repeat(np.arange(60), 100)
    assert windows(np.repeat(np.arange(8), 100)) is None  # so few are shuffled as a whole
    order = windowed_permutation(windows(groups), seed=1, split=0, epoch=0)
    assert sorted(order.tolist()) == list(range(6000))
    assert not np.array_equal(order, windowed_permutation(groups, seed=1, split=0, epoch=1))
    for start in range(0, 5000, 500):
        assert len(np.unique(groups[order[start : start + 64]])) <= 2 * (WINDOW // 100 + 1)
        assert len(np.unique(groups[order[start : start + 64]])) >= 5
    assert np.abs(np.corrcoef(order, np.arange(6000))[0, 1]) < 0.4


def test_a_window_s_stream_goes_on_where_it_stopped(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr("tunas.data.order.WINDOW", 8)
    data = opened(write_parquet(tmp_path, pictures, rows=2))
    whole = [next(data.stream("train", 6, seed=2, start_step=step, augment=True))[0] for step in range(14)]
    stream = data.stream("train", 6, seed=2, augment=True)
    assert all(torch.equal(next(stream)[0], images) for images in whole)


# --- WebDataset


NUMBERED = {
    "class_id": lambda each: (".json", json.dumps({"class_id": each.label})),
    "class": lambda each: (".json", json.dumps({"class": each.label})),
    "digits": lambda each: (".json", json.dumps({"label": str(each.label)})),
    "text": lambda each: (".txt", str(each.label)),
    "target.cls": lambda each: (".target.cls", str(each.label)),
}


@pytest.mark.parametrize("kind", [*NAMED, *(f"number {kind}" for kind in NUMBERED)])
@pytest.mark.parametrize("member", [".png", ".input.png"])
def test_labels_are_read_in_every_form(tmp_path, pictures, datasets, kind, member):
    label = NAMED.get(kind) or NUMBERED[kind.removeprefix("number ")]
    write_shard(tmp_path / "train" / "0.tar", pictures.train, member, label)
    data = opened(tmp_path)
    assert data.class_names == (CLASS_NAMES if kind in NAMED else ("0", "1", "2", "3"))
    assert same_images(data, opened(datasets["folder", "PNG"]))


def test_captions_are_no_classes(tmp_path, pictures):
    write_shard(tmp_path / "train.tar", pictures.train, ".png", lambda each: (".txt", f"a photo of {each.name}"))
    with pytest.raises(
        InputError, match=r"differ for 80 of 80 images .such as 'a photo of n001_000\.png'.: these are no"
    ):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["eval-0.tar", "dev-0.tar", "0001.tar"])
def test_a_shard_of_no_known_split_is_refused_beside_those_of_one(tmp_path, pictures, name):
    root = write_webdataset(tmp_path / "data", pictures)
    shutil.copy(root / "shapes-val-0000.tar", root / name)
    with pytest.raises(InputError, match=f"{name} names no split, while .*shapes-train-0000.tar does"):
        opened(root)


def test_shards_that_name_no_split_are_one_set(tmp_path, pictures):
    for number, part in enumerate(parts_of(pictures.train, 2)):
        write_shard(tmp_path / f"{number:04d}.tar", part, ".png", lambda each: (".cls", str(each.label)))
    data = opened(tmp_path)
    assert {split: data.size(split) for split in data.splits} == {"train": 64, "valid": 8, "full_train": 72, "test": 8}


def test_compressed_shards_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "train-0.tar.gz").write_bytes(b"x")
    for place in (tmp_path, tmp_path / "train-0.tar.gz"):
        with pytest.raises(InputError, match=r"train-0.tar.gz is compressed.*gunzip"):
            opened(place)


@pytest.mark.parametrize("name", ["d{1}", "x [v2]", "a*b", "{train,val}-1"])
@pytest.mark.parametrize("layout", ["folder", "webdataset", "tfds", "parquet"])
def test_paths_that_exist_are_taken_literally(tmp_path, datasets, layout, name):
    shutil.copytree(datasets[layout, "PNG"], tmp_path / name)
    assert opened(tmp_path / name).size("test") == 16
    if layout == "webdataset":
        assert opened(tmp_path / name / "shapes-train-0000.tar").size("full_train") == 26


# --- TFDS


def test_a_label_that_is_no_class_label_is_refused(tmp_path, pictures):
    directory = write_tfds(tmp_path, pictures) / "shapes" / "1.0.0"
    path = directory / "features.json"
    path.write_text(path.read_text().replace("class_label_feature.ClassLabel", "scalar.Scalar"))
    with pytest.raises(InputError, match=r"the feature 'label' of .* is a Scalar, not a ClassLabel"):
        opened(tmp_path)


def test_images_of_floats_are_read(tmp_path, pictures):
    """TFDS stores float32 pixels as the bytes of a PNG of four channels."""
    import io

    rng = np.random.default_rng(0)
    whole = [rng.random((30, 40), dtype=np.float32) for _ in range(8)]

    def hidden(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels.view(np.uint8).reshape(30, 40, 4)).save(buffer, "PNG")
        return buffer.getvalue()

    train = [Picture(f"{k}.png", k % 4, hidden(pixels)) for k, pixels in enumerate(whole)]
    directory = write_tfds(tmp_path, Rendered(train, [])) / "shapes" / "1.0.0"
    path = directory / "features.json"
    path.write_text(path.read_text().replace('"image": {"shape"', '"image": {"dtype": "float32", "shape"'))
    examples = opened(tmp_path)._parts["full_train"].decoder.examples
    for number, pixels in enumerate(whole):
        (content,) = examples.read([number])
        decoded = decode(examples.parse(number, content)[0])[..., 0].numpy()
        assert np.array_equal(decoded, np.floor(pixels * 255 + 0.5).astype(np.uint8))


def test_array_record_files_are_read(tmp_path, pictures, datasets):
    pytest.importorskip("array_record.python.array_record_module")
    write_array_record(tmp_path, pictures)
    assert same_images(opened(tmp_path), opened(datasets["tfds", "PNG"]))
    assert same_images(opened(tmp_path, num_workers=1), opened(datasets["tfds", "PNG"]), "test")


def test_a_byte_order_mark_does_not_swallow_the_first_name(datasets, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\xef\xbb\xbfn001_004\nn002_003\n")
    assert opened(datasets["folder", "PNG"], valid_filenames=str(listing)).size("valid") == 2


def test_a_directory_that_cannot_be_listed_is_named(tmp_path, pictures):
    root = write_folder(tmp_path, pictures)
    locked = root / "train" / "n001"
    locked.chmod(0)
    try:
        if os.access(locked, os.R_OK):
            pytest.skip("runs as root")
        with pytest.raises(InputError, match=f"cannot read {locked}: Permission denied"):
            opened(root)
    finally:
        locked.chmod(0o755)


def test_rows_sorted_by_class_are_said(tmp_path, pictures, monkeypatch, caplog):
    monkeypatch.setattr("tunas.data.order.WINDOW", 8)
    mixed = Rendered([pictures.train[(k * 21) % 80] for k in range(80)], [])
    opened(write_parquet(tmp_path / "mixed", mixed, rows=4))
    assert not caplog.records
    opened(write_parquet(tmp_path / "sorted", pictures, rows=4))
    assert "the rows of sorted are sorted by class" in caplog.text


def test_a_damaged_row_group_is_a_bad_image(tmp_path, pictures):
    root = write_parquet(tmp_path, pictures, shards=1)
    path = root / "data" / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 4000] = bytes(4000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read image row \d+ of .*train-00000-of-00001.parquet: "):
        everything(opened(root), "full_train")
    assert 0 < len(everything(opened(root, on_bad_image="skip"), "full_train")[1]) < 80
