"""Which training images are held out, for validation and as a test set (docs/algorithm.md#data)."""

from __future__ import annotations

import array
import functools
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tunas.data.examples import Source, stem
from tunas.data.storage import read_text
from tunas.errors import InputError

IMAGENET = 1_281_167
"""Training images of ImageNet, whose held-out part is published."""
HELD_OUT = 50_046
"""Images that are held out of ImageNet's training set, and at most of any other."""
HELD_OUT_PART = 25.6
"""One image in so many is held out of a dataset of at least `SMALL` images."""
SMALL = 100_000
SMALL_FRACTION = 0.1
"""Part of every class that is held out of a smaller dataset: one in 25.6 would be too few images to search by."""
_SHOWN = 3
log = logging.getLogger("tunas.data")


class HeldOut(NamedTuple):
    """bool `[training examples]` each: those held out for validation, and those for the test set."""

    valid: np.ndarray
    test: np.ndarray


def choose_held_out(
    source: Source,
    valid_filenames: str | None = None,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
) -> HeldOut:
    """What is held out of the training images of a source.

    Args:
        source: the dataset; its training images.
        valid_filenames: path of a list of names to validate on.
        valid_fraction: part of every class to validate on. Where both are left out: of ImageNet its published part, of
            a dataset below `SMALL` images 10 %, of a larger one 1 in 25.6; nothing where the dataset has a part of its
            own.
        test_fraction: part of every class to test on. Where left out: as much as to validate on where nothing says
            which images are for training, otherwise none.

    Returns:
        A choice that depends on labels and file names alone: the same on every machine and in every layout, of every
        class in proportion, and at least one image of every class that has two (to validate on) or three (to test on).
        Where the source is `in_order`, the first images of every class in place of a choice.

    Raises:
        InputError: where the list cannot be read, names nothing of this dataset or an ambiguous file, a fraction cannot
            be, or nothing is left to train on.
    """
    _check_fractions(source, valid_filenames, valid_fraction, test_fraction)
    table = _Table(source)
    nothing = np.zeros(table.size, bool)
    wants_test = test_fraction is not None or not source.names_splits
    test = _part(table, nothing, test_fraction, least=3) if wants_test else nothing
    if valid_filenames is not None:
        valid = nothing.copy()
        valid[_listed(source, valid_filenames)] = True
        if valid.all():
            raise InputError(f"{valid_filenames} names all {table.size} training images, which leaves none to train on")
        return HeldOut(valid, test & ~valid)
    if source.valid is not None:
        return HeldOut(nothing, test)
    valid = _part(table, test, valid_fraction, least=2)
    if not valid.any() or (valid | test).all():
        raise InputError(f"{source.name} has {table.size} training images, too few to hold any out for validation")
    _warn_of_classes_without(table, valid)
    return HeldOut(valid, test)


def _check_fractions(
    source: Source, valid_filenames: str | None, valid_fraction: float | None, test_fraction: float | None
) -> None:
    """Refuses fractions that cannot be, or that say what the source or the list of names says already."""
    for name, fraction in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if fraction is not None and not 0 < fraction < 1:
            raise InputError(f"{name} must be above 0 and below 1, not {fraction}")
    if (valid_fraction or 0) + (test_fraction or 0) >= 1:
        raise InputError(f"valid_fraction {valid_fraction} and test_fraction {test_fraction} leave nothing to train on")
    if test_fraction is not None and source.test is not None:
        raise InputError(f"{source.name} has a test set of its own; leave out test_fraction")
    if valid_fraction is not None and source.valid is not None:
        raise InputError(f"{source.name} has validation images of its own beside a test set; leave out valid_fraction")
    if valid_fraction is not None and valid_filenames is not None:
        raise InputError("valid_filenames names what is held out for validation; leave out valid_fraction")


