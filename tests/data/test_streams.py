"""A batch is a function of the step: not of workers, shards, or what was read before. `once` counts every image
once."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch

from support.rendered import Picture, Rendered, opened, write_folder, write_tfds, write_webdataset
from tunas import InputError
from tunas.data import DataConfig, open_data
from tunas.data.augmentation import Augmentation
from tunas.data.decoder import TrainingJob
from tunas.data.decoding import default_workers
from tunas.data.order import permutation, stream_order


def taken(stream, count):
    return list(itertools.islice(stream, count))


def same(batches, others):
    return len(batches) == len(others) and all(
        torch.equal(images, more) and torch.equal(labels, other)
        for (images, labels), (more, other) in zip(batches, others, strict=True)
    )


@pytest.fixture(scope="module")
def data(datasets):
    return opened(datasets["folder", "JPEG"])


@pytest.fixture(scope="module")
def digits():
    return open_data(DataConfig())


# --- the order


def test_every_epoch_holds_every_example_once():
    order = list(
        itertools.islice(stream_order(10, 4, seed=0, split=0), 10)
    )  # four epochs, batches across their borders
    pairs = [(int(e), int(x)) for epochs, examples in order for e, x in zip(epochs, examples, strict=True)]
    assert sorted(pairs) == [(epoch, example) for epoch in range(4) for example in range(10)]
    assert [epoch for epoch, _ in pairs] == sorted(epoch for epoch, _ in pairs)


def test_a_batch_may_hold_several_epochs():
    ((epochs, examples),) = itertools.islice(stream_order(3, 8, seed=1, split=0, start_step=1), 1)
    assert epochs.tolist() == [2, 3, 3, 3, 4, 4, 4, 5]
    assert examples.tolist()[1:4] == permutation(3, 1, 0, 3).tolist()


def test_orders_differ_by_seed_split_and_epoch():
    orders = {tuple(permutation(50, seed, split, epoch)) for seed in (0, 1, -1) for split in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 12


def test_the_order_is_the_same_on_every_machine():
    assert permutation(8, 5, 1, 2).tolist() == [7, 5, 2, 3, 0, 4, 6, 1]


# --- streams


@pytest.mark.parametrize("split", ["train", "valid", "full_train", "test"])
@pytest.mark.parametrize("augment", [True, False])
def test_starting_late_is_going_on(data, split, augment):
    whole = taken(data.stream(split, 6, seed=2, augment=augment), 5)
    assert same(whole[3:], taken(data.stream(split, 6, seed=2, start_step=3, augment=augment), 2))


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_shards_are_parts_of_the_global_batch(data, split, parts):
    whole = taken(data.stream(split, 12, seed=2, augment=split == "train"), 8)
    pieces = [
        taken(data.stream(split, 12, seed=2, shard=(part, parts), augment=split == "train"), 8) for part in range(parts)
    ]
    joined = [tuple(torch.cat(column) for column in zip(*step, strict=True)) for step in zip(*pieces, strict=True)]
    assert same(whole, joined)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(data, datasets, workers):
    by_workers = opened(datasets["folder", "JPEG"], num_workers=workers)
    for augment in (True, False):
        wanted = taken(data.stream("train", 70, seed=4, start_step=1, augment=augment), 3)
        assert same(wanted, taken(by_workers.stream("train", 70, seed=4, start_step=1, augment=augment), 3))
    assert same(list(data.once("train", 50)), list(by_workers.once("train", 50)))
    assert same(list(data.once("valid", 2)), list(by_workers.once("valid", 2)))


def test_a_batch_larger_than_a_chunk_is_put_together(data):
    (images, labels), *_ = taken(data.stream("train", 150, seed=0, augment=True), 1)
    assert (
        images.shape == (150, 3, 32, 32)
        and labels.shape == (150,)
        and images.is_contiguous(memory_format=torch.channels_last)
    )
    assert same(
        taken(data.stream("train", 10, seed=0, augment=True), 15),
        list(zip(images.split(10), labels.split(10), strict=True)),
    )


def test_augmentation_changes_by_epoch_and_seed_alone(data):
    size = data.size("train")

    def views(seed, epoch):
        images, _ = next(data.stream("train", size, seed=seed, start_step=epoch, augment=True))
        order = permutation(size, seed, 0, epoch)
        return images[torch.from_numpy(order.argsort())]

    assert torch.equal(views(0, 0), views(0, 0))
    for other in (views(0, 1), views(1, 0)):
        changed = (views(0, 0) != other).flatten(1).any(dim=1)
        assert changed.float().mean() > 0.9


def test_augmentation_is_the_image_s_not_the_split_s(data):
    """`train` and `full_train` show the same image of an epoch in the same way."""
    train, _ = next(data.stream("train", data.size("train"), seed=3, augment=True))
    full, _ = next(data.stream("full_train", data.size("full_train"), seed=3, augment=True))
    full_set = {image.contiguous().numpy().tobytes() for image in full}
    assert sum(image.contiguous().numpy().tobytes() in full_set for image in train) == data.size("train")


def test_streams_leave_torch_s_randomness_alone(datasets):
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    taken(opened(datasets["folder", "PNG"], num_workers=1).stream("train", 8, seed=0, augment=True), 1)
    assert torch.equal(torch.rand(1), wanted)


def test_a_stream_that_is_given_up_ends_its_workers(datasets):
    import multiprocessing

    stream = opened(datasets["folder", "PNG"], num_workers=2).stream("train", 8, seed=0, augment=True)
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    del stream
    for child in multiprocessing.active_children():
        child.join(10)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("batch", "shard", "message"),
    [
        (9, (0, 2), "a batch of 9 images cannot be divided equally among 2 processes"),
        (0, (0, 1), "at least 1, not 0"),
        (8, (2, 2), r"0 <= part < parts, not \(2, 2\)"),
    ],
)
def test_batches_that_cannot_be_are_refused(data, digits, batch, shard, message):
    for each in (data, digits):
        with pytest.raises(InputError, match=message):
            each.stream("train", batch, seed=0, shard=shard)


def test_an_unknown_split_is_refused(data):
    with pytest.raises(InputError, match="has no split 'validation'; it has train, valid, full_train, test"):
        data.stream("validation", 8, seed=0)


# --- once


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_once_counts_each_image_once_over_all_shards(data, split, parts):
    (whole, labels), *rest = data.once(split, 1000)
    assert not rest and len(labels) == data.size(split)
    pieces = [batch for part in range(parts) for batch in data.once(split, 5, shard=(part, parts))]
    assert torch.equal(torch.cat([images for images, _ in pieces]), whole)
    assert torch.equal(torch.cat([more for _, more in pieces]), labels)
    assert all(1 <= len(more) <= 5 for _, more in pieces)


def test_there_may_be_more_shards_than_images(data):
    assert data.size("valid") == 8
    assert sum(len(labels) for part in range(9) for _, labels in data.once("valid", 2, shard=(part, 9))) == 8


# --- digits


def test_the_digits_are_gray_images_of_ten_classes_in_four_splits(digits):
    assert digits.image_size == 32 and digits.num_classes == 10 and digits.class_names == tuple("0123456789")
    assert {split: digits.size(split) for split in digits.splits} == {
        "train": 1077,
        "valid": 360,
        "full_train": 1437,
        "test": 360,
    }
    images, labels = next(digits.stream("train", 128, seed=0))
    assert images.shape == (128, 3, 32, 32) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert torch.equal(images[:, 0], images[:, 2]) and images.max() == 255


def test_digits_splits_are_disjoint_and_whole(digits):
    def pictures(split):
        return [image.contiguous().numpy().tobytes() for images, _ in digits.once(split, 100) for image in images]

    train, valid, test = (pictures(split) for split in ("train", "valid", "test"))
    assert pictures("full_train") == train + valid
    assert len(set(train + valid + test)) == 1797  # all digits differ
    assert sum(labels.sum() for split in ("full_train", "test") for _, labels in digits.once(split, 64)) == 8070


def test_digits_stream_like_the_others(digits):
    whole = taken(digits.stream("train", 100, seed=3), 20)
    assert same(whole[10:], taken(digits.stream("train", 100, seed=3, start_step=10, augment=True), 10))
    parts = [taken(digits.stream("train", 100, seed=3, shard=(part, 4)), 20) for part in range(4)]
    assert torch.equal(torch.cat([part[7][1] for part in parts]), whole[7][1])


def test_a_handed_out_batch_is_the_caller_s(digits):
    """Writing to a batch does not change the dataset."""
    first = next(digits.once("test", 10))[0]
    before = first.clone()
    first.zero_()
    assert torch.equal(next(digits.once("test", 10))[0], before)


def test_the_digits_come_at_any_size():
    assert next(open_data(DataConfig(image_size=8)).once("test", 4))[0].shape == (4, 3, 8, 8)


# --- processes


@pytest.mark.parametrize(("ranks", "wanted"), [("1", 16), ("8", 4), ("64", 1), ("many", 16)])
def test_workers_are_divided_among_ranks(monkeypatch, ranks, wanted):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(32)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert default_workers() == wanted


# --- bad images


WRITE = {"folder": write_folder, "tfds": write_tfds, "webdataset": write_webdataset}


def with_bad_images(pictures: Rendered) -> Rendered:
    """Three bad training images (of them the first, held out by TFDS) and one bad test image."""

    def worse(part: list[Picture], encoded: dict[int, bytes]) -> list[Picture]:
        return [Picture(each.name, each.label, encoded.get(number, each.encoded)) for number, each in enumerate(part)]

    train = {0: b"", 30: pictures.train[30].encoded[:200], 31: b"this is text"}
    return Rendered(worse(pictures.train, train), worse(pictures.test, {15: b"\xff\xd8\xff"}))


@pytest.fixture(scope="module", params=list(WRITE))
def damaged(request, pictures, tmp_path_factory):
    return WRITE[request.param](tmp_path_factory.mktemp("damaged") / request.param, with_bad_images(pictures))


def test_a_bad_image_stops_with_its_name(damaged):
    data = opened(damaged)
    with pytest.raises(
        InputError,
        match=r"cannot read image .*n002_01[01]|cannot read image .*train.tfrecord-00001-of-00003 at byte \d+",
    ) as caught:
        taken(data.stream("train", 8, seed=0, augment=True), 12)
    assert "\n" not in str(caught.value) and "on_bad_image=skip" in str(caught.value)
    with pytest.raises(InputError, match="cannot read image"):
        list(data.once("test", 4))


def test_a_bad_image_stops_workers_with_one_sentence_too(damaged):
    with pytest.raises(InputError, match=r"cannot read image [^\n]*$"):
        taken(opened(damaged, num_workers=2).stream("train", 8, seed=0, augment=True), 12)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_skipped_and_counted(damaged, workers):
    data = opened(damaged, on_bad_image="skip", num_workers=workers)
    assert data.bad_images.report() is None
    assert sum(len(labels) for part in range(3) for _, labels in data.once("full_train", 16, shard=(part, 3))) == 80 - 3
    assert sum(len(labels) for part in range(3) for _, labels in data.once("test", 4, shard=(part, 3))) == 16 - 1
    assert len(data.bad_images.reasons) == 4
    assert data.bad_images.report().startswith("4 images could not be decoded and were left out: ")
    assert {"the file is empty", "cannot identify image file"} <= set(data.bad_images.reasons.values())


@pytest.mark.parametrize("split", ["full_train", "test"])
def test_a_stream_shows_the_next_good_image_instead(damaged, split):
    augment = split == "full_train"
    data = opened(damaged, on_bad_image="skip")
    size, bad = data.size(split), {0, 30, 31} if augment else {15}
    images, labels = next(data.stream(split, size, seed=0, augment=augment))
    assert len(labels) == size
    good = [next(place for k in range(size) if (place := (example + k) % size) not in bad) for example in range(size)]
    label_of = [number // (20 if augment else 4) for number in range(size)]
    order = permutation(size, 0, ("train", "valid", "full_train", "test").index(split), 0)
    assert labels.tolist() == [label_of[good[example]] for example in order]
    assert same(
        taken(data.stream(split, 8, seed=0, augment=augment), 2),
        list(zip(images[:16].split(8), labels[:16].split(8), strict=True)),
    )


def test_an_image_costs_the_same_wherever_it_stands(datasets):
    """Also at the end of a split of millions."""
    decoder = opened(datasets["folder", "PNG"])._parts["train"].decoder
    decoder.indices = np.resize(decoder.indices, 5_000_000)
    started = time.process_time()
    chunk = decoder[TrainingJob(np.zeros(50, np.int64), np.arange(4_999_900, 4_999_950), seed=0)]
    assert chunk.good.all() and time.process_time() - started < 1


def test_a_split_without_a_good_image_is_refused(tmp_path, pictures):
    bad = Rendered([Picture(each.name, each.label, b"") for each in pictures.train], pictures.test)
    data = opened(write_folder(tmp_path, bad), on_bad_image="skip")
    with pytest.raises(InputError, match="not one image of the split can be decoded"):
        next(data.stream("train", 4, seed=0, augment=True))
    with pytest.raises(InputError, match="not one image of the valid split"):
        next(data.once("valid", 4))


def test_a_file_that_vanished_is_named(tmp_path, pictures):
    data = opened(write_folder(tmp_path, pictures))
    gone = tmp_path / "val" / "n001" / "n001_000.png"
    gone.unlink()
    with pytest.raises(InputError, match=r"cannot read image .*n001_000.png: No such file or directory"):
        list(data.once("test", 4))


@pytest.mark.parametrize("kind", ["folder", "digits"])
def test_an_augmentation_is_the_same_for_any_workers_shards_and_start(kind, datasets, digits):
    augmentation = Augmentation(
        crop_scale=(0.5, 1.0), shift=0.1, hflip=0.2, rotate=9, shear=5, elastic=0.05, randaugment=5, random_erasing=0.5
    )
    near = digits if kind == "digits" else opened(datasets["folder", "PNG"], num_workers=0)
    far = digits if kind == "digits" else opened(datasets["folder", "PNG"], num_workers=2)
    whole = taken(near.stream("train", 12, seed=1, augment=augmentation), 3)
    assert same(whole[1:], taken(far.stream("train", 12, seed=1, augment=augmentation, start_step=1), 2))
    parts = [next(far.stream("train", 12, seed=1, augment=augmentation, shard=(k, 2)))[0] for k in range(2)]
    assert torch.equal(whole[0][0], torch.cat(parts))
    plain = next(near.stream("train", 12, seed=1, augment=False))
    assert not torch.equal(whole[0][0], plain[0]) and torch.equal(whole[0][1], plain[1])
