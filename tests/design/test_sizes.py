"""Sizes that fit the data, and the minutes that there are."""

import dataclasses

import pytest

from tunas import InputError, SearchConfig, Space, get_space, space_around
from tunas.design.budget import FILLED, seconds_of, within
from tunas.design.estimate import Estimate
from tunas.design.pretrained import initial_weights
from tunas.design.sizes import Sizes, chosen_side, search_epochs
from tunas.nn import timm_space

SIZES = Sizes(
    image_size=96,
    networks=100,
    search_epochs=90.0,
    candidate_epochs=9.0,
    train_epochs=90.0,
    candidates=4,
    random=4,
    seeds=2,
    init_from=None,
    hflip=None,
    checkpoints={},
    tests=True,
    reasons={},
)


def estimated(sizes: Sizes) -> dict[str, Estimate]:
    """A second for each network, each epoch of search and each epoch of training."""
    trainings = sizes.seeds * (1 + sizes.random)
    candidates = sizes.candidates if sizes.candidates > 1 else 0
    return {
        "measure": Estimate(1.0 * sizes.networks),
        "search": Estimate(sizes.search_epochs),
        "candidates": Estimate(sizes.candidate_epochs * candidates),
        "train": Estimate(sizes.train_epochs * trainings),
        "report": Estimate(5.0),
    }


def fitted(minutes: float) -> Sizes:
    return within(minutes, 60 * minutes, SIZES, estimated, lambda sizes: int(10 * sizes.search_epochs), 30)


def test_what_fits_stays_as_it_is():
    assert fitted(20) == SIZES  # 1,131 of 1,200 seconds


def test_a_little_less_time_shortens_searches_and_trainings_alike():
    found = fitted(18)
    part = found.train_epochs / 90
    assert 0.8 < part < 1 and found.search_epochs == pytest.approx(90 * part)
    assert dataclasses.replace(found, reasons={}) == dataclasses.replace(
        SIZES, search_epochs=90 * part, candidate_epochs=9 * part, train_epochs=90 * part
    )
    assert seconds_of(estimated(found)) == pytest.approx(FILLED * 18 * 60, rel=1e-3)
    assert found.reasons["train_epochs"] == "not 90: 18 minutes for everything"


def test_comparisons_are_left_out_before_trainings_become_too_short_to_mean_anything():
    found = fitted(6)
    assert (found.networks, found.seeds, found.random, found.candidates) == (100, 1, 2, 4)
    assert 45 <= found.train_epochs < 90 and seconds_of(estimated(found)) <= FILLED * 360
    assert {"seeds", "random", "train_epochs"} <= found.reasons.keys()
    less = fitted(3)
    assert (less.networks, less.seeds, less.random, less.candidates) == (51, 1, 0, 4)
    assert less.train_epochs < 90 and "networks" in less.reasons


def test_too_little_time_for_anything_is_refused_with_what_is_needed():
    with pytest.raises(InputError, match=r"--minutes=0.7 is not enough: with 30 networks .* about 1.0 minutes"):
        fitted(0.7)


@pytest.mark.parametrize(
    ("images", "own", "side", "reason"),
    [
        (1_000, 500, 96, "1,000 training images, fewer than 2,000; a step at 224 px would take 5.4 times"),
        (5_000, None, 128, "fewer than 10,000"),
        (1_000_000, 400, 224, "1,000,000 training images"),
        (20_000, 100, 96, "the images are 100 px themselves"),
        (20_000, 28, 64, "the images are 28 px themselves"),
    ],
)
def test_images_are_as_large_as_their_number_and_their_own_size_make_sensible(images, own, side, reason):
    chosen, why = chosen_side(images, own)
    assert chosen == side and reason in why


@pytest.mark.parametrize(
    ("size", "flags", "epochs", "reason"),
    [
        (500, {}, 90, "703 steps"),
        (2_000, {}, 48, "1,500 steps"),
        (9_000, {}, 20, "at least 20 epochs, 2,812 steps"),
        (50_000, {}, 20, "at least 20 epochs, 3,906 steps"),
        (50_000, {"train_batch_size": 2048}, 61, "1,489 steps"),
        (50_000, {"recipe": "published"}, 61, "1,489 steps"),
        (99_999, {"epochs": 3.0}, 3, "as asked for"),
        (100_000, {}, 90, "as published"),
    ],
)
def test_a_search_on_small_data_takes_the_steps_and_epochs_that_it_takes_to_land_and_to_rank(
    size, flags, epochs, reason
):
    assert search_epochs(SearchConfig(**flags), size, digits=False) == (epochs, reason)


class Photographs:
    name, data = "photos", object()

    def __init__(self, size):
        self.count = size

    def size(self, split):
        return self.count


def test_few_images_start_from_the_weights_that_the_space_is_around_where_these_are_here(tmp_path, monkeypatch):
    space = Space("mine", space_around("tinynet_e").tower)
    few, many = Photographs(720), Photographs(200_000)
    monkeypatch.setattr(timm_space, "local_weights", lambda name: None)
    nothing, why = initial_weights(None, space, few)
    assert nothing is None and "weights of timm's tinynet_e" in why and "are not on this machine" in why
    monkeypatch.setattr(timm_space, "local_weights", lambda name: tmp_path / name)
    found, why = initial_weights(None, space, few)
    assert found == str(tmp_path / "tinynet_e")
    assert why == "720 training images are few, and networks of mine inherit from timm's tinynet_e"
    assert initial_weights(None, space, many) == (None, "")
    assert initial_weights("none", space, few)[0] is None and initial_weights("x.pth", space, many)[0] == "x.pth"
    assert "no weights are known" in initial_weights(None, get_space("proxylessnas_search"), few)[1]
