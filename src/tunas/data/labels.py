"""From what a dataset writes beside its images (numbers or names) to classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from tunas.errors import InputError

MANY = 50
"""With more classes than this, labels that differ for most images are refused as no classes."""


def classes_of(texts: Iterable[Sequence[str] | np.ndarray], where: str) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """(class names in the order of the labels, int64 labels of every list).

    Numbers from 0 up of which few are missing stand for themselves; others, and names, are numbered in their order.

    Args:
        texts: labels as text, list by list (the splits of a dataset).
        where: what to call their place in a message.

    Raises:
        InputError: where they are numbers and names mixed, numbers with fractions, or as many as there are images.
    """
    lists = [np.asarray(part, dtype=np.str_) if len(part) else np.empty(0, np.str_) for part in texts]
    names = sorted({str(name) for part in lists for name in np.unique(part)})
    if not names:
        return (), [np.empty(0, np.int64) for _ in lists]
    total = sum(map(len, lists))
    numeric = [name for name in names if re.fullmatch(r"\d{1,9}", name)]
    if fractions := [name for name in names if re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", name.lower())]:
        raise InputError(f"the labels of {where} are numbers such as {fractions[0]}, which are no classes")
    if negative := [name for name in names if re.fullmatch(r"-\d+", name)]:
        raise InputError(f"a label of {where} is {negative[0]}; classes are whole numbers from 0 up, or names")
    if numeric and len(numeric) < len(names):
        other = next(name for name in names if name not in set(numeric))
        raise InputError(f"the labels of {where} are numbers such as {numeric[0]} and names such as {other!r}; use one")
    if len(names) > MANY and len(names) > total / 2:
        raise InputError(
            f"the labels of {where} differ for {len(names)} of {total} images (such as {names[0][:60]!r}): these are "
            f"no classes"
        )
    if numeric:
        names.sort(key=int)
        top = int(names[-1])
        if top < 2 * len(names) and int(names[0]) == 0:  # as labels are written: from 0 to the largest
            return tuple(str(number) for number in range(top + 1)), [part.astype(np.int64) for part in lists]
    ordered = np.array(names)
    sorter = np.argsort(ordered)
    found = [
        sorter[np.searchsorted(ordered, part, sorter=sorter)] if len(part) else np.empty(0, np.int64) for part in lists
    ]
    return tuple(names), [part.astype(np.int64) for part in found]
