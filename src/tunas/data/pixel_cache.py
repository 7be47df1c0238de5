"""Decoded images in one file, mapped into memory and shared by every process of the machine.

Layout: pixels (uint8, images one after the other, height × width × 3), then labels (int64), shapes (int32, height and
width), a byte for each example that says whether it could be decoded, a JSON description with checksums, its length and
checksum, and a magic word. The description comes last, so that a file that was not written to its end has none.
"""

from __future__ import annotations

import json
import logging
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from tunas.data.chunk import Chunk
from tunas.data.examples import BadImageError
from tunas.data.storage import concurrently, exclusively, reason, write_whole

FORMAT = "tunas-pixels"
VERSION = 1
_MAGIC = b"TUNASPX1"
_TAIL = struct.Struct("<QI8s")  # length and CRC-32 of the description, magic word
_BLOCK = 2**26
"""Bytes to a checksum."""
log = logging.getLogger("tunas.data")


class DamagedCacheError(Exception):
    """The file is not what it should be; the message says how."""


class PixelCache:
    """The images of a list of examples, those left out that could not be decoded.

    Attributes:
        path: of the file.
        pixels: uint8, flat, mapped from the file.
        labels: int64 `[good images]`.
        shapes: int32 `[good images, 2]`, height and width.
        good: bool `[examples]`.
        bad: name and reason of every example that is not good.
    """

    def __init__(self, path: Path, key: str, *, check_pixels: bool):
        self._arguments = (path, key)
        self.path = path
        description = _description(path)
        if description.get("key") != key:
            raise DamagedCacheError("it was made for other images")
        try:
            sizes = [int(description[name]) for name in ("pixel_bytes", "images", "examples")]
            checksums = [int(checksum) for checksum in description["pixel_checksums"]]
            self.bad = tuple((str(name), str(why)) for name, why in description["bad"])
            table_checksum = int(description["table_checksum"])
        except (KeyError, TypeError, ValueError):
            raise DamagedCacheError("its description is incomplete") from None
        pixel_bytes, images, examples = sizes
        tables = [images * 8, images * 8, examples]
        if path.stat().st_size < pixel_bytes + sum(tables) or min(sizes) < 0:
            raise DamagedCacheError("it is too short")
        with open(path, "rb") as file:
            file.seek(pixel_bytes)
            content = file.read(sum(tables))
        if zlib.crc32(content) != table_checksum:
            raise DamagedCacheError("the checksum of its tables is wrong")
        self.labels = torch.from_numpy(np.frombuffer(content, "<i8", images).astype(np.int64))
        self.shapes = np.frombuffer(content, "<i4", images * 2, images * 8).reshape(-1, 2)
        self.good = np.frombuffer(content, np.uint8, examples, images * 16).astype(bool)
        ends = np.cumsum(self.shapes.astype(np.int64).prod(axis=1) * 3)
        if (ends[-1] if images else 0) != pixel_bytes or self.good.sum() != images:
            raise DamagedCacheError("its tables do not fit its pixels")
        self._starts = np.concatenate([np.zeros(1, np.int64), ends])
        self._rows = np.cumsum(self.good) - 1
        self.pixels = _mapped(path, pixel_bytes)
        if check_pixels and checksums != _checksums(self.pixels):
            raise DamagedCacheError("a checksum of its pixels is wrong")

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, self._arguments  # another process maps the file anew rather than being sent its content

    def image(self, example: int) -> tuple[Tensor, int]:
        """Pixels, uint8 `[height, width, 3]`, and label of an example; `BadImageError` where it could not be
        decoded."""
        if not self.good[example]:
            raise BadImageError("it could not be decoded when the cache was made")
        row = self._rows[example]
        height, width = self.shapes[row].tolist()
        return self.pixels[self._starts[row] : self._starts[row + 1]].view(height, width, 3), int(self.labels[row])

    def squares(self) -> Tensor:
        """uint8 `[good images, S, S, 3]`, where all images have one shape."""
        return self.pixels.view(len(self.labels), *self.shapes[0].tolist(), 3)


