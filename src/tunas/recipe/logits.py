"""A teacher's logits of a dataset under k fixed views of each image, in a directory of safetensors shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tunas.data import Data
from tunas.data.augmentation import Augmentation
from tunas.errors import InputError
from tunas.files import make_directory, write_text, write_whole, writing_to
from tunas.run.directory import read_json_object
from tunas.run.settings import differences

INDEX = "logits.json"
FORMAT = "tunas-logits-1"
SHARD = 8_192
"""Examples in a shard."""
COMPARED = 64
"""Images whose content belongs to the fingerprint of a dataset."""
MARK = "sha256"
"""Entry of a shard's metadata."""
SPLIT = "full_train"
"""Logits are those of all training images, so that a training on any part of them finds its own."""
_AGAIN = "run the same `tunas teach` again"


class Logits:
    """Logits in a directory, checked.

    Attributes:
        directory: where they lie.
        views: k, how many views of an example there are.
        augmentation: that gives these views.
    """

    def __init__(self, directory: Path, index: dict[str, Any], parts: list[np.ndarray], keys: np.ndarray):
        self.directory = directory
        self.views = int(index["views"])
        self.augmentation = augmentation_from(index["augmentation"])
        self._parts = parts
        self._places = np.zeros(int(keys.max(initial=-1)) + 1, np.int64)
        self._places[keys] = np.arange(len(keys))
        self._shards = len(parts) // self.views

    @classmethod
    def opened(cls, directory: Path, data: Data) -> Logits:
        """All shards, read and compared with their checksums.

        Raises:
            InputError: where the logits are of another dataset, image size or list of classes, or not whole.
        """
        index = read_json_object(directory / INDEX)
        if index.get("format") != FORMAT:
            raise InputError(f"{directory / INDEX} is not what `tunas teach` writes")
        check_dataset(directory, index, data)
        count = int(index["views"]) * shard_count(data)
        parts = []
        for number in range(count):
            path = shard_path(directory, number)
            if not is_whole(path, index, number):
                raise InputError(f"{path} is missing, damaged or of other logits ({count} shards are needed); {_AGAIN}")
            parts.append(_mapped(path))
        return cls(directory, index, parts, data.keys(SPLIT))

    def of(self, views: np.ndarray, keys: np.ndarray) -> Tensor:
        """float32 `[n, K]`: logits of the given views, `[n]`, of the examples with the given keys, `[n]`."""
        places = self._places[keys]
        shards, rows = views * self._shards + places // SHARD, places % SHARD
        return torch.from_numpy(
            np.stack([self._parts[shard][row] for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)])
        )


def fingerprint_of(data: Data) -> str:
    """Changes where the training images have other names, labels or classes, or one of some that are read is another
    image, whatever their path: datasets that are made anew often keep their names."""
    examples = (data.identity.fingerprint or "").partition("-")[0]
    digest = hashlib.sha256("\0".join([examples, *data.class_names]).encode(errors="surrogateescape"))
    for content in data.stored(SPLIT, COMPARED):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def shard_count(data: Data) -> int:
    """Shards of one view."""
    return -(-data.size(SPLIT) // SHARD)


def shard_path(directory: Path, number: int) -> Path:
    return directory / f"logits-{number:05d}.safetensors"


def shard_span(data: Data, number: int) -> tuple[int, range]:
    """(view, examples) of a shard."""
    view, part = divmod(number, shard_count(data))
    return view, range(part * SHARD, min((part + 1) * SHARD, data.size(SPLIT)))


def index_of(teacher: str, data: Data, augmentation: Augmentation) -> dict[str, Any]:
    """What `logits.json` says: everything that decides the logits."""
    return {
        "format": FORMAT,
        "teacher": teacher,
        "dataset": data.name,
        "fingerprint": fingerprint_of(data),
        "classes": data.num_classes,
        "examples": data.size(SPLIT),
        "image_size": data.image_size,
        "views": augmentation.views,
        "augmentation": dataclasses.asdict(augmentation),
    }


def augmentation_from(document: dict[str, Any]) -> Augmentation:
    """The augmentation whose fields a JSON object holds."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    return Augmentation(**values)


def check_dataset(directory: Path, index: dict[str, Any], data: Data) -> None:
    """Refuses logits of another dataset.

    Raises:
        InputError: saying what differs.
    """
    if index["fingerprint"] != fingerprint_of(data):
        raise InputError(
            f"the logits in {directory} are of another dataset ({index['dataset']}, {index['examples']} training "
            f"images of {index['classes']} classes; this is {data.name}, {data.size(SPLIT)} of {data.num_classes}), or "
            f"its files have changed since"
        )
    if index["image_size"] != data.image_size:
        raise InputError(
            f"the logits in {directory} are of images of {index['image_size']} pixels, these are {data.image_size}; "
            f"set image_size to {index['image_size']}"
        )


def begun(directory: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Makes the directory, or checks that what is there are the same logits, to go on with; what `logits.json` says.

    Raises:
        InputError: where it holds something else.
    """
    if (directory / INDEX).is_file():
        there = read_json_object(directory / INDEX)
        if changed := differences(there, json.loads(json.dumps(index))):
            raise InputError(f"{directory} holds other logits (other {', '.join(changed)}); name another directory")
        return there
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is not an empty directory and holds no logits; name a new one")
    make_directory(directory)
    with writing_to(directory):
        write_text(directory / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")
    return index


def write_shard(directory: Path, index: dict[str, Any], number: int, logits: Tensor) -> None:
    """Writes a shard whole, or not at all; logits float32 `[n, K]`."""
    content = save({"logits": logits.contiguous()}, {MARK: _mark(index, number, logits.numpy())})
    with writing_to(directory):
        write_whole(shard_path(directory, number), lambda file: file.write(content))


def is_whole(path: Path, index: dict[str, Any], number: int) -> bool:
    """Whether the file is that shard of these logits, with its checksum right."""
    try:
        with safe_open(path, framework="np") as file:
            mark = (file.metadata() or {}).get(MARK)
        return mark == _mark(index, number, _mapped(path))
    except (OSError, SafetensorError, ValueError, KeyError):
        return False


def _mark(index: dict[str, Any], number: int, logits: np.ndarray) -> str:
    """SHA-256 of what a shard belongs to and of what it holds."""
    digest = hashlib.sha256(f"{json.dumps(index, sort_keys=True)} {number}".encode())
    digest.update(np.ascontiguousarray(logits).data)
    return digest.hexdigest()


def _mapped(path: Path) -> np.ndarray:
    """float32 `[n, K]`, mapped from the file, so that all of them need no memory."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))["logits"]
    if header["dtype"] != "F32":
        raise ValueError("not float32")
    return np.memmap(path, "<f4", "r", offset=8 + length + header["data_offsets"][0], shape=tuple(header["shape"]))


def orders(data: Data, number: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(epochs, places) of a shard's batches, the last one filled up with its last example."""
    view, span = shard_span(data, number)
    for first in range(span.start, span.stop, batch):
        places = np.minimum(np.arange(first, first + batch), span.stop - 1)
        yield np.full(batch, view), places
