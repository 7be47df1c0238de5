"""Jobs of decoding, and the one who does them: places in a split go in, a chunk of uint8 pixels comes out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from tunas.data.augmentation import PUBLISHED, Augmentation
from tunas.data.chunk import Chunk
from tunas.data.examples import BadImageError, Examples
from tunas.data.images import augmented_view, decode, evaluation_view, shrunk
from tunas.data.pixel_cache import PixelCache
from tunas.data.shared import SharedArrays
from tunas.data.storage import DamagedFileError, reason, storage_error
from tunas.errors import InputError, TemporaryError


@dataclass(frozen=True)
class TrainingJob:
    """Augmented views of examples, one for each (epoch, place in the split); a bad image is replaced by the next one of
    the split."""

    epochs: np.ndarray
    places: np.ndarray
    seed: int
    augmentation: Augmentation = PUBLISHED
    replace: bool = True

    def view(self, pixels: Tensor, number: int, example: int, size: int) -> Tensor:
        return augmented_view(pixels, size, self.augmentation, self.seed, int(self.epochs[number]), example)


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluation views of examples; a bad image is left out, or replaced by the next one of the split."""

    places: np.ndarray
    replace: bool

    def view(self, pixels: Tensor, number: int, example: int, size: int) -> Tensor:
        return evaluation_view(pixels, size)


@dataclass(frozen=True)
class ShrinkJob:
    """Whole images with a shorter side of at most `short_side`; a bad image is left out."""

    places: np.ndarray
    short_side: int
    replace: bool = False

    def view(self, pixels: Tensor, number: int, example: int, size: int) -> Tensor:
        return shrunk(pixels, self.short_side)


Job = TrainingJob | EvaluationJob | ShrinkJob


class Decoder(Dataset[Chunk]):
    """Makes chunks of one split. Pickled into the processes, so it holds tables and paths only.

    Args:
        examples: the table that the split is taken from.
        indices: int64 `[split]`: the split's examples in it.
        image_size: S.
        on_bad_image: fail or skip.

    Attributes:
        train_cache: decoded images of the whole table, where training images are kept decoded.
    """

    def __init__(
        self,
        examples: Examples,
        indices: np.ndarray,
        image_size: int,
        on_bad_image: Literal["fail", "skip"],
    ):
        self.examples = examples
        self.indices = indices
        self.image_size = image_size
        self.on_bad_image = on_bad_image
        self.train_cache: PixelCache | None = None
        self._shared: SharedArrays | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, job: Any) -> Chunk:
        run = _Run(self, job)
        try:
            return run.ragged() if isinstance(job, ShrinkJob) else run.squares()
        except (InputError, TemporaryError) as error:
            nothing = np.empty(0, np.int64)
            return Chunk(torch.empty(0), nothing, nothing, nothing, tuple(run.bad), error)

    def __getstate__(self) -> dict[str, Any]:
        if self._shared is None or self._shared["indices"] is not self.indices:
            self._shared = SharedArrays(indices=self.indices)
        return {**self.__dict__, "indices": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        assert self._shared is not None
        self.indices = self._shared["indices"]


class _Run:
    """One job at work."""

    def __init__(self, decoder: Decoder, job: Job):
        self.decoder = decoder
        self.job = job
        self.cache = decoder.train_cache if isinstance(job, TrainingJob) else None
        self.good = np.zeros(len(job.places), bool)
        self.labels: list[int] = []
        self.bad: list[tuple[str, str]] = []

    def squares(self) -> Chunk:
        """The views, all of one size."""
        size = self.decoder.image_size
        images = handed_over(len(self.good) * size * size * 3).view(len(self.good), size, size, 3)
        for row, view in enumerate(self._views()):
            images[row] = view
        count = len(self.labels)
        return self._chunk(images[:count], np.full((count, 2), size, np.int32))

    def ragged(self) -> Chunk:
        """The views, each of its own size."""
        views = list(self._views())
        images = handed_over(sum(view.numel() for view in views))
        if views:
            torch.cat([view.reshape(-1) for view in views], out=images)
        return self._chunk(images, np.array([view.shape[:2] for view in views], np.int32).reshape(-1, 2))

    def _chunk(self, images: Tensor, shapes: np.ndarray) -> Chunk:
        return Chunk(images, np.array(self.labels, np.int64), shapes, self.good, tuple(self.bad))

    def _views(self) -> Iterator[Tensor]:
        """A view for every good example, whose label is noted on the way."""
        decoder, job = self.decoder, self.job
        contents = self._contents(job.places.tolist()) if self.cache is None else [None] * len(job.places)
        for number, (place, content) in enumerate(zip(job.places.tolist(), contents, strict=True)):
            for candidate in self._candidates(place):
                try:
                    pixels, label = self._pixels(candidate, content if candidate == place else None)
                except BadImageError:
                    continue
                self.good[number] = True
                self.labels.append(label)
                yield job.view(pixels, number, int(decoder.indices[candidate]), decoder.image_size)
                break
            else:
                if job.replace:
                    raise InputError("not one image of the split can be decoded")

    def _candidates(self, place: int) -> Iterator[int]:
        """The example, and those that may take its place where it is bad."""
        yield place
        if self.job.replace:
            yield from itertools.chain(range(place + 1, len(self.decoder)), range(place))

    def _contents(self, places: Sequence[int]) -> list[bytes | OSError]:
        """What is stored for places of the split, or the error that reading it raised."""
        decoder = self.decoder
        return decoder.examples.read([int(decoder.indices[place]) for place in places])

    def _pixels(self, place: int, content: bytes | OSError | None) -> tuple[Tensor, int]:
        """Pixels `[height, width, 3]` and label.

        Args:
            content: what is stored for the example; None where it has not been read.

        Raises:
            BadImageError: where the image is bad and may be skipped.
            InputError: where it is bad and may not.
            TemporaryError: where the storage does not answer.
        """
        decoder = self.decoder
        index = int(decoder.indices[place])
        try:
            if self.cache is not None:
                return self.cache.image(index)
            if content is None:
                (content,) = self._contents([place])
            if isinstance(content, FileNotFoundError | DamagedFileError):
                raise BadImageError(reason(content))
            if isinstance(content, OSError):  # which says nothing about the image
                raise storage_error(f"image {decoder.examples.name(index)}", content)
            encoded, label = decoder.examples.parse(index, content)
            return decode(encoded), label
        except BadImageError as error:
            name = decoder.examples.name(index)
            self.bad.append((name, str(error)))
            if decoder.on_bad_image == "fail":
                raise InputError(bad_image_sentence(name, str(error))) from None
            raise


def bad_image_sentence(name: str, why: str) -> str:
    """What a run says that stops at a bad image."""
    return f"cannot read image {name}: {why} (on_bad_image=skip leaves such images out)"


def handed_over(size: int) -> Tensor:
    """uint8 `[size]`, in memory that the process which asked for it can map where this one is a worker.

    Raises:
        InputError: where there is too little of it.
    """
    if get_worker_info() is None or not size:
        return torch.empty(size, dtype=torch.uint8)
    try:
        # Here, and not on the way to the other process, where an error would be lost and the other wait for ever.
        return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))  # type: ignore[call-overload]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"the shared memory of this machine (/dev/shm) is too small for decoded images: "
            f"{str(error).splitlines()[0]}; make it larger (docker run --shm-size=2g, or a volume at /dev/shm), lower "
            f"--num_workers or the batch size, or decode in the run itself with --num_workers=0"
        ) from None
