"""ImageNet's validation images as they are handed out: all in one directory, with their classes in a file beside."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tunas.data.examples import stem
from tunas.data.file_table import FileExamples
from tunas.data.storage import read_text
from tunas.errors import InputError

SOLUTION = "LOC_val_solution.csv"
"""Kaggle's: ImageId, PredictionString (class and box, perhaps several times)."""
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
"""The development kit's: a class number for each image."""
META = "meta.mat"
"""The development kit's: what the class numbers stand for."""
_DEVKIT = ("", "data", "devkit/data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12")
_LEVELS = 5
"""How far above the images the files are looked for."""


def labels_of_imagenet(root: Path) -> tuple[Mapping[str, str] | None, str]:
    """Image name without extension -> class, from a file near `root`; None and a hint where there is none.

    Raises:
        InputError: where such a file is there and cannot be understood.
    """
    if path := _near(root, (SOLUTION,)):
        return _kaggle_solution(path), ""
    truth = _near(root, [f"{place}/{GROUND_TRUTH}" if place else GROUND_TRUTH for place in _DEVKIT])
    if truth is None:
        return None, f", or put {SOLUTION} (Kaggle) or the development kit's {GROUND_TRUTH} and {META} beside it"
    meta = truth.parent / META
    if not meta.exists():
        return None, f", or put {META} of the development kit beside {truth}, which says what its numbers mean"
    return _devkit_labels(truth, meta), ""


def flat_examples(
    root: Path, names: Sequence[str], classes: Mapping[str, str], class_names: Sequence[str]
) -> FileExamples:
    """The images of one directory with the class of each.

    Raises:
        InputError: where an image has no class, or one that is none of `class_names`.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        each = classes.get(stem(name))
        if each is None:
            raise InputError(f"{root / name} is not in the list of validation labels")
        if each not in number_of:
            raise InputError(f"the class of {root / name} is {each!r}, which the training images have not")
        labels[row] = number_of[each]
    return FileExamples(str(root), [""], ((0, os.fsencode(name)) for name in names), labels, class_names)


def _near(root: Path, names: Sequence[str]) -> Path | None:
    """The first of the files in a directory or the next ones above it."""
    for place in (root, *list(root.absolute().parents)[:_LEVELS]):
        for name in names:
            if (place / name).is_file():
                return place / name
    return None


def _kaggle_solution(path: Path) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(read_text(str(path))))
    if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
        raise InputError(f"{path} must have the columns ImageId and PredictionString")
    return {stem(row["ImageId"]): (row["PredictionString"] or "").partition(" ")[0] for row in rows}


def _devkit_labels(truth: Path, meta: Path) -> dict[str, str]:
    numbers = read_text(str(truth)).split()
    classes = dict(_devkit_classes(meta))
    try:
        return {f"ILSVRC2012_val_{place:08d}": classes[int(number)] for place, number in enumerate(numbers, start=1)}
    except (ValueError, KeyError) as error:
        raise InputError(f"{truth} must hold one class number of {meta} a line: {error} is none") from None


def _devkit_classes(path: Path) -> Iterator[tuple[int, str]]:
    """(number, WordNet id) of every class in the development kit's meta.mat."""
    from scipy.io import loadmat

    try:
        rows = loadmat(str(path), squeeze_me=True)["synsets"]
        for row in rows:
            number, name = int(row["ILSVRC2012_ID"]), str(row["WNID"])
            if re.fullmatch(r"n\d{8}", name):
                yield number, name
    except (OSError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
