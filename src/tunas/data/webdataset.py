"""WebDataset: tar files in which consecutive members of one name and different extensions make an example, such as
n01_7.jpg and n01_7.cls.

The shards are read by place rather than from end to end: an index of every image's place is made once, so that an order
is a function of the step here too, and a remote shard is asked for the pieces that a batch needs (many at a time).
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tunas.data.examples import Source, digest, source_of, stem
from tunas.data.formats import IMAGE_EXTENSIONS
from tunas.data.index import ShardIndex, kept_arrays, shards_key
from tunas.data.labels import classes_of
from tunas.data.progress import progress
from tunas.data.shared import SharedArrays
from tunas.data.split_names import files_by_split, split_of_word
from tunas.data.storage import (
    Range,
    concurrently,
    is_remote,
    join,
    list_names,
    open_binary,
    patiently,
    read_ranges,
    read_text,
    storage_error,
)
from tunas.errors import InputError

SEPARATOR = "::"
"""Between several patterns."""
CLASS_NAME_FILES = ("classnames.txt", "classes.txt", "labels.txt")
LABEL_EXTENSIONS = ("cls", "json", "txt")
"""The first of them that an image has beside it counts."""
JSON_NUMBERS = ("label", "cls", "class", "class_id", "class_index", "class_idx", "label_id", "target")
JSON_NAMES = ("class_name", "label_name", "classname", "label", "class", "cls")
"""Keys of a label in a JSON member, in the order in which they count; perhaps one level down."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
MAX_SHARDS = 1_000_000


class TarExamples:
    """Images in tar files, shard by shard, in the order within the shard."""

    def __init__(self, index: ShardIndex, labels: np.ndarray, names: np.ndarray):
        self._index = index
        self._tables = SharedArrays(labels=labels.astype(np.int32), names=names)

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        return f"{self._tables['names'][index].decode(errors='replace')} in {self._index.place(index)[0]}"

    def read(self, indices: Sequence[int]) -> list[bytes | OSError]:
        return read_ranges([Range(*self._index.place(index)) for index in indices])

    def parse(self, index: int, content: bytes) -> tuple[bytes, int]:
        return content, int(self._tables["labels"][index])

    def labels(self) -> np.ndarray:
        return self._tables["labels"]

    def file_ids(self) -> list[tuple[int, str]]:
        return [
            (label, stem(name.decode(errors="replace")))
            for label, name in zip(self._tables["labels"].tolist(), self._tables["names"], strict=True)
        ]

    def identity(self) -> str:
        return digest(self._index.identity(), self._tables["labels"].tobytes(), self._tables["names"].tobytes())

    def fingerprint(self, indices: np.ndarray) -> str:
        return digest(self._index.fingerprint(indices), np.ascontiguousarray(self._tables["labels"][indices]).tobytes())

    def read_groups(self) -> None:
        return None


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
    """Whether a path leads to tar files."""
    if os.path.exists(dataset_dir) and not os.path.isdir(dataset_dir):
        return dataset_dir.endswith((".tar", *COMPRESSED))
    return any(path.endswith((".tar", *COMPRESSED)) for path in matching_files(dataset_dir, (".tar", *COMPRESSED)))


def open_webdataset(dataset_dir: str, cache_dir: Path | None) -> Source:
    """The dataset in tar files.

    Args:
        dataset_dir: a directory with *.tar in it or in directories such as train/ and val/ below it, or patterns of
            names or URLs joined by `::`. A shard belongs to a split by the words of its own name or else its
            directory's; where none names a split, all are one set.
        cache_dir: where the index is kept.

    Raises:
        InputError: where there are no training shards, only some name a split, or one is missing, damaged, compressed,
            or holds an image without a label.
    """
    shards = matching_files(dataset_dir, (".tar", *COMPRESSED))
    if packed := [path for path in shards if path.endswith(COMPRESSED)]:
        raise InputError(
            f"{packed[0]} is compressed, and images in it cannot be read at random: decompress the shards (gunzip "
            f"*.tar.gz); images are compressed already"
        )
    by_split = files_by_split(shards)
    train_shards = by_split.get("train", by_split.get("all"))
    if not by_split:
        raise InputError(f"{dataset_dir!r} leads to no tar files with training images")
    tables = {split: _table(split, paths, cache_dir) for split, paths in by_split.items()}
    names, labels = _classes(shards[0], {split: table["labels"] for split, table in tables.items()})
    parts = {
        split: TarExamples(ShardIndex(by_split[split], table["counts"], table["places"]), labels[split], table["names"])
        for split, table in tables.items()
    }
    train = parts.get("train", parts.get("all"))
    if train is not None and not len(train):
        raise InputError(f"the tar files of {dataset_dir!r} hold no images with labels")
    title = re.sub(r"[\W_]*train[\W_\d]*$", "", stem((train_shards or shards)[0].removesuffix(".tar"))) or "webdataset"
    return source_of(title, "webdataset", names, parts)


