"""A small dataset of rendered colour images, written in each of the layouts with the same bytes."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tunas.data import Data, DataConfig, open_data
from tunas.data.crc32c import crc32c_by_table
from tunas.data.tfrecord import example_type

CLASS_NAMES = ("n001", "n002", "n003", "n004")
SIZE = 40
TRAIN_PER_CLASS = 20
TEST_PER_CLASS = 4


@dataclass(frozen=True)
class Picture:
    name: str
    label: int
    encoded: bytes


@dataclass
class Rendered:
    """Pictures of train and test, in the order in which every layout lists them."""

    train: list[Picture] = field(default_factory=list)
    test: list[Picture] = field(default_factory=list)


def picture(number: int, label: int) -> Image.Image:
    """Smooth colours and a bright disc whose place tells the class; no two alike, in shapes around 60×45."""
    rng = np.random.default_rng(number)
    height, width = int(rng.integers(44, 60)), int(rng.integers(44, 75))
    if number % 2:
        height, width = width, height
    small = Image.fromarray(rng.integers(0, 200, (4, 5, 3), dtype=np.uint8))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    rows, columns = np.mgrid[:height, :width]
    middle = (height * (1 + label // 2) / 3, width * (1 + label % 2) / 3)
    disc = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < 60
    pixels[disc] += 55
    return Image.fromarray(np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8))


def rendered(kind: str) -> Rendered:
    """`kind` is PNG or JPEG."""
    found = Rendered()
    for label, class_name in enumerate(CLASS_NAMES):
        for split, count in (("train", TRAIN_PER_CLASS), ("test", TEST_PER_CLASS)):
            for number in range(count):
                unique = label * 100 + number + (50 if split == "test" else 0)
                buffer = io.BytesIO()
                picture(unique, label).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
                name = f"{class_name}_{number:03d}.{'JPEG' if kind == 'JPEG' else 'png'}"
                getattr(found, split).append(Picture(name, label, buffer.getvalue()))
    return found


def write_folder(root: Path, pictures: Rendered) -> Path:
    for directory, part in (("train", pictures.train), ("val", pictures.test)):
        for each in part:
            path = root / directory / CLASS_NAMES[each.label] / each.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(each.encoded)
    return root


def masked(content: bytes) -> bytes:
    crc = crc32c_by_table(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def example(each: Picture) -> bytes:
    message = example_type()()
    message.features.feature["image"].bytes_list.value.append(each.encoded)
    message.features.feature["label"].int64_list.value.append(each.label)
    message.features.feature["file_name"].bytes_list.value.append(each.name.encode())
    return message.SerializeToString()


def parts_of(pictures: list[Picture], count: int) -> list[list[Picture]]:
    return [pictures[k * len(pictures) // count : (k + 1) * len(pictures) // count] for k in range(count)]


def write_tfds(root: Path, pictures: Rendered, shards: int = 3) -> Path:
    directory = root / "shapes" / "1.0.0"
    directory.mkdir(parents=True)
    splits = []
    for split, part, count in (("train", pictures.train, shards), ("validation", pictures.test, 1)):
        for number, shard in enumerate(parts_of(part, count)):
            path = directory / f"shapes-{split}.tfrecord-{number:05d}-of-{count:05d}"
            path.write_bytes(b"".join(record(example(each)) for each in shard))
        lengths = [str(len(shard)) for shard in parts_of(part, count)]
        splits.append(
            {
                "name": split,
                "shardLengths": lengths,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
        )
    info = {"name": "shapes", "version": "1.0.0", "fileFormat": "tfrecord", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    core = "tensorflow_datasets.core.features"
    features = {
        "file_name": {"pythonClassName": f"{core}.text_feature.Text"},
        "image": {
            "pythonClassName": f"{core}.image_feature.Image",
            "image": {"shape": {"dimensions": ["-1", "-1", "3"]}},
        },
        "label": {
            "pythonClassName": f"{core}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(CLASS_NAMES))},
        },
    }
    document = {"pythonClassName": f"{core}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (directory / "features.json").write_text(json.dumps(document))
    (directory / "label.labels.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    return root


def write_webdataset(root: Path, pictures: Rendered, shards: int = 3) -> Path:
    root.mkdir(parents=True)
    for split, part, count in (("train", pictures.train, shards), ("val", pictures.test, 1)):
        for number, shard in enumerate(parts_of(part, count)):
            with tarfile.open(root / f"shapes-{split}-{number:04d}.tar", "w") as tar:
                for each in shard:
                    add_member(tar, each.name, each.encoded)
                    add_member(tar, f"{each.name.partition('.')[0]}.cls", str(each.label).encode())
    (root / "classnames.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    return root


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def table(pictures: list[Picture]) -> Any:
    """As the hub has it: a struct of bytes and path, and the class names in the schema's own metadata."""
    import pyarrow as pa

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": each.encoded, "path": each.name} for each in pictures], kind)
    labels = pa.array([each.label for each in pictures], pa.int64())
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASS_NAMES)}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)


