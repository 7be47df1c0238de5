"""Images per second of every data source against plain torchvision, in the same run and with the same number of
processes.

    python benchmarks/input_pipeline.py [--images 800] [--workers 2] [--rounds 3]

Photograph-like JPEGs of ImageNet's sizes are generated (smooth colours, edges and texture; about 110 kB at 500×375) and
written as an image folder, as TFDS records, as WebDataset shards and as parquet files in row groups of 100, as the
Hugging Face hub has them. Plain is `torchvision.datasets.ImageFolder` with a
`DataLoader` and the same views. The limit is the same processes doing nothing but reading and decoding. Rounds take
turns, and the median counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import statistics
import struct
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import datasets, transforms
from torchvision.transforms import InterpolationMode

from tunas.data import Data, DataConfig, normalize, open_data
from tunas.data.crc32c import masked_crc32c
from tunas.data.images import MEAN, STD, decode
from tunas.data.tfrecord import example_type

CLASSES = 8
BATCH = 64
GOAL_TRAINING, GOAL_VALIDATION = 1.3, 20.0
SHAPES = ((500, 375), (375, 500), (500, 333), (333, 500), (500, 500))
SHAPE_SHARES = (0.47, 0.18, 0.15, 0.05, 0.15)
"""Width and height of most of ImageNet's images; the last stands for the rest, whose sizes vary widely."""
JPEG_QUALITY = 96
ROW_GROUP = 100
"""Rows, as the hub writes images."""
PARQUET_COPIES = 8
"""How often the same images are written, so that there are many more row groups than a process keeps."""
PARQUET = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "image": {"_type": "Image"},
                        "label": {"_type": "ClassLabel", "names": list("01234567")},
                    }
                }
            }
        )
    },
)


