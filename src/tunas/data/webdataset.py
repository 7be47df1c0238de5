"""WebDataset: tar files in which consecutive members of one name and different extensions make an example, such as
n01_7.jpg and n01_7.cls.

The shards are read by place rather than from end to end: an index of every image's place is made once, so that an order
is a function of the step here too, and a remote shard is asked for the pieces that a batch needs (many at a time).
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tunas.data.examples import IMAGE_EXTENSIONS, Source, stem
from tunas.data.index import ShardIndex, kept_arrays, shards_key
from tunas.data.progress import progress
from tunas.data.storage import Range, concurrently, is_remote, join, list_names, open_binary, read_text, reason
from tunas.errors import InputError

SEPARATOR = "::"
"""Between several patterns."""
CLASS_NAME_FILES = ("classnames.txt", "classes.txt", "labels.txt")
LABEL_EXTENSIONS = ("cls", "json")
MAX_SHARDS = 1_000_000
_TRAIN_WORDS = {"train", "training"}
_TEST_WORDS = ({"val", "valid", "validation"}, {"test"})
_SPLIT_WORDS = _TRAIN_WORDS | _TEST_WORDS[0] | _TEST_WORDS[1]


class TarExamples:
    """Images in tar files, shard by shard, in the order within the shard."""

    def __init__(self, index: ShardIndex, labels: np.ndarray, names: np.ndarray):
        self._index = index
        self.labels = labels
        self._names = names

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        return f"{self._names[index].decode(errors='replace')} in {self._index.place(index)[0]}"

    def range(self, index: int) -> Range:
        return Range(*self._index.place(index))

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        return content, int(self.labels[index])

    def file_ids(self) -> list[tuple[int, str]]:
        return [
            (label, stem(name.decode(errors="replace")))
            for label, name in zip(self.labels.tolist(), self._names, strict=True)
        ]

    def fingerprint(self, indices: np.ndarray) -> str:
        labels = np.ascontiguousarray(self.labels[indices], "<i8")
        return self._index.fingerprint(indices) + hashlib.blake2b(labels.tobytes(), digest_size=8).hexdigest()


def expand_braces(pattern: str) -> list[str]:
    """Every string of a pattern with {a,b} and {000..123} in it, as a shell expands them.

    Raises:
        InputError: where a brace is not closed, or there are more than a million.
    """
    start = pattern.find("{")
    if start < 0:
        return [pattern]
    depth, commas = 0, [start]
    for place in range(start, len(pattern)):
        depth += (pattern[place] == "{") - (pattern[place] == "}")
        if pattern[place] == "," and depth == 1:
            commas.append(place)
        if depth == 0:
            break
    else:
        raise InputError(f"a brace is not closed in {pattern!r}")
    commas.append(place)
    inner = [pattern[first + 1 : last] for first, last in itertools.pairwise(commas)]
    sequence = re.fullmatch(r"(\d+)\.\.(\d+)", inner[0]) if len(inner) == 1 else None
    if sequence:
        low, high = sequence.groups()
        if int(high) - int(low) >= MAX_SHARDS:
            raise InputError(f"{pattern!r} stands for more than {MAX_SHARDS} names")
        width = max(len(low), len(high)) if "0" in (low[0], high[0]) and len(low) > 1 else 0
        inner = [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    middles = [text for alternative in inner for text in expand_braces(alternative)]
    ends = expand_braces(pattern[place + 1 :])
    if len(middles) * len(ends) > MAX_SHARDS:
        raise InputError(f"{pattern!r} stands for more than {MAX_SHARDS} names")
    return [pattern[:start] + middle + end for middle in middles for end in ends]


def looks_like_webdataset(dataset_dir: str) -> bool:
    return SEPARATOR in dataset_dir or "{" in dataset_dir or dataset_dir.endswith(".tar") or bool(_shards(dataset_dir))


def open_webdataset(dataset_dir: str, cache_dir: Path | None) -> Source:
    """The dataset in tar files.

    Args:
        dataset_dir: a directory with *.tar in it or in directories such as train/ and val/ below it, or patterns of
            names or URLs joined by `::`. A shard belongs to training or to the test set by the words of its own name or
            else its directory's.
        cache_dir: where the index is kept.

    Raises:
        InputError: where there are no training shards, or one is missing, damaged, or holds an image without a label.
    """
    shards = _shards(dataset_dir)
    train_shards, test_shards = _by_split(shards)
    if not train_shards:
        raise InputError(f"{dataset_dir!r} leads to no tar files with training images")
    train = _examples("train", train_shards, cache_dir)
    test = _examples("test", test_shards, cache_dir) if test_shards else None
    if not len(train):
        raise InputError(f"the tar files of {dataset_dir!r} hold no images with labels")
    count = 1 + max(int(part.labels.max()) for part in (train, test) if part is not None and len(part))
    names = _class_names(train_shards[0], count)
    title = re.sub(r"[\W_]*train[\W_\d]*$", "", stem(train_shards[0].removesuffix(".tar"))) or "webdataset"
    return Source(title, "webdataset", names, train, test)


def _shards(dataset_dir: str) -> list[str]:
    shards: list[str] = []
    for pattern in dataset_dir.split(SEPARATOR):
        for path in expand_braces(pattern):
            if path.endswith(".tar") and not any(sign in path for sign in "*?["):
                shards.append(path)
            elif not is_remote(path) and any(sign in path for sign in "*?["):
                shards += sorted(glob.glob(path))
            else:
                shards += _tar_files(path)
    return shards


def _tar_files(directory: str) -> list[str]:
    names = list_names(directory)
    here = [join(directory, name) for name in names if name.endswith(".tar")]
    below = [join(directory, name) for name in names if _words(name) & _SPLIT_WORDS and "." not in name]
    return here or [join(sub, name) for sub in below for name in list_names(sub) if name.endswith(".tar")]


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _by_split(shards: Sequence[str]) -> tuple[list[str], list[str]]:
    train: list[str] = []
    test: tuple[list[str], list[str]] = ([], [])
    for path in shards:
        *_, directory, name = ("", *path.split("/"))
        for words in (_words(name), _words(directory)):
            kind = next((number for number, known in enumerate(_TEST_WORDS) if words & known), None)
            if words & _TRAIN_WORDS or kind is not None:
                break
        if kind is None or words & _TRAIN_WORDS:
            train.append(path)
        else:
            test[kind].append(path)
    return train, test[0] or test[1]


def _examples(split: str, shards: Sequence[str], cache_dir: Path | None) -> TarExamples:
    def build() -> dict[str, np.ndarray]:
        with progress(f"indexing {split}", len(shards)) as advance:

            def members(path: str) -> list[tuple[str, int, int, int]]:
                found = _labelled_images(path)
                advance(1)
                return found

            per_shard = concurrently(members, shards)
        rows = [row for found in per_shard for row in found]
        return {
            "counts": np.array([len(found) for found in per_shard], np.int64),
            "places": np.array([(offset, length) for _, offset, length, _ in rows], np.int64).reshape(-1, 2),
            "labels": np.array([label for *_, label in rows], np.int64),
            "names": np.array([name.encode(errors="surrogateescape") for name, *_ in rows], np.bytes_),
        }

    key = shards_key("webdataset", shards)
    arrays = kept_arrays(cache_dir, f"webdataset-{split}", key, ("counts", "places", "labels", "names"), build)
    return TarExamples(ShardIndex(shards, arrays["counts"], arrays["places"]), arrays["labels"], arrays["names"])


def _labelled_images(path: str) -> list[tuple[str, int, int, int]]:
    """(member name, offset, length, label) of every image in a tar file."""
    try:
        with open_binary(path) as file:
            return _scan(path, file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is damaged, or no tar file: {error}") from None


def _scan(path: str, file: BinaryIO) -> list[tuple[str, int, int, int]]:
    end = file.seek(0, 2)
    file.seek(0)
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            if member.offset_data + member.size > end:
                raise InputError(f"{path} is cut short within {member.name!r}")
            directory, slash, base = member.name.rpartition("/")
            front, _, extension = base.partition(".")
            key, extension = f"{directory}{slash}{front}", extension.lower()
            if f".{extension}" in IMAGE_EXTENSIONS:
                if key in images:
                    raise InputError(f"{path} holds two images called {key!r}")
                images[key] = (member.name, member.offset_data, member.size)
            elif extension in LABEL_EXTENSIONS and (extension == "cls" or key not in labels):
                file.seek(member.offset_data)
                label = _label(extension, file.read(member.size))
                if label is not None:
                    labels[key] = label
                elif extension == "cls":
                    raise InputError(f"{member.name!r} in {path} must hold a label, a whole number from 0 up")
        file.seek(tar.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise InputError(f"{path} is damaged at byte {tar.offset}: no header of a member begins there")
    if unlabelled := sorted(images.keys() - labels.keys()):
        raise InputError(
            f"{path} holds {len(unlabelled)} images without a .cls or .json label, such as {unlabelled[0]!r}"
        )
    return [(*image, labels[key]) for key, image in images.items()]


def _label(extension: str, content: bytes) -> int | None:
    if extension == "cls":
        text = content.decode(errors="replace").strip()
        return int(text) if re.fullmatch(r"\d{1,9}", text) else None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    value = (
        next((document[name] for name in ("label", "cls") if name in document), None)
        if isinstance(document, dict)
        else None
    )
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _class_names(shard: str, count: int) -> tuple[str, ...]:
    """From a text file beside the shards or one directory above; otherwise the numbers."""
    directory = shard.rpartition("/")[0] or "."
    for place in (directory, directory.rpartition("/")[0] or "."):
        listed = set() if is_remote(place) and place.startswith("http") else set(list_names(place))
        for name in CLASS_NAME_FILES:
            if name in listed:
                names = tuple(read_text(join(place, name)).splitlines())
                if len(names) < count:
                    raise InputError(
                        f"{join(place, name)} names {len(names)} classes, but the labels go up to {count - 1}"
                    )
                return names
    return tuple(str(number) for number in range(count))