def write_parquet(root: Path, pictures: Rendered, shards: int = 3, rows: int = 7) -> Path:
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    for split, part, count in (("train", pictures.train, shards), ("validation", pictures.test, 1)):
        for number, shard in enumerate(parts_of(part, count)):
            path = root / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet"
            pq.write_table(table(shard), path, row_group_size=rows)
    return root


def write_saved(root: Path, pictures: Rendered, shards: int = 2) -> Path:
    """As `DatasetDict.save_to_disk` does."""
    import pyarrow as pa

    for split, part in (("train", pictures.train), ("validation", pictures.test)):
        (root / split).mkdir(parents=True)
        names = [f"data-{number:05d}-of-{shards:05d}.arrow" for number in range(shards)]
        for name, shard in zip(names, parts_of(part, shards), strict=True):
            rows = table(shard)
            with pa.OSFile(str(root / split / name), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
                writer.write_table(rows, max_chunksize=10)
        state = {"_data_files": [{"filename": name} for name in names], "_split": split}
        (root / split / "state.json").write_text(json.dumps(state))
        (root / split / "dataset_info.json").write_text("{}")
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    return root


def write_csv(root: Path, pictures: Rendered) -> Path:
    """All images in one directory, and a table of theirs; its path."""
    (root / "images").mkdir(parents=True)
    lines = ["split,file_name,label"]
    for split, part in (("train", pictures.train), ("val", pictures.test)):
        for each in part:
            name = f"{split}_{each.name}" if split == "val" else each.name
            (root / "images" / name).write_bytes(each.encoded)
            lines.append(f"{split},images/{name},{CLASS_NAMES[each.label]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root / "labels.csv"


def write_imagefolder(root: Path, pictures: Rendered) -> Path:
    """Hugging Face's imagefolder with a metadata.csv in each split's directory."""
    for split, part in (("train", pictures.train), ("test", pictures.test)):
        (root / split).mkdir(parents=True)
        lines = ["file_name,label"]
        for each in part:
            (root / split / each.name).write_bytes(each.encoded)
            lines.append(f"{each.name},{CLASS_NAMES[each.label]}")
        (root / split / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def write_plain(root: Path, pictures: list[Picture], inner: str = "") -> Path:
    for each in pictures:
        path = root / CLASS_NAMES[each.label] / inner / each.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.encoded)
    return root


def write_kaggle(root: Path, pictures: Rendered) -> Path:
    """Without the solution of its validation images."""
    inner = root / "ILSVRC" / "Data" / "CLS-LOC"
    write_plain(inner / "train", pictures.train)
    for place in ("val", "test"):
        (inner / place).mkdir()
    for number, each in enumerate(reversed(pictures.test), start=1):
        (inner / "val" / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(each.encoded)
    (inner / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(pictures.test[0].encoded)
    return root


def write_array_record(root: Path, pictures: Rendered) -> Path:
    """Needs the package array_record."""
    from array_record.python.array_record_module import ArrayRecordWriter

    directory = write_tfds(root, pictures) / "shapes" / "1.0.0"
    for path in directory.glob("*.tfrecord-*"):
        path.unlink()
    for split, part, count in (("train", pictures.train, 3), ("validation", pictures.test, 1)):
        for number, shard in enumerate(parts_of(part, count)):
            path = directory / f"shapes-{split}.array_record-{number:05d}-of-{count:05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for each in shard:
                writer.write(example(each))
            writer.close()
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"array_record"'))
    return root


def write_shard(path: Path, pictures: list[Picture], member: str, label: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for each in pictures:
            front = each.name.partition(".")[0]
            extension, content = label(each)
            add_member(tar, f"{front}{member}", each.encoded)
            add_member(tar, f"{front}{extension}", content.encode())


NAMED = {
    "class_name": lambda each: (".json", json.dumps({"class_name": CLASS_NAMES[each.label], "width": 7})),
    "nested": lambda each: (".json", json.dumps({"info": {"label": CLASS_NAMES[each.label]}, "width": 7})),
    "text": lambda each: (".txt", f"{CLASS_NAMES[each.label]}\n"),
}


def write_named(root: Path, pictures: Rendered) -> Path:
    """Shards with class names in JSON."""
    write_shard(root / "train.tar", pictures.train, ".png", NAMED["nested"])
    return root


WRITERS = {
    "folder": write_folder,
    "tfds": write_tfds,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
    "saved": write_saved,
    "csv": write_csv,
    "imagefolder": write_imagefolder,
}
OTHERS = {"class names in shards": write_named, "Kaggle's": write_kaggle, "array_record": write_array_record}
"""More layouts of the same training images."""


def opened(directory: Path | str, cache: Path | None = None, **settings: object) -> Data:
    """The dataset at 32 pixels, decoded by this process, unless told otherwise."""
    config = {"image_size": 32, "num_workers": 0, "cache_dir": str(cache) if cache else None} | settings
    return open_data(DataConfig(dataset_dir=str(directory), **config))  # type: ignore[arg-type]


def everything(data: Data, split: str) -> tuple[Tensor, Tensor]:
    """All images of a split, and their labels."""
    batches = list(data.once(split, 7))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