def photograph(rng: np.random.Generator) -> Image.Image:
    """Colour fields at several scales with edges between them, and fine grain."""
    kind = rng.choice(len(SHAPES), p=SHAPE_SHARES)
    width, height = SHAPES[kind]
    if kind == len(SHAPES) - 1:
        width, height = (np.array((500, 400)) * np.exp(rng.normal(0, 0.45))).astype(int).clip(90, 1800).tolist()
    picture = np.full((height, width, 3), 118.0, np.float32)
    for cells, strength in ((3, 50), (9, 35), (30, 20), (90, 12)):
        field = rng.normal(0, 1, (max(2, cells * height // 500), max(2, cells * width // 500), 3))
        field = (field - field.min()) / (field.max() - field.min()) * 255
        resized = Image.fromarray(field.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        values = np.asarray(resized, np.float32) / 255 - 0.5
        picture += strength * 2 * (values if cells % 2 else np.tanh(6 * values))  # the hyperbolic tangent makes edges
    picture += rng.normal(0, 5, (height, width, 1))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def write_layouts(root: Path, images: int) -> tuple[int, float]:
    """Writes root/{folder,tfds,webdataset,parquet}; mean bytes of a file and mean pixels of an image."""
    rng = np.random.default_rng(0)
    splits = {"train": images, "val": max(4 * BATCH, images // 2)}
    sizes, pixels = [], []
    tfds = root / "tfds" / "photos" / "1.0.0"
    tfds.mkdir(parents=True)
    for layout in ("webdataset", "parquet"):
        (root / layout).mkdir()
    listed = []
    for split, count in splits.items():
        tfds_name = {"train": "train", "val": "validation"}[split]
        with (
            open(tfds / f"photos-{tfds_name}.tfrecord-00000-of-00001", "wb") as records,
            tarfile.open(root / "webdataset" / f"photos-{split}-0000.tar", "w") as tar,
            pq.ParquetWriter(root / "parquet" / f"{tfds_name}-00000-of-00001.parquet", PARQUET) as parquet,
        ):
            rows: list[dict[str, object]] = []
            for number in range(count):
                label = number % CLASSES
                image = photograph(rng)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=JPEG_QUALITY)
                content = buffer.getvalue()
                sizes.append(len(content))
                pixels.append(image.width * image.height)
                path = root / "folder" / split / f"class{label}" / f"{number:06d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                records.write(record(content, label))
                add_member(tar, f"{number:06d}.jpg", content)
                add_member(tar, f"{number:06d}.cls", str(label).encode())
                rows.append({"image": {"bytes": content, "path": path.name}, "label": label})
            for _ in range(PARQUET_COPIES):
                parquet.write_table(pa.Table.from_pylist(rows, PARQUET), row_group_size=ROW_GROUP)
        listed.append({"name": tfds_name, "shardLengths": [str(count)]})
    (tfds / "dataset_info.json").write_text(
        json.dumps({"name": "photos", "version": "1.0.0", "fileFormat": "tfrecord", "splits": listed})
    )
    features = {
        "image": {"pythonClassName": "Image"},
        "label": {"pythonClassName": "ClassLabel", "classLabel": {"numClasses": str(CLASSES)}},
    }
    (tfds / "features.json").write_text(json.dumps({"featuresDict": {"features": features}}))
    return round(statistics.mean(sizes)), statistics.mean(pixels)


def record(content: bytes, label: int) -> bytes:
    message = example_type()()
    message.features.feature["image"].bytes_list.value.append(content)
    message.features.feature["label"].int64_list.value.append(label)
    payload = message.SerializeToString()
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked_crc32c(length)) + payload + struct.pack("<I", masked_crc32c(payload))


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


class BareDecoding(Dataset[int]):
    """Reads and decodes, and hands nothing on."""

    def __init__(self, root: Path):
        self.paths = [path for path, _ in datasets.ImageFolder(str(root)).samples]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> int:
        return decode(Path(self.paths[index]).read_bytes()).shape[0]


def plain(root: Path, workers: int, images: int, *, training: bool) -> Iterator[int]:
    """Images in each batch of the loader that everybody writes."""
    bicubic = InterpolationMode.BICUBIC
    if training:
        views = [transforms.RandomResizedCrop(224, interpolation=bicubic), transforms.RandomHorizontalFlip()]
    else:
        views = [transforms.Resize(256, interpolation=bicubic), transforms.CenterCrop(224)]
    steps = transforms.Compose([*views, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    dataset = datasets.ImageFolder(str(root), steps)
    sampler = RandomSampler(dataset, replacement=True, num_samples=images)
    return (len(labels) for _, labels in DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers))


def bare(root: Path, workers: int, images: int) -> Iterator[int]:
    dataset = BareDecoding(root)
    sampler = RandomSampler(dataset, replacement=True, num_samples=images)
    return (len(heights) for heights in DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers))


def ours(data: Data, split: str, *, augment: bool, batch: int = BATCH, normalized: bool = False) -> Iterator[int]:
    for images, labels in data.stream(split, batch, seed=0, augment=augment):
        if normalized:
            normalize(images)
        yield len(labels)


def rate(loader: Callable[[], Iterator[int]], images: int, skip: int) -> tuple[float, float]:
    """Images per second over `images` of them, after the first `skip` that were made while the processes started; and
    milliseconds of processor time to an image, of this process and its workers, from beginning to end."""
    used = processor_seconds()
    seen = total = 0
    with contextlib.closing(loader()) as batches:  # type: ignore[type-var]
        while total < skip:
            total += next(batches)
        start = time.perf_counter()
        while seen < images:
            seen += next(batches)
        elapsed = time.perf_counter() - start
    del batches
    return seen / elapsed, (processor_seconds() - used) / (total + seen) * 1000


def processor_seconds() -> float:
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=800, help="training images to generate")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunas-input-") as directory:
        measure(Path(directory), arguments.images, arguments.workers, arguments.rounds)


def measure(root: Path, images: int, workers: int, rounds: int) -> None:
    mean_bytes, mean_pixels = write_layouts(root, images)
    size = f"{mean_bytes / 1000:.0f} kB and {mean_pixels / 1e6:.3f} Mpixel on average"
    print(f"{images} training images of {size}; {workers} processes, batch {BATCH}")
    skip = 2 * BATCH * (2 * workers + 2)  # beyond what is made in advance
    timed = max(1200, 2 * skip)
    total = skip + timed + BATCH

    def opened(layout: str, **settings: object) -> Data:
        config = {"num_workers": workers, "cache_dir": str(root / "cache")} | settings
        return open_data(DataConfig(dataset_dir=str(root / layout), **config))  # type: ignore[arg-type]

    sources = {layout: opened(layout) for layout in ("folder", "tfds", "webdataset", "parquet")}
    kept = opened("folder", train_cache_size=256)
    training: dict[str, Callable[[], Iterator[int]]] = {
        "plain torchvision": lambda: plain(root / "folder" / "train", workers, total, training=True),
        "bare decoding (limit)": lambda: bare(root / "folder" / "train", workers, total),
        **{f"tunas, {name}": partial(ours, data, "train", augment=True) for name, data in sources.items()},
        "tunas, folder, normalised here": lambda: ours(sources["folder"], "train", augment=True, normalized=True),
        "tunas, train_cache_size=256": lambda: ours(kept, "train", augment=True),
    }
    report("Training", training, rounds, skip, timed, GOAL_TRAINING)
    next(ours(sources["folder"], "test", augment=False))  # makes the cache
    validation: dict[str, Callable[[], Iterator[int]]] = {
        "plain torchvision": lambda: plain(root / "folder" / "val", workers, total, training=False),
        "tunas, cached": lambda: ours(sources["folder"], "test", augment=False, batch=4 * BATCH),
        "tunas, cached, normalised here": lambda: ours(
            sources["folder"], "test", augment=False, batch=4 * BATCH, normalized=True
        ),
    }
    report("Validation", validation, rounds, skip, timed, GOAL_VALIDATION)


def report(
    title: str, loaders: dict[str, Callable[[], Iterator[int]]], rounds: int, skip: int, timed: int, goal: float
) -> None:
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            cached = "cached" in name
            rates[name].append(rate(loader, timed * (10 if cached else 1), skip))
    medians = {
        name: [statistics.median(column) for column in zip(*measured, strict=True)] for name, measured in rates.items()
    }
    plain_rate, plain_cost = medians["plain torchvision"]
    print(
        f"\n{title} (goal: {goal:g} × plain)\n{'':34} images/s   × plain   CPU ms/image   plain ÷ it   images/s in "
        f"each round"
    )
    for name, (middle, cost) in medians.items():
        each_round = " ".join(f"{images:.0f}" for images, _ in rates[name])
        print(
            f"{name:34} {middle:8.0f}   {middle / plain_rate:7.2f}   {cost:12.3f}   {plain_cost / cost:10.2f}   "
            f"{each_round}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
