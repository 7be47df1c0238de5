"""Evaluation images are decoded once, into a file that is shared, checked, and made again where it is damaged."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import pytest
import torch

from support.jobs import Program
from support.rendered import Picture, Rendered, opened, write_folder
from tunas import InputError
from tunas.data import DataConfig, open_data
from tunas.data.pixel_cache import DamagedCacheError, PixelCache


def valid_pixels(data):
    return torch.cat([images for images, _ in data.once("valid", 2)])


def no_decoding(monkeypatch):
    monkeypatch.setattr("tunas.data.decoder.decode", lambda encoded: pytest.fail("decoded again"))


@pytest.mark.parametrize("layout", ["folder", "tfds", "webdataset"])
def test_the_second_opening_does_not_decode(datasets, layout, tmp_path, monkeypatch):
    first = valid_pixels(opened(datasets[layout, "JPEG"], tmp_path))
    assert len(list(tmp_path.glob("*.pixels"))) == 1
    no_decoding(monkeypatch)
    data = opened(datasets[layout, "JPEG"], tmp_path)
    assert torch.equal(valid_pixels(data), first)
    images, _ = next(data.stream("valid", 30, seed=0, augment=False))
    assert images.shape == (30, 3, 32, 32) and images.is_contiguous(memory_format=torch.channels_last)
    assert {image.contiguous().numpy().tobytes() for image in images} == {
        image.contiguous().numpy().tobytes() for image in first
    }


def test_cached_pixels_are_the_decoded_ones(datasets, tmp_path):
    data = opened(datasets["folder", "PNG"], tmp_path)
    cached = list(data.once("test", 5))
    direct = list(data._parts["test"]._decoded_once(5, (0, 1)))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(cached, direct, strict=True))


def test_the_cache_lies_beside_the_run_where_no_other_place_is_given(datasets, tmp_path):
    config = DataConfig(dataset_dir=str(datasets["folder", "PNG"]), image_size=16, num_workers=0)
    valid_pixels(open_data(config, run_dir=tmp_path))
    assert len(list((tmp_path / "cache").glob("folder-valid-16-*.pixels"))) == 1


def test_other_sizes_and_lists_are_other_caches(datasets, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("n001_001\n")
    for settings in ({}, {"image_size": 24}, {"valid_filenames": str(listing)}, {"on_bad_image": "skip"}):
        valid_pixels(opened(datasets["folder", "PNG"], tmp_path, **settings))
    assert len(list(tmp_path.glob("*.pixels"))) == 3


def test_a_replaced_file_is_another_cache(tmp_path, pictures):
    root = write_folder(tmp_path / "data", pictures)
    before = torch.cat([images for images, _ in opened(root, tmp_path / "cache").once("test", 9)])
    path = root / "val" / "n001" / "n001_000.png"
    path.write_bytes(pictures.train[50].encoded)
    after = torch.cat([images for images, _ in opened(root, tmp_path / "cache").once("test", 9)])
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_a_cache_that_skipped_images_is_refused_where_none_may_be_skipped(tmp_path, pictures):
    bad = Rendered(pictures.train, [*pictures.test[:-1], Picture("z.png", 3, b"")])
    root = write_folder(tmp_path / "data", bad)
    assert sum(len(labels) for _, labels in opened(root, tmp_path / "cache", on_bad_image="skip").once("test", 4)) == 15
    with pytest.raises(InputError, match=r"cannot read image .*z.png: the file is empty"):
        opened(root, tmp_path / "cache").once("test", 4)
    again = opened(root, tmp_path / "cache", on_bad_image="skip")
    assert sum(len(labels) for _, labels in again.once("test", 4)) == 15 and len(again.bad_images.reasons) == 1


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["pixels", "labels", "description", "tail", "short", "empty", "long"])
def test_a_damaged_cache_is_made_again(datasets, tmp_path, caplog, damage):
    first = valid_pixels(opened(datasets["folder", "PNG"], tmp_path))
    (path,) = tmp_path.glob("*.pixels")
    whole = path.read_bytes()
    pixels = 3 * 32 * 32 * 3
    if damage in ("pixels", "labels", "description", "tail"):
        flip(
            path,
            {"pixels": 1000, "labels": pixels + 3, "description": pixels + 3 * 17 + 20, "tail": len(whole) - 1}[damage],
        )
    else:
        path.write_bytes({"short": whole[:-700], "empty": b"", "long": whole + b"more"}[damage])
    assert torch.equal(valid_pixels(opened(datasets["folder", "PNG"], tmp_path)), first)
    assert "is damaged" in caplog.text and "will be made again" in caplog.text
    assert path.read_bytes() == whole


def test_a_build_that_fails_leaves_nothing(tmp_path, pictures):
    bad = Rendered(pictures.train, [*pictures.test[:-1], Picture("z.png", 3, b"")])
    data = opened(write_folder(tmp_path / "data", bad), tmp_path / "cache")
    with pytest.raises(InputError, match=r"z.png: the file is empty"):
        next(data.once("test", 4))
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []


def test_a_place_that_cannot_be_written_is_named(datasets, tmp_path):
    (tmp_path / "file").write_text("")
    data = opened(datasets["folder", "PNG"], tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot write .*/file/folder-test-32-.*\.pixels: File exists"):
        next(data.once("test", 4))


PROGRAM = """
import sys
from tunas.data import DataConfig, open_data
data = open_data(DataConfig(dataset_dir=sys.argv[1], image_size=32, num_workers=0, cache_dir=sys.argv[2]))
import tunas.data.decoder as decoder
decoded, decode = [], decoder.decode
decoder.decode = lambda content: decoded.append(1) or decode(content)
pixels = sum(int(images.sum()) for images, _ in data.once("test", 3))
print(len(decoded), pixels)
"""


def test_of_processes_that_build_at_the_same_time_one_decodes(datasets, tmp_path):
    (tmp_path / "build.py").write_text(PROGRAM)
    words = str(datasets["tfds", "PNG"]), str(tmp_path)
    running = [Program(tmp_path / "build.py", *words) for _ in range(3)]
    results = [process.result().split() for process in running]
    assert sorted(int(decoded) for decoded, _ in results) == [0, 0, 16]  # one of them makes it, the others wait
    assert len({pixels for _, pixels in results}) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_cache_is_not_sent_to_workers_but_opened_there(datasets, tmp_path):
    data = opened(datasets["folder", "PNG"], tmp_path, train_cache_size=40)
    cache = data._parts["train"].decoder.train_cache
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert torch.equal(again.image(5)[0], cache.image(5)[0])


def test_a_cache_for_other_images_is_not_taken(datasets, tmp_path):
    valid_pixels(opened(datasets["folder", "PNG"], tmp_path))
    (path,) = tmp_path.glob("*.pixels")
    with pytest.raises(DamagedCacheError, match="made for other images"):
        PixelCache(path, "another key", check_pixels=True)


# --- training images kept at a larger size than the crop


def test_training_from_kept_images_needs_no_decoding(datasets, tmp_path, monkeypatch):
    plain = opened(datasets["folder", "PNG"], tmp_path)
    kept = opened(
        datasets["folder", "PNG"], tmp_path, train_cache_size=1000
    )  # larger than every image: nothing is reduced
    wanted = list(itertools.islice(plain.stream("train", 10, seed=0, augment=True), 3))
    no_decoding(monkeypatch)
    got = list(itertools.islice(kept.stream("train", 10, seed=0, augment=True), 3))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(wanted, got, strict=True))


def test_kept_images_are_reduced(datasets, tmp_path):
    data = opened(datasets["folder", "PNG"], tmp_path, train_cache_size=34)
    cache = data._parts["train"].decoder.train_cache
    assert (cache.shapes.min(axis=1) == 34).all() and len(cache.labels) == 80
    plain = next(opened(datasets["folder", "PNG"], tmp_path).stream("train", 40, seed=0, augment=True))
    reduced = next(data.stream("train", 40, seed=0, augment=True))
    assert torch.equal(plain[1], reduced[1])
    assert (plain[0].float() - reduced[0].float()).abs().mean() < 12


def test_kept_images_leave_out_bad_ones(tmp_path, pictures):
    bad = Rendered(
        [
            Picture(each.name, each.label, b"" if n in (7, 60) else each.encoded)
            for n, each in enumerate(pictures.train)
        ],
        [],
    )
    root = write_folder(tmp_path / "data", bad)
    data = opened(root, tmp_path / "cache", train_cache_size=40, on_bad_image="skip")
    assert len(data.bad_images.reasons) == 2
    plain = opened(root, tmp_path / "cache", on_bad_image="skip")
    for _ in range(2):
        labels = next(data.stream("full_train", 80, seed=0, augment=True))[1]
        assert torch.equal(labels, next(plain.stream("full_train", 80, seed=0, augment=True))[1])
