"""The words by which directories, shards and columns name a split: one table for every layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tunas.errors import InputError

WORDS = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}
"""Upper and lower case are the same."""


def split_of_word(word: str) -> str | None:
    """`train`, `valid` or `test` where the word names one, as a directory such as `Validation/` does."""
    return WORDS.get(word.strip().lower())


def split_of_name(name: str) -> str | None:
    """The split that a word within a file's name gives, as in `imagenet-train-0001.tar`; training comes first."""
    found = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    return next((split for split in ("train", "valid", "test") if split in found), None)


def named_splits(names: Iterable[str], where: str) -> dict[str, str]:
    """Split -> name of the directory that holds it, of the names that are a split's.

    Raises:
        InputError: where two of them name the same one, as `val` and `validation` do.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of_word(name)
        if split is None:
            continue
        if split in found:
            raise InputError(f"{where} holds both {found[split]!r} and {name!r}, which name the same split; keep one")
        found[split] = name
    return found


def files_by_split(paths: Sequence[str]) -> dict[str, list[str]]:
    """Split -> files, by the words of each file's own name or else of its directory's; `all` where none names one.

    Of a directory in which all files lie, the name counts only where it is a split's, and none of theirs names one.

    Raises:
        InputError: where some files name a split and others do not: these would silently join one of them.
    """
    places = [("", *path.replace("\\", "/").split("/"))[-2:] for path in paths]
    by_name = [split_of_name(name) for _, name in places]
    is_one = len({directory for directory, _ in places}) == 1
    by_split: dict[str, list[str]] = {}
    for path, (directory, _), named in zip(paths, places, by_name, strict=True):
        above = split_of_name(directory) if not is_one else None if any(by_name) else split_of_word(directory)
        by_split.setdefault(named or above or "all", []).append(path)
    unknown = by_split.get("all", [])
    if unknown and len(by_split) > 1:
        known = next(files[0] for split, files in by_split.items() if split != "all")
        raise InputError(
            f"{unknown[0]} names no split, while {known} does: name each file of the dataset by one of the words "
            f"{', '.join(WORDS)}"
        )
    return by_split