class _Table:
    """The training images of a source, as far as choosing among them goes."""

    def __init__(self, source: Source):
        assert source.train is not None
        self.source = source
        self._examples = source.train
        self.size = len(source.train)
        self.is_published = self.size == IMAGENET or (source.in_order and self.size >= SMALL)

    @functools.cached_property
    def _labels_and_hashes(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 and uint64 `[examples]`; names one by one, because a million take much room."""
        labels = array.array("q")
        digests = bytearray()
        for label, name in self._examples.file_ids():
            labels.append(label)
            text = f"{label}/{name}".encode(errors="surrogateescape")
            digests += hashlib.blake2b(text, digest_size=8).digest()
        return np.frombuffer(labels, np.int64), np.frombuffer(digests, "<u8")

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int64 `[examples]`."""
        if self.source.in_order:
            return np.asarray(self._examples.labels(), np.int64)
        return self._labels_and_hashes[0]

    @functools.cached_property
    def order(self) -> np.ndarray:
        """The order in which examples are chosen: as they lie, or by a hash of label and name."""
        if self.source.in_order:
            return np.arange(self.size)
        return np.argsort(self._labels_and_hashes[1], kind="stable")


def _part(table: _Table, taken: np.ndarray, fraction: float | None, *, least: int) -> np.ndarray:
    """bool `[training examples]`: a part of those not yet `taken`.

    Args:
        fraction: of all images of every class; None for the default.
        least: images that a class must have for one of them to be held out.
    """
    count = min(HELD_OUT, round(table.size / HELD_OUT_PART))
    if fraction is None and table.is_published:
        mask = np.zeros(table.size, bool)
        mask[table.order[~taken[table.order]][:count]] = True
        return mask
    if fraction is None:
        fraction = SMALL_FRACTION if table.size < SMALL else count / table.size
    return _stratified(table, taken, fraction, least)


def _stratified(table: _Table, taken: np.ndarray, fraction: float, least: int) -> np.ndarray:
    """Of every class the first images in the order: the fraction of them, rounded, and at least one where it has
    `least`, while at least one is left to train on."""
    labels, order = table.labels, table.order
    sizes = np.bincount(labels)
    wanted = np.maximum(np.floor(sizes * fraction + 0.5).astype(np.int64), sizes >= least)
    free = order[~taken[order]]
    left = np.bincount(labels[free], minlength=len(sizes))
    wanted = np.minimum(wanted, np.maximum(left - 1, 0))
    by_class = free[np.argsort(labels[free], kind="stable")]
    starts = np.cumsum(left) - left
    rank = np.arange(len(by_class)) - starts[labels[by_class]]
    mask = np.zeros(table.size, bool)
    mask[by_class[rank < wanted[labels[by_class]]]] = True
    return mask


def _warn_of_classes_without(table: _Table, valid: np.ndarray) -> None:
    """Says which classes have no image to validate on; not where the choice is published or in order, where finding out
    would mean to read every record."""
    if table.is_published:
        return
    names = table.source.class_names
    sizes = np.bincount(table.labels, minlength=len(names))
    held = np.bincount(table.labels[valid], minlength=len(names))
    if without := [names[k] for k in np.flatnonzero((held == 0) & (sizes > 0)).tolist()]:
        log.warning("%s have no image to validate on: too few images", _some(without, "classes"))


def _listed(source: Source, path: str) -> list[int]:
    """Indices of the examples that a list names; what does not fit is reported with counts."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    wanted = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not wanted:
        raise InputError(f"{path} names no files")
    assert source.train is not None
    by_stem: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, (label, name) in enumerate(source.train.file_ids()):
        by_stem[name].append((index, label))
    found: list[int] = []
    unknown: list[str] = []
    ambiguous: list[str] = []
    for line in wanted:
        matches = by_stem.get(stem(line), [])
        if len(matches) > 1:
            directory = line.replace("\\", "/").rpartition("/")[0].rpartition("/")[2]
            matches = [match for match in matches if source.class_names[match[1]] == directory] or matches
        if len(matches) == 1:
            found.append(matches[0][0])
        else:
            (ambiguous if matches else unknown).append(line)
    if ambiguous:
        raise InputError(f"{_some(ambiguous)} of {path} fit several training images; write them as class/name")
    if not found:
        raise InputError(
            f"none of the {len(wanted)} names in {path} is a training image of {source.name}, for example {wanted[0]!r}"
        )
    if unknown:
        log.warning(
            "%s of %s are no training images of %s; %d are held out", _some(unknown), path, source.name, len(set(found))
        )
    return sorted(set(found))


def _some(names: Sequence[str], what: str = "names") -> str:
    """How many there are, and the first of them."""
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)} {what} ({shown}{', …' if len(names) > _SHOWN else ''})"
