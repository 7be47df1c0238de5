"""Class folders: <class>/<image files>, at any depth below a class as torchvision reads them, with or without a
directory for each split above the classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunas.data.examples import Source, source_of, stem
from tunas.data.file_table import FileExamples
from tunas.data.flat import flat_examples, labels_of_imagenet
from tunas.data.formats import IMAGE_EXTENSIONS
from tunas.data.split_names import named_splits
from tunas.data.storage import concurrently
from tunas.errors import InputError

JUNK = frozenset(
    ("__macosx", "@eadir", "lost+found", "#recycle", "@recycle", "$recycle.bin", "system volume information")
)
"""Directories that operating systems and network storage leave behind, in lower case. Names that begin with a dot are
passed over too."""
JUNK_FILES = frozenset(("thumbs.db", "desktop.ini"))
"""The same of files."""
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
"""Where Kaggle's archive of ImageNet has train/ and val/."""
_SHOWN = 5
MET = 10_000
"""Files that are looked at in a directory that holds no dataset, to say what it holds."""
log = logging.getLogger("tunas.data")


class Listing(NamedTuple):
    """What lies below a class's directory.

    Args:
        directories: the directory itself as "", and those below it that hold images.
        files: (number of the directory, file name) of every image, in torchvision's order.
        unread: how many files of each extension are no images.
    """

    directories: list[str]
    files: list[tuple[int, bytes]]
    unread: Counter[str]


def open_folder(dataset_dir: str, *, allow_empty_classes: bool) -> Source:
    """The dataset in `dataset_dir`.

    Args:
        allow_empty_classes: whether directories without images are classes too.

    Raises:
        InputError: where there are no class directories with images, a class is empty and may not be, or a class to
        test on is none to train on.
    """
    root = split_root(Path(dataset_dir)) or Path(dataset_dir)
    title = Path(dataset_dir).resolve().name
    splits = named_splits(directories(root), str(root))
    if not splits:
        class_names = directories(root)
        whole = _class_folders(root, class_names, allow_empty=allow_empty_classes)
        return source_of(title, "folder", class_names, {"all": whole})
    if "train" not in splits:
        return _evaluation_alone(title, root, splits)
    train_root = root / splits["train"]
    class_names = directories(train_root)
    if not class_names:
        raise InputError(f"{train_root} must hold one directory of images for each class")
    train = _class_folders(train_root, class_names, allow_empty=allow_empty_classes)
    parts, unread = {"train": train}, []
    for name in ("valid", "test"):
        if name in splits:
            examples, why = _labelled(root / splits[name], class_names)
            if examples is None:
                unread.append(why)
            else:
                parts[name] = examples
    return source_of(title, "folder", class_names, parts, no_test="; ".join(unread))


def has_split_folders(root: Path) -> bool:
    """Whether there are directories of splits that hold directories, and no shards."""
    inner = split_root(root)
    if inner is None:
        return False
    splits = named_splits(directories(inner), str(inner))
    first = inner / splits.get("train", next(iter(splits.values())))
    return bool(directories(first)) and not any(
        name.endswith((".tar", ".parquet", ".arrow")) for name in os.listdir(first)
    )


def has_class_folders(root: Path) -> bool:
    """Whether there are directories with images, which no directory names as a split's."""
    return any(_has_image(root / name) for name in directories(root))


def split_root(root: Path) -> Path | None:
    """The directory at or below `root` that holds directories named like splits; None where there is none."""
    for place in (root, *(root / inner for inner in KAGGLE)):
        if place.is_dir() and named_splits(directories(place), str(place)):
            return place
    return None


