"""Which training images are held out for validation (SPEC §5)."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tunas.data.examples import Source, stem
from tunas.data.storage import read_text
from tunas.errors import InputError

HELD_OUT = 50_046
"""Images of ImageNet's training set that are held out."""
HELD_OUT_PART = 25.6
"""Of a smaller dataset, one image in this many."""
_SHOWN = 3
log = logging.getLogger("tunas.data")


def held_out(source: Source, valid_filenames: str | None) -> np.ndarray:
    """bool `[training examples]`: which of them are held out.

    Args:
        source: the dataset.
        valid_filenames: path of a list of file names; else the first examples where the source is `in_order`, else a
            choice that depends on labels and file names alone: the same on every machine and in every layout.

    Raises:
        InputError: where the list cannot be read, names nothing of this dataset, names an ambiguous file, or leaves
        nothing to train on.
    """
    total = len(source.train)
    mask = np.zeros(total, bool)
    if valid_filenames is not None:
        mask[_listed(source, valid_filenames)] = True
        if mask.all():
            raise InputError(f"{valid_filenames} names all {total} training images, which leaves none to train on")
        return mask
    count = min(HELD_OUT, round(total / HELD_OUT_PART))
    if not 0 < count < total:
        raise InputError(f"{source.name} has {total} training images, too few to hold any out for validation")
    mask[:count] = True
    if source.in_order:
        return mask
    chosen = np.empty(total, bool)
    chosen[np.argsort(_hashes(source.train.file_ids()), kind="stable")] = mask
    return chosen


def _hashes(file_ids: Sequence[tuple[int, str]]) -> np.ndarray:
    """uint64 `[n]`, from label and name."""
    digests = (
        hashlib.blake2b(f"{label}/{name}".encode(errors="surrogateescape"), digest_size=8).digest()
        for label, name in file_ids
    )
    return np.frombuffer(b"".join(digests), "<u8")


def _listed(source: Source, path: str) -> list[int]:
    """Indices of the examples that a list names; what does not fit is reported with counts."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    wanted = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not wanted:
        raise InputError(f"{path} names no files")
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


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)} names ({shown}{', …' if len(names) > _SHOWN else ''})"
