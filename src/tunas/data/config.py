"""What the command line says about the data. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DIGITS_SIZE = 32
IMAGENET_SIZE = 224
"""Pixels a side (docs/algorithm.md#data)."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are read."""

    dataset_dir: str | None = None
    """Directory of class folders (<class>/*, or train/<class>/* and val/<class>/*), of a TFDS dataset, of parquet
    files or saved datasets of Hugging Face, or of WebDataset shards; a CSV file of names and labels; or a pattern of
    shard names or URLs such as 'imagenet-{train,val}-{0000..0099}.tar' (docs/data.md lists all). The embedded
    handwritten digits where left out."""

    data_format: Literal["auto", "digits", "folder", "csv", "tfds", "webdataset", "huggingface"] = "auto"
    """How dataset_dir is laid out; auto looks."""

    image_size: int | None = None
    """Pixels a side of the network's input. 32 for digits, otherwise 224."""

    valid_filenames: str | None = None
    """Text file with the names of the training images to hold out for validation, one a line, with or without directory
    and extension."""

    valid_fraction: float | None = None
    """Part of every class that is held out for validation. Where left out: 0.1 below 100,000 training images; 1 in 25.6
    of more, at most 50,046 (of ImageNet the published ones)."""

    test_fraction: float | None = None
    """Part of every class that is held out as the test set. Where left out: as for validation where nothing in the
    dataset says which images are for training; none where it does."""

    allow_empty_classes: bool = False
    """Keep directories without images as classes, rather than refuse them by name."""

    cache_dir: str | None = None
    """Where decoded evaluation images (7.5 GB for ImageNet's held-out part at 224 px, the same for its test set) and
    indexes of record files are kept between runs. Inside the run directory where left out."""

    train_cache_size: int | None = None
    """Also keep the training images decoded, in cache_dir, with their shorter side reduced to this many pixels
    (ImageNet at 256 takes about 335 GB): less work for the processor, at pixels that differ slightly from those of the
    files."""

    on_bad_image: Literal["fail", "skip"] = "fail"
    """What an image that cannot be decoded does: stop with its file's name, or be left out with a count at the end
    (in training the next image in its split takes its place)."""

    num_workers: int | None = None
    """Processes that decode images. As many as this process may use processors, at most 16, where left out."""
