"""Which images are held out, by rule and by list."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from typing import Any

import numpy as np
import pytest

from support.rendered import CLASS_NAMES, WRITERS, Picture, Rendered, opened, write_folder
from tunas import InputError
from tunas.data.examples import Source, stem
from tunas.data.splits import choose_held_out


def held_out(source, *args, **kwargs):
    """Which training images are held out for validation."""
    return choose_held_out(source, *args, **kwargs).valid


class Table:
    """Nothing but names."""

    def __init__(self, ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)

    def labels(self):
        return np.array([label for label, _ in self.ids])

    def file_ids(self):
        return self.ids


def source(count: int, *, in_order: bool = False) -> Source:
    table = Table([(number % 7, f"file{number}") for number in range(count)])
    return Source("many", "folder", [str(k) for k in range(7)], table, None, in_order)  # type: ignore[arg-type]


def test_imagenet_s_number_is_held_out():
    mask = held_out(source(1_281_167, in_order=True), None)
    assert mask[:50_046].all() and not mask[50_046:].any() and len(mask) - mask.sum() == 1_231_121


@pytest.mark.parametrize(
    ("count", "wanted"), [(70, 7), (1400, 140), (99_995, 10_003), (140_000, 5_467), (2_000_000, 50_046)]
)
def test_of_other_sets_ten_percent_or_one_in_25_6_are_held_out(count, wanted):
    assert held_out(source(count, in_order=count > 200_000), None).sum() == wanted


@pytest.mark.parametrize("in_order", [True, False])
def test_every_class_is_held_out_in_proportion(in_order):
    """45 of 100 classes of 20 images had none to validate on."""
    ids = [(label, f"{label}_{k}") for label in range(100) for k in range(20)]
    many = Source("many", "folder", [str(k) for k in range(100)], Table(ids), None, in_order)  # type: ignore[arg-type]
    labels = np.array([label for label, _ in ids])
    assert (np.bincount(labels[held_out(many)], minlength=100) == 2).all()
    assert (np.bincount(labels[held_out(many, valid_fraction=0.25)], minlength=100) == 5).all()


def test_a_class_of_two_has_one_and_a_class_of_one_is_named(caplog):
    sizes = (1, 2, 3, 30)
    ids = [(label, f"{label}_{k}") for label, size in enumerate(sizes) for k in range(size)]
    table: Any = Table(ids)
    some = Source("some", "folder", ["owl", "cat", "dog", "ant"], table, None, names_splits=False)
    valid, test = choose_held_out(some)
    labels = np.array([label for label, _ in ids])
    assert np.bincount(labels[valid], minlength=4).tolist() == [0, 1, 1, 3]
    assert np.bincount(labels[test], minlength=4).tolist() == [0, 0, 1, 3]
    assert not (valid & test).any()
    assert "1 classes (owl) have no image to validate on" in caplog.text


def test_fractions_that_cannot_be_are_refused():
    for fractions, message in (
        ({"valid_fraction": 1.0}, "valid_fraction must be above 0 and below 1, not 1.0"),
        ({"test_fraction": -0.1}, "test_fraction must be above 0"),
        ({"valid_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
    ):
        with pytest.raises(InputError, match=message):
            choose_held_out(source(700), **fractions)
    tested = dataclasses.replace(source(700), test=Table([(0, "x")]))
    with pytest.raises(InputError, match="has a test set of its own; leave out test_fraction"):
        choose_held_out(tested, test_fraction=0.1)


def test_the_choice_does_not_depend_on_the_order_of_the_files():
    one = source(500)
    order = np.random.default_rng(0).permutation(500)
    table: Any = Table([one.train.file_ids()[k] for k in order])
    other = Source("many", "webdataset", one.class_names, table, None)
    assert np.array_equal(held_out(one, None)[order], held_out(other, None))
    assert 0.1 < np.flatnonzero(held_out(one, None)).mean() / 500 < 0.9


def test_the_choice_is_the_same_on_every_machine():
    assert np.flatnonzero(held_out(source(70), None)).tolist() == [3, 4, 5, 15, 27, 49, 51]


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="has 7 training images, too few"):
        held_out(source(7), None)


def test_names_are_compared_without_directory_and_extension():
    assert stem("n01440764/n01440764_10026.JPEG") == "n01440764_10026"
    assert stem("n01440764_10026") == stem("x/y/n01440764_10026.jpg") == "n01440764_10026"
    assert stem("v1.5_photo") == "v1.5_photo"


@pytest.mark.parametrize("layout", list(WRITERS))
@pytest.mark.parametrize("form", ["{name}.JPEG", "{name}", "{directory}/{name}.png", "train/{directory}/{name}"])
def test_a_list_is_read_in_every_form(datasets, layout, form, tmp_path):
    chosen = [("n001", "n001_004"), ("n003", "n003_019"), ("n004", "n004_000")]
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(form.format(directory=directory, name=name) for directory, name in chosen) + "\n\n")
    data = opened(datasets[layout, "PNG"], valid_filenames=str(listing))
    assert data.size("valid") == 3 and data.size("train") == 77
    assert [label for _, labels in data.once("valid", 9) for label in labels.tolist()] == [0, 2, 3]


def test_names_that_are_not_there_are_reported_with_their_count(datasets, tmp_path, caplog):
    listing = tmp_path / "list.txt"
    listing.write_text("n001_000.JPEG\nn001_000\nn009_001\nn009_002\nn009_003\nn009_004\n")
    with caplog.at_level(logging.WARNING, "tunas.data"):
        assert opened(datasets["folder", "PNG"], valid_filenames=str(listing)).size("valid") == 1
    assert "4 names (n009_001, n009_002, n009_003, …)" in caplog.text and "1 are held out" in caplog.text


def test_a_list_is_read_out_of_a_pipe(datasets, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("n001_000\n"))
    writer.start()
    assert opened(datasets["folder", "PNG"], valid_filenames=str(pipe)).size("valid") == 1
    writer.join()


def test_lists_that_cannot_be_meant_are_refused(datasets, tmp_path):
    listing = tmp_path / "list.txt"
    for content, message in (
        ("", "names no files"),
        ("cat.jpg\n", "none of the 1 names in .* is a training image of folder, for example 'cat.jpg'"),
        (
            "".join(f"{name}_{number:03d}\n" for name in CLASS_NAMES for number in range(20)),
            "names all 80 training images",
        ),
    ):
        listing.write_text(content)
        with pytest.raises(InputError, match=message):
            opened(datasets["folder", "PNG"], valid_filenames=str(listing))
    with pytest.raises(InputError, match=r"cannot read .*: No such file or directory"):
        opened(datasets["folder", "PNG"], valid_filenames=str(tmp_path / "none.txt"))
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a text file in UTF-8"):
        opened(datasets["folder", "PNG"], valid_filenames=str(listing))


def test_names_that_several_classes_use_need_their_class(tmp_path, pictures):
    plain = [Picture(each.name.partition("_")[2], each.label, each.encoded) for each in pictures.train]
    root = write_folder(tmp_path / "data", Rendered(plain, []))
    listing = tmp_path / "list.txt"
    listing.write_text("003.png\n")
    with pytest.raises(
        InputError, match=r"1 names \(003.png\) of .* fit several training images; write them as class/name"
    ):
        opened(root, valid_filenames=str(listing))
    listing.write_text("n002/003.png\nn004/003.png\n")
    data = opened(root, valid_filenames=str(listing))
    assert [label for _, labels in data.once("valid", 9) for label in labels.tolist()] == [1, 3]