def directories(root: Path) -> list[str]:
    """Names of the directories in a directory, sorted, without what is known to be no part of a dataset."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if not _is_junk(entry.name) and entry.is_dir())
    except OSError:
        return []


def extensions_in(root: Path) -> Counter[str]:
    """How many files of each extension lie at or below a directory, of the first `MET` that are met."""
    found: Counter[str] = Counter()
    for _, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not _is_junk(name))
        found.update(_extension(name) for name in names if not _is_junk(name))
        if found.total() >= MET:
            break
    return found


def counted(extensions: Counter[str]) -> str:
    """In words: `90 .jpg, 2 .txt`."""
    shown = [f"{count} {extension or 'without extension'}" for extension, count in extensions.most_common(_SHOWN)]
    return ", ".join([*shown, "…"] if len(extensions) > _SHOWN else shown)


def _labelled(root: Path, class_names: Sequence[str]) -> tuple[FileExamples | None, str]:
    """The images of a split beside the training images; None and the reason where they have no labels."""
    found = directories(root)
    if unknown := sorted(set(found) - set(class_names)):
        raise InputError(
            f"{root} holds {len(unknown)} classes that the training images have not, such as {unknown[0]!r}"
        )
    if found:
        examples = _class_folders(root, class_names, allow_empty=True)
        return (examples, "") if len(examples) else (None, f"{root} holds no images")
    names = _listing(str(root)).files
    if not names:
        return None, f"{root} holds no images"
    flat = [os.fsdecode(name) for _, name in names]
    labels, why = labels_of_imagenet(root)
    if labels is None or not any(stem(name) in labels for name in flat):
        return None, (
            f"{root} is not read: it holds {len(names)} images but no class directories; move each into "
            f"{root.name}/<class>/{why} (see docs/data.md)"
        )
    return flat_examples(root, flat, labels, class_names), ""


def _evaluation_alone(title: str, root: Path, splits: dict[str, str]) -> Source:
    """A dataset without training images."""
    name = splits.get("valid") or splits["test"]
    class_names = directories(root / name)
    if not class_names:
        raise InputError(f"{root} holds {name}/ without class directories, and no training images")
    test = _class_folders(root / name, class_names, allow_empty=False)
    return source_of(title, "folder", class_names, {"test": test})


def _class_folders(root: Path, class_names: Sequence[str], *, allow_empty: bool) -> FileExamples:
    """The images of every class, class by class.

    Raises:
        InputError: where there are none, or a class has none and must have some.
    """
    listings = concurrently(lambda name: _listing(os.path.join(root, name)), class_names)
    counts = [len(listing.files) for listing in listings]
    unread = sum((listing.unread for listing in listings), Counter())
    if not sum(counts):
        there = f" (but {counted(unread)})" if unread else ""
        raise InputError(f"{root} holds no image files in its {len(class_names)} class directories{there}")
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty and not allow_empty:
        some = ", ".join(map(repr, empty[:_SHOWN])) + (", …" if len(empty) > _SHOWN else "")
        raise InputError(
            f"{len(empty)} directories in {root} hold no images: {some}; remove them, or keep them as classes with "
            f"--allow_empty_classes"
        )
    if unread:
        log.warning(
            "%s: %d files are no images that can be read and are left out: %s", root, unread.total(), counted(unread)
        )
    paths: list[str] = []
    starts: list[int] = []
    for name, listing in zip(class_names, listings, strict=True):
        starts.append(len(paths))
        paths += [os.path.join(name, below) if below else name for below in listing.directories]
    places = (
        (start + number, name)
        for start, listing in zip(starts, listings, strict=True)
        for number, name in listing.files
    )
    return FileExamples(str(root), paths, places, np.repeat(np.arange(len(class_names)), counts), class_names)


def _listing(directory: str) -> Listing:
    """Images at or below a directory; none where there is no such directory. Links are followed, once each."""
    found: dict[str, list[str]] = {}
    unread: Counter[str] = Counter()
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        path = os.path.join(directory, below) if below else directory
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if _is_junk(entry.name):
                        continue
                    if entry.is_dir():
                        state = entry.stat()
                        inode = (state.st_dev, state.st_ino)
                        if inode not in above:  # a link may lead back up
                            waiting.append((os.path.join(below, entry.name), above | {inode}))
                    elif (extension := _extension(entry.name)) in IMAGE_EXTENSIONS:
                        found.setdefault(below, []).append(entry.name)
                    else:
                        unread[extension] += 1
        except FileNotFoundError:
            if not below:
                return Listing([], [], unread)
            raise InputError(f"{path} vanished while it was read") from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
    below_sorted = sorted(found)
    files = [(number, os.fsencode(name)) for number, below in enumerate(below_sorted) for name in sorted(found[below])]
    return Listing(below_sorted, files, unread)


def _has_image(directory: Path) -> bool:
    """Whether an image lies at or below a directory, of the first files that are met."""
    for number, (_, inner, names) in enumerate(os.walk(directory, followlinks=True)):
        inner[:] = sorted(name for name in inner if not _is_junk(name))
        if any(_extension(name) in IMAGE_EXTENSIONS for name in names if not _is_junk(name)):
            return True
        if number > 100:
            break
    return False


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK or name.lower() in JUNK_FILES


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()
