"""Which dataset a run belongs to: its classes and a fingerprint of its examples, whatever its path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunas.errors import InputError

CLASS_NAMES, FINGERPRINT, IMAGES = "class_names", "dataset_fingerprint", "dataset_images"
COMPARED = frozenset((CLASS_NAMES, FINGERPRINT, IMAGES, "dataset"))
"""Entries of `params.json` that `check_same_dataset` has compared, in words of its own."""


@dataclass(frozen=True)
class Identity:
    """What makes two datasets the same.

    Attributes:
        class_names: in the order of the labels.
        fingerprint: of the list of examples with their labels, a dash, and of the choice that is held out; None where
            it is unknown.
        images: to train on, held-out ones included.
    """

    class_names: tuple[str, ...]
    fingerprint: str | None
    images: int

    def params(self) -> dict[str, Any]:
        """What `params.json` says."""
        return {
            CLASS_NAMES: list(self.class_names),
            FINGERPRINT: self.fingerprint,
            IMAGES: self.images,
        }


def identity_of(params: Mapping[str, Any]) -> Identity | None:
    """What `params.json` of a run says; None where it says nothing, as before these entries were written."""
    names = params.get(CLASS_NAMES)
    if not isinstance(names, list):
        return None
    fingerprint, images = params.get(FINGERPRINT), params.get(IMAGES)
    return Identity(
        tuple(map(str, names)),
        fingerprint if isinstance(fingerprint, str) else None,
        images if isinstance(images, int) else 0,
    )


def check_same_classes(here: Identity, run: Identity, where: object, hint: str = "") -> None:
    """Compares number, names and order of the classes of a dataset and of a run.

    Args:
        hint: ends the sentence of the refusal.

    Raises:
        InputError: naming the first difference.
    """
    if difference := _first_difference(run.class_names, here.class_names):
        raise InputError(f"the classes of the dataset are not those of the run in {where}: {difference}{hint}")


def has_same_examples(here: Identity, run: Identity) -> bool:
    """Whether the training images are the same, whatever is held out of them."""
    if here.fingerprint is None or run.fingerprint is None:
        return False
    return here.fingerprint.partition("-")[0] == run.fingerprint.partition("-")[0]


def check_same_dataset(here: Identity, run: Identity, where: object) -> None:
    """Compares a dataset with the one that a run began with, which may lie elsewhere now.

    Raises:
        InputError: naming the first difference.
    """
    check_same_classes(here, run, where)
    if run.fingerprint in (None, here.fingerprint):
        return
    how = (
        "other images are held out"
        if has_same_examples(here, run)
        else f"{here.images} training images in place of {run.images}"
        if run.images != here.images
        else "other file names or labels"
    )
    raise InputError(
        f"the dataset is not the one that the run in {where} began with: {how}; name another --checkpoint_dir, or give "
        f"the same images"
    )


def _first_difference(old: Sequence[str], new: Sequence[str]) -> str:
    for number, (was, now) in enumerate(zip(old, new, strict=False)):
        if was != now:
            return f"class {number} was {was!r} and is now {now!r} ({len(old)} classes then, {len(new)} now)"
    return f"{len(old)} classes then, {len(new)} now" if len(old) != len(new) else ""