def matching_files(dataset_dir: str, endings: tuple[str, ...]) -> list[str]:
    """Files that patterns joined by `::` lead to: those with one of the endings in a directory, or in directories named
    like splits below it, or what a pattern stands for. What exists is taken literally before it is read as a pattern.
    """
    found: list[str] = []
    for pattern in [dataset_dir] if os.path.exists(dataset_dir) else dataset_dir.split(SEPARATOR):
        for path in [pattern] if os.path.exists(pattern) else expand_braces(pattern):
            if os.path.isdir(path):
                found += _files_in(path, endings)
            elif os.path.exists(path) or (path.endswith(endings) and not any(sign in path for sign in "*?[")):
                found.append(path)
            elif not is_remote(path) and any(sign in path for sign in "*?["):
                found += sorted(glob.glob(path))
            else:
                found += _files_in(path, endings)
    return found


def _files_in(directory: str, endings: tuple[str, ...]) -> list[str]:
    """Files with one of the endings in a directory, or else in those named like splits below it."""
    names = [name for name in list_names(directory) if not name.startswith(".")]
    here = [join(directory, name) for name in names if name.endswith(endings)]
    below = [join(directory, name) for name in names if split_of_word(name) is not None]
    return here or [join(sub, name) for sub in below for name in list_names(sub) if name.endswith(endings)]


def _table(split: str, shards: Sequence[str], cache_dir: Path | None) -> dict[str, np.ndarray]:
    """Counts, places, labels (as text) and names of the images in shards."""

    def build() -> dict[str, np.ndarray]:
        with progress(f"indexing {split}", len(shards)) as advance:

            def members(path: str) -> list[tuple[str, int, int, str]]:
                found = _labelled_images(path)
                advance(1)
                return found

            per_shard = concurrently(members, shards)
        rows = [row for found in per_shard for row in found]
        return {
            "counts": np.array([len(found) for found in per_shard], np.int64),
            "places": np.array([(offset, length) for _, offset, length, _ in rows], np.int64).reshape(-1, 2),
            "labels": np.array([label for *_, label in rows], np.str_),
            "names": np.array([name.encode(errors="surrogateescape") for name, *_ in rows], np.bytes_),
        }

    key = shards_key("webdataset", shards)
    return kept_arrays(cache_dir, f"webdataset-{split}", key, ("counts", "places", "labels", "names"), build)


