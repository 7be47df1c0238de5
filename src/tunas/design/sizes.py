"""Sensible sizes for the data at hand, each with the reason that is printed. Imports no torch."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.errors import InputError
from tunas.recipe.choose import PUBLISHED_FROM, batch_size
from tunas.recipe.defaults import EPOCHS
from tunas.search.config import SearchConfig
from tunas.search.plan import DIGITS_EPOCHS
from tunas.train.config import TrainConfig

SIDES = (64, 96, 128, 160, 192, 224)
"""Pixels a side that are chosen from."""
SIDE_BELOW = ((2_000, 96), (10_000, 128), (50_000, 160))
"""(number, largest side where there are fewer training images than that)."""
ASKED = 64
"""Images whose own size is looked up."""
SEARCH_STEPS, SEARCH_EPOCHS = 1_500, 20
"""Steps, and least epochs, of a search on fewer images than `PUBLISHED_FROM`: enough to land and to rank; the rest of
the published 90 epochs would be spent on weights that are thrown away."""
TRANSFER_EPOCHS = 30.0
"""Epochs of a training from weights that have learned before."""
NETWORKS = 120
"""Networks that are measured: with four times as many the error of the cost model fell by a fifth (docs/devices.md)."""
ASKS_NETWORKS = "num_architectures"
"""The flag of `tunas measure` that says another number."""
BRIEFLY = 0.2
"""Part of a training's epochs that candidates are trained for."""
DIGITS_TRAIN_EPOCHS = 12.0


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Args:
        image_size: pixels a side; None for a task without images.
        networks: measured on the device; 0 where none is.
        search_epochs, candidate_epochs, train_epochs: of the search, of a candidate's brief training, of a training.
        candidates: for each target; 1 where the search's own result is taken.
        random: random architectures for each target.
        seeds: trainings of each architecture that is compared.
        init_from: what trainings start from; None for fresh weights.
        hflip: chance that a training image is mirrored, as a probe found; None where each run's own rules decide.
        checkpoints: command -> steps between two checkpoints, so that a killed run loses little.
        tests: whether the last trainings learn from all training examples and are evaluated on the test set.
        reasons: what -> why it is so large, in words.
    """

    image_size: int | None
    networks: int
    search_epochs: float
    candidate_epochs: float
    train_epochs: float
    candidates: int
    random: int
    seeds: int
    init_from: str | None
    hflip: float | None
    checkpoints: dict[str, int]
    tests: bool
    reasons: dict[str, str]

    def but(self, why: dict[str, str], **changes: Any) -> Sizes:
        """The same sizes but for `changes`, with the reasons for these."""
        return dataclasses.replace(self, **changes, reasons={**self.reasons, **why})


def chosen_side(train_size: int, own_side: int | None) -> tuple[int, str]:
    """Pixels a side for so many training images, and the reason.

    Args:
        own_side: what the images themselves have, on their shorter side; None where that is not known.
    """
    most, below = next(((side, number) for number, side in SIDE_BELOW if train_size < number), (SIDES[-1], 0))
    few = f"{train_size:,} training images, fewer than {below:,}" if below else f"{train_size:,} training images"
    if own_side is not None and own_side < most:
        side = max([side for side in SIDES if side <= own_side] or [SIDES[0]])
        return side, f"the images are {own_side} px themselves, and larger inputs would show no more"
    full = (SIDES[-1] / most) ** 2
    return most, f"{few}" + (f"; a step at {SIDES[-1]} px would take {full:.1f} times as long" if below else "")


def own_side(data: Any) -> int | None:
    """The median of the shorter side of some training images as they are stored; None where they cannot be opened."""
    from PIL import Image

    sides = []
    for content in data.stored("train", ASKED):
        try:
            with Image.open(io.BytesIO(content)) as image:
                sides.append(min(image.size))
        except (OSError, ValueError):
            continue
    return int(np.median(sides)) if sides else None


def networks_to_measure(said: Sequence[str]) -> tuple[int, str]:
    """How many networks are measured.

    Args:
        said: flags of `tunas measure` that the user gave.

    Raises:
        InputError: where one asks for no number of them.
    """
    for asked in [flag.partition("=")[2] for flag in said if name_of(flag) == ASKS_NETWORKS]:
        if not (asked.isdecimal() and int(asked)):
            raise InputError(f"--measure {ASKS_NETWORKS}={asked}: give how many networks are measured")
        return int(asked), "as asked for"
    return NETWORKS, "with four times as many a cost model's error falls by a fifth"


def name_of(flag: str) -> str:
    """Of a flag of another command, as `name=value`."""
    return flag.removeprefix("--").partition("=")[0].replace("-", "_")


def search_epochs(config: SearchConfig, train_size: int, *, digits: bool) -> tuple[float, str]:
    """Epochs of the search, and the reason."""
    if config.epochs is not None:
        return config.epochs, "as asked for"
    if digits:
        return DIGITS_EPOCHS, "the embedded digits"
    if train_size >= PUBLISHED_FROM:
        return EPOCHS, "as published"
    batch = config.train_batch_size or batch_size(config, train_size)
    epochs = min(EPOCHS, max(SEARCH_EPOCHS, round(SEARCH_STEPS * batch / train_size)))
    least = f"at least {SEARCH_EPOCHS} epochs, " if epochs == SEARCH_EPOCHS else ""
    return epochs, f"{least}{int(epochs * train_size // batch):,} steps"


def train_epochs(config: TrainConfig, *, transfers: bool, digits: bool) -> tuple[float, str]:
    """Epochs of a training that counts, and the reason."""
    if config.epochs is not None:
        return config.epochs, "as asked for"
    if digits:
        return DIGITS_TRAIN_EPOCHS, "the embedded digits"
    if transfers:
        return TRANSFER_EPOCHS, "its weights have learned before"
    return EPOCHS, "as published"


def in_words(sizes: Sizes) -> Iterable[str]:
    """A line for each size that was chosen."""
    values = {
        "image_size": f"{sizes.image_size} px a side",
        "networks": f"{sizes.networks} networks to measure",
        "search_epochs": f"{sizes.search_epochs:.3g} epochs of search",
        "candidate_epochs": f"{sizes.candidate_epochs:.3g} epochs for each of {sizes.candidates} candidates",
        "train_epochs": f"{sizes.train_epochs:.3g} epochs of training",
        "candidates": f"{sizes.candidates} candidates",
        "random": f"{sizes.random} random architectures",
        "seeds": f"{sizes.seeds} seeds",
        "init_from": f"trainings start from {sizes.init_from}" if sizes.init_from else "trainings start afresh",
        "hflip": "training images are mirrored" if sizes.hflip else "training images are not mirrored",
        "tests": "the test set evaluates" if sizes.tests else "held-out examples evaluate",
    }
    for name, why in sizes.reasons.items():
        yield f"{values[name]}: {why}"
