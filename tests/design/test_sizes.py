"""Sizes that fit the data, and the minutes that there are."""

import dataclasses

import pytest

from tunas import InputError
from tunas.design.budget import FILLED, seconds_of, within
from tunas.design.estimate import Estimate
from tunas.design.sizes import Sizes, chosen_side

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