def _classes(shard: str, texts: dict[str, np.ndarray]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """(class names, labels by split): from the numbers or names beside the images, and from a list of names beside the
    shards where there is one."""
    where = f"the shards beside {shard}"
    found, labels = classes_of(list(texts.values()), where)
    numbered = all(name.isdigit() for name in found)
    if numbered:
        labels = [part.astype(np.int64) for part in texts.values()]
        found = tuple(
            str(number) for number in range(1 + max((int(part.max()) for part in labels if len(part)), default=-1))
        )
    listed = _listed_class_names(shard)
    if listed is not None:
        path, names = listed
        if numbered and len(names) < len(found):
            raise InputError(f"{path} names {len(names)} classes, but the labels go up to {len(found) - 1}")
        if not numbered:
            if unknown := sorted(set(found) - set(names)):
                raise InputError(f"{path} does not name the class {unknown[0]!r} of {where}")
            places = np.array([names.index(name) for name in found], np.int64)
            labels = [places[part] for part in labels]
        found = names
    return found, dict(zip(texts, labels, strict=True))


def _labelled_images(path: str) -> list[tuple[str, int, int, str]]:
    """(member name, offset, length, label as text) of every image in a tar file."""

    def scan() -> list[tuple[str, int, int, str]]:
        with open_binary(path) as file:
            return _scan(path, file)

    try:
        return patiently(scan)
    except OSError as error:
        raise storage_error(path, error) from None
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is damaged, or no tar file: {error}") from None


def _scan(path: str, file: BinaryIO) -> list[tuple[str, int, int, str]]:
    """`_labelled_images` of a tar file that is open."""
    end = file.seek(0, 2)
    file.seek(0)
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, tuple[int, str]] = {}
    wrong: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            if member.offset_data + member.size > end:
                raise InputError(f"{path} is cut short within {member.name!r}")
            directory, slash, base = member.name.rpartition("/")
            if base.startswith("._"):  # which macOS puts beside every file
                continue
            front, _, extensions = base.partition(".")
            key, extension = f"{directory}{slash}{front}", extensions.lower().rpartition(".")[2]
            if f".{extension}" in IMAGE_EXTENSIONS:
                if key in images:
                    raise InputError(f"{path} holds two images called {key!r}")
                images[key] = (member.name, member.offset_data, member.size)
            elif extension in LABEL_EXTENSIONS:
                rank = LABEL_EXTENSIONS.index(extension)
                if key in labels and labels[key][0] <= rank:
                    continue
                file.seek(member.offset_data)
                label = _label(extension, file.read(member.size))
                if label is not None:
                    labels[key] = rank, label
                elif extension == "cls":
                    raise InputError(f"{member.name!r} in {path} must hold a label, a whole number from 0 up")
                else:
                    wrong[key] = member.name
        file.seek(tar.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise InputError(f"{path} is damaged at byte {tar.offset}: no header of a member begins there")
    if unlabelled := sorted(images.keys() - labels.keys()):
        raise _unlabelled(path, unlabelled, wrong)
    return [(*image, labels[key][1]) for key, image in images.items()]


def _unlabelled(path: str, keys: Sequence[str], wrong: Mapping[str, str]) -> InputError:
    """What to say of images without labels, and of the members (`wrong`) that could have held one."""
    if keys[0] in wrong:
        return InputError(
            f"{wrong[keys[0]]!r} in {path} holds no label: a whole number from 0 up or a class's name is looked for, "
            f"in JSON under {', '.join(JSON_NUMBERS[:4])} or {JSON_NAMES[0]}"
        )
    return InputError(f"{path} holds {len(keys)} images without a .cls or .json label, such as {keys[0]!r}")


def _label(extension: str, content: bytes) -> str | None:
    """A whole number or a class's name, as text; None where there is neither."""
    text = content.decode("utf-8-sig", errors="replace").strip()
    if extension == "cls":
        return str(int(text)) if re.fullmatch(r"\d{1,9}", text) else None
    if extension == "txt":
        number = re.fullmatch(r"\d{1,9}", text)
        return str(int(text)) if number else text if text and "\n" not in text else None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, int) and not isinstance(document, bool) and document >= 0:
        return str(document)
    if not isinstance(document, dict):
        return None
    here = _json_label(document)
    nested = [found for value in document.values() if isinstance(value, dict) and (found := _json_label(value))]
    return here or (nested[0] if len(nested) == 1 else None)


def _json_label(document: dict[str, Any]) -> str | None:
    for key in JSON_NUMBERS:
        value = document.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return str(value)
    names = (document.get(key) for key in JSON_NAMES)
    return next((value.strip() for value in names if isinstance(value, str) and value.strip()), None)


def _listed_class_names(shard: str) -> tuple[str, tuple[str, ...]] | None:
    """(path, names) of a text file beside the shards or one directory above."""
    directory = shard.rpartition("/")[0] or "."
    for place in (directory, directory.rpartition("/")[0] or "."):
        listed = set() if is_remote(place) and place.startswith("http") else set(list_names(place))
        for name in CLASS_NAME_FILES:
            if name in listed:
                path = join(place, name)
                return path, tuple(read_text(path).splitlines())
    return None
