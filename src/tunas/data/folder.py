"""ImageFolder: train/<class>/<image files> and val/<class>/<image files>, as torchvision reads it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from tunas.data.examples import IMAGE_EXTENSIONS, Source, stem
from tunas.data.storage import Range, concurrently
from tunas.errors import InputError

TRAIN = "train"
TEST_NAMES = ("val", "validation", "test")


class FolderExamples:
    """Image files in one directory a class, ordered by class and then by file name."""

    def __init__(self, root: Path, class_names: list[str]):
        self.root = str(root)
        self.class_names = class_names
        per_class = concurrently(lambda name: _image_names(root / name), class_names)
        counts = [len(names) for names in per_class]
        self._labels = np.repeat(np.arange(len(class_names)), counts)
        # One array of bytes rather than a million strings: processes that decode share it until it is written, which is
        # never.
        encoded = [name for names in per_class for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._labels)

    def _file_name(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.fsdecode(self._text[start : self._ends[index]])

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.class_names[self._labels[index]], self._file_name(index))

    def range(self, index: int) -> Range:
        return Range(self.name(index))

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        return content, int(self._labels[index])

    def file_ids(self) -> list[tuple[int, str]]:
        return [(label, stem(self._file_name(index))) for index, label in enumerate(self._labels.tolist())]

    def fingerprint(self, indices: np.ndarray) -> str:
        """From class, file name and size of the files."""

        def size(index: int) -> int:
            try:
                return os.stat(self.name(index)).st_size
            except OSError:
                return -1

        digest = hashlib.blake2b(digest_size=16)
        shares = np.array_split(indices, 64)
        lengths = [
            length for share in concurrently(lambda share: [size(index) for index in share], shares) for length in share
        ]
        for index, length in zip(indices, lengths, strict=True):
            digest.update(
                f"{self.class_names[self._labels[index]]}/{self._file_name(index)}\0{length}\n".encode(
                    errors="surrogateescape"
                )
            )
        return digest.hexdigest()


def looks_like_folder(root: Path) -> bool:
    return bool(_directories(root / TRAIN)) and not any(name.endswith(".tar") for name in os.listdir(root / TRAIN))


def open_folder(dataset_dir: str) -> Source:
    """The dataset in `dataset_dir`.

    Raises:
        InputError: where there is no train/ with a directory a class, no image in it, or a class in val/ that train/
        has not.
    """
    root = Path(dataset_dir)
    class_names = _directories(root / TRAIN)
    if not class_names:
        raise InputError(f"{root / TRAIN} must hold one directory of images for each class")
    train = FolderExamples(root / TRAIN, class_names)
    if not len(train):
        raise InputError(f"{root / TRAIN} holds no image files in its {len(class_names)} class directories")
    test_name = next((name for name in TEST_NAMES if (root / name).is_dir()), None)
    test = _test_examples(root / test_name, class_names) if test_name else None
    return Source(root.resolve().name, "folder", class_names, train, test)


def _test_examples(root: Path, class_names: list[str]) -> FolderExamples | None:
    found = _directories(root)
    if not found:
        if _image_names(root):
            raise InputError(
                f"{root} holds images but no class directories; move each into {root.name}/<class>/ (see "
                f"docs/imagenet.md)"
            )
        return None
    if unknown := sorted(set(found) - set(class_names)):
        raise InputError(
            f"{root} holds {len(unknown)} classes that the training images have not, such as {unknown[0]!r}"
        )
    return FolderExamples(root, class_names)


def _directories(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _image_names(directory: Path) -> list[bytes]:
    """File names of the images in a directory, sorted; none where there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {directory}: {error.strerror}") from None
    return [
        os.fsencode(n)
        for n in sorted(n for n in names if os.path.splitext(n)[1].lower() in IMAGE_EXTENSIONS and n[0] != ".")
    ]