def _mapped(path: Path, size: int) -> Tensor:
    """The first bytes of a file as a tensor that must not be written to. (`torch.from_file` would reserve memory for
    writing.)"""
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is not writable
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=(size,)))


def _reopened(path: Path, key: str) -> PixelCache:
    return PixelCache(path, key, check_pixels=False)


def kept_pixels(path: Path, key: str, make: Iterator[Chunk], *, check_pixels: bool) -> PixelCache:
    """The cache in `path`, which is made anew where there is none or it is damaged. Of several processes, one makes it.

    Args:
        path: of the file.
        key: what the pixels depend on; kept in the file.
        make: chunks of all examples in order; begun only when they are needed.
        check_pixels: whether to read the whole file and compare its checksums, rather than only its tables.
    """
    with exclusively(path):
        try:
            return PixelCache(path, key, check_pixels=check_pixels)
        except FileNotFoundError:
            pass
        except (DamagedCacheError, OSError) as error:
            why = reason(error)
            log.warning("%s is damaged (%s) and will be made again", path, why)
        write_whole(path, lambda file: write_pixels(file, key, make))
        return PixelCache(path, key, check_pixels=False)


def write_pixels(file: BinaryIO, key: str, chunks: Iterable[Chunk]) -> None:
    """Writes a cache from its beginning to its end."""
    labels, shapes, good = [np.empty(0, "<i8")], [np.empty((0, 2), "<i4")], [np.empty(0, np.uint8)]
    bad: list[tuple[str, str]] = []
    checksums: list[int] = []
    written = 0
    for chunk in chunks:
        content = chunk.images.contiguous().numpy().reshape(-1).data
        while len(content):
            room = _BLOCK - written % _BLOCK
            if room == _BLOCK:
                checksums.append(0)
            piece, content = content[:room], content[room:]
            checksums[-1] = zlib.crc32(piece, checksums[-1])
            file.write(piece)
            written += len(piece)
        labels.append(chunk.labels.astype("<i8"))
        shapes.append(chunk.shapes.astype("<i4"))
        good.append(chunk.good.astype(np.uint8))
        bad += chunk.bad
    tables = b"".join(np.concatenate(each).tobytes() for each in (labels, shapes, good))
    description = {
        "format": FORMAT,
        "version": VERSION,
        "key": key,
        "pixel_bytes": written,
        "images": sum(len(each) for each in labels),
        "examples": sum(len(each) for each in good),
        "pixel_checksums": checksums,
        "table_checksum": zlib.crc32(tables),
        "bad": bad,
    }
    text = json.dumps(description).encode()
    file.write(tables + text + _TAIL.pack(len(text), zlib.crc32(text), _MAGIC))


def _description(path: Path) -> dict[str, Any]:
    """The description at the end of a cache."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - _TAIL.size))
        tail = file.read()
        if len(tail) < _TAIL.size or tail[-8:] != _MAGIC:
            raise DamagedCacheError("it does not end as it should")
        length, checksum, _ = _TAIL.unpack(tail)
        if length > size - _TAIL.size:
            raise DamagedCacheError("it is too short")
        file.seek(size - _TAIL.size - length)
        text = file.read(length)
    if zlib.crc32(text) != checksum:
        raise DamagedCacheError("the checksum of its description is wrong")
    description = json.loads(text)
    if description.get("format") != FORMAT or description.get("version") != VERSION:
        raise DamagedCacheError("it is of another version")
    return description


def _checksums(pixels: Tensor) -> list[int]:
    """CRC-32 of each block of the pixels."""
    content = pixels.numpy().data
    return concurrently(lambda start: zlib.crc32(content[start : start + _BLOCK]), range(0, len(content), _BLOCK))
