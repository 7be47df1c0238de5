"""Four targets in one search against four searches for one target each.

    python benchmarks/frontier.py made-up [--seeds 0 1 2] [--images 1231121] [--workers 2]
    python benchmarks/frontier.py digits --out runs/frontier [--seeds 0 1 2] [--workers 2] [--train]

`made-up`: the controllers alone, on the made-up accuracies of `controller_regret.py` with the real Pixel-1 costs, whose
best architecture at each target is known: how far each result is from its target, and its regret, the best expected
reward minus its own. Everything follows from the number of images as in `tunas search`: 1,231,121 are the published
run, 1,077 with `--epochs 24` one on the embedded digits (403 steps, 4 replicas of 128 validation images).

`digits`: real searches on the embedded digits at the same number of steps, each in a process of its own: seconds, how
far each result is from its target with the tolerance, and with `--train` the accuracy on the test images of every
result trained on its own. Whatever is there already in `--out` is not done again.

`--rows FILE` is written after every search; with the same file, an interrupted run of `made-up` goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from controller_regret import accuracy_of, best_scores, gain_of, score_model

import tunas
from tunas.search.config import SearchConfig
from tunas.search.objective import search_objectives
from tunas.search.plan import plan_search
from tunas.search.reward import reward_function
from tunas.search.simulate import Simulation
from tunas.space import Architecture

TARGETS = {
    "proxylessnas_search": (50.0, 70.0, 84.0, 110.0),
    "proxylessnas_enlarged_search": (50.0, 70.0, 84.0, 110.0),
    "mobilenet_v3_like_search": (35.0, 46.0, 57.0, 75.0),
}
TOLERANCE = 0.01
SLOPE, BIN = 0.05, 0.002
TRAIN_EPOCHS = 12.0


@dataclass(frozen=True)
class Cell:
    """A search: for one of the targets, or for all."""

    ssd: str
    seed: int
    targets: tuple[float, ...]
    options: argparse.Namespace

    @property
    def name(self) -> str:
        return "joint" if len(self.targets) > 1 else f"alone-{self.targets[0]:g}"

    @property
    def search(self) -> str:
        return self.name.partition("-")[0]

    def is_of(self, row: dict[str, Any]) -> bool:
        same = (row["ssd"], row["seed"], row["search"]) == (self.ssd, self.seed, self.search)
        return same and row["target"] in self.targets


@dataclass(frozen=True)
class MadeUp:
    """An accuracy in place of a network's."""

    scores: Any
    gain: float

    def estimate(self, architectures: Any) -> Any:
        return accuracy_of(self.scores.estimate(architectures), self.gain)


def made_up(cell: Cell) -> list[dict[str, Any]]:
    """A row for each target of a search of controllers alone."""
    options, space = cell.options, tunas.get_space(cell.ssd)
    costs = tunas.load_cost_model("pixel1", space)
    scores = score_model(space, costs, cell.seed)
    all_targets = TARGETS[cell.ssd]
    bin_costs, bin_scores = best_scores(space, costs, scores, 1.4 * max(all_targets), BIN)
    assert space.default_target is not None
    accuracy = MadeUp(scores, gain_of(SLOPE, bin_costs, bin_scores, space.default_target))
    config = SearchConfig(
        ssd=cell.ssd,
        rl_cost_model_target=cell.targets,
        rl_cost_model_tolerance=TOLERANCE,
        epochs=options.epochs,
        seed=cell.seed,
        replicas=options.replicas,
    )
    plan = plan_search(config, options.images, digits=options.images < 2000, on_cuda=False)
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, {})
    simulation = Simulation(space, accuracy, plan, config, objectives)  # type: ignore[arg-type]
    began = time.perf_counter()
    for step in range(plan.unmeasured_steps, plan.steps):
        simulation.advance(step)
    seconds = time.perf_counter() - began

    def best_reward(target: float) -> float:
        best = accuracy_of(bin_scores, accuracy.gain)
        return float(reward_function("abs")(best, bin_costs, target).reward.max())

    def regret(found: Architecture, target: float) -> float:
        reward = reward_function("abs")(np.array([accuracy.estimate(found)]), costs.estimate(found), target).reward
        return best_reward(target) - float(reward[0])

    rows = []
    for aim, target in zip(simulation.aims, cell.targets, strict=True):
        likeliest = aim.controller.most_likely()
        landed = aim.controller.likeliest_within(costs.estimate, target, TOLERANCE)
        rows.append(
            {
                "ssd": cell.ssd,
                "seed": cell.seed,
                "search": cell.search,
                "target": target,
                "off": costs.estimate(likeliest) / target - 1,
                "regret": regret(likeliest, target),
                "landed_off": costs.estimate(landed) / target - 1,
                "landed_regret": regret(landed, target),
                "entropy": aim.controller.entropy(),
                "seconds": seconds,
                "steps": plan.steps,
            }
        )
    return rows


def digits(cell: Cell) -> list[dict[str, Any]]:
    """A row for each target of a search on the embedded digits."""
    out = Path(cell.options.out) / f"{cell.ssd}-{cell.seed}" / cell.name
    timed = out.with_name(f"{cell.name}.json")
    if not timed.exists():
        began = time.perf_counter()
        found = tunas.search(
            SearchConfig(
                ssd=cell.ssd,
                rl_cost_model_target=cell.targets,
                rl_cost_model_tolerance=TOLERANCE,
                epochs=cell.options.epochs,
                replicas=cell.options.replicas,
                seed=cell.seed,
                device="cpu",
                checkpoint_dir=str(out),
            )
        )
        seconds = time.perf_counter() - began
        rows = [
            {
                "ssd": cell.ssd,
                "seed": cell.seed,
                "search": cell.search,
                "target": each.target,
                "indices": each.architecture.text,
                "landed_off": each.cost / each.target - 1,
                "seconds": seconds,
                "steps": each.steps,
            }
            for each in found.frontier
        ]
        timed.write_text(json.dumps(rows, indent=1))
    return json.loads(timed.read_text())


def trained(task: tuple[Cell, dict[str, Any]]) -> dict[str, Any]:
    """The row with the accuracy on the test images of what was found, trained on its own."""
    cell, row = task
    directory = Path(cell.options.out) / f"{cell.ssd}-{cell.seed}" / f"train-{cell.name}-{row['target']:g}"
    found = tunas.train(
        tunas.TrainConfig(
            ssd=cell.ssd,
            indices=row["indices"],
            use_held_out_test_set=True,
            epochs=TRAIN_EPOCHS,
            dropout_rate=0.0,
            seed=cell.seed,
            device="cpu",
            checkpoint_dir=str(directory),
        )
    )
    return {**row, "accuracy": found.document["accuracy"]}


def share_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def work(cell: Cell) -> tuple[Cell, list[dict[str, Any]]]:
    return cell, {"made-up": made_up, "digits": digits}[cell.options.what](cell)


def said(row: dict[str, Any]) -> str:
    return json.dumps({name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()})


FIGURES = ("off", "landed_off", "regret", "landed_regret", "accuracy")


def summary(rows: list[dict[str, Any]]) -> None:
    """Prints means over seeds, by space, target and kind of search."""

    def key(row: dict[str, Any]) -> tuple[str, float, str]:
        return row["ssd"], row["target"], row["search"]

    shown = [name for name in FIGURES if name in rows[0]]
    print("\nmeans over seeds (off: mean size in %; ± standard error)")
    print(f"{'space':29} target {'search':6} n  " + "  ".join(f"{name:>18}" for name in shown) + "  within 1 %")
    for (ssd, target, search), of_one in itertools.groupby(sorted(rows, key=key), key=key):
        group = list(of_one)
        cells = []
        for name in shown:
            scale = 100 if name in ("off", "landed_off", "accuracy") else 1
            values = scale * np.array([row[name] for row in group])
            values = np.abs(values) if "off" in name else values
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
            cells.append(f"{values.mean():9.4f} ±{error:7.4f}")
        near = sum(abs(row["landed_off"]) <= TOLERANCE * (1 + 1e-9) for row in group)
        print(f"{ssd:29} {target:6g} {search:6} {len(group)}  {'  '.join(cells)}  {near} of {len(group)}")
    for ssd in sorted({row["ssd"] for row in rows}):
        ratios = []
        for seed in sorted({row["seed"] for row in rows}):
            mine = [row for row in rows if (row["ssd"], row["seed"]) == (ssd, seed)]
            alone = [row["seconds"] for row in mine if row["search"] == "alone"]
            joint = [row["seconds"] for row in mine if row["search"] == "joint"]
            if alone and joint:
                ratios.append(joint[0] / np.mean(alone))  # of alone: what the targets cost on average
        if ratios:
            print(f"{ssd}: time of all targets in one search ÷ time of a search for one: {np.round(ratios, 2)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("made-up", "digits"))
    parser.add_argument("--spaces", nargs="+", choices=list(TARGETS), default=["proxylessnas_search"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--searches", nargs="+", choices=("joint", "alone"), default=["joint", "alone"])
    parser.add_argument("--alone", nargs="+", type=float, help="targets to search for alone; all where left out")
    parser.add_argument("--images", type=int, default=1_231_121, help="of the training split, made-up only")
    parser.add_argument("--epochs", type=float, help="as tunas search where left out")
    parser.add_argument("--replicas", type=int, help="as tunas search where left out")
    parser.add_argument("--out", help="directory of the runs; digits only")
    parser.add_argument("--train", action="store_true", help="train every result on its own; digits only")
    parser.add_argument("--rows", help="a file that all rows are written to, as JSON, and read from")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if (args.what == "digits") != (args.out is not None):
        parser.error("digits takes --out, made-up does not")
    cells = []
    for ssd, seed, search in itertools.product(args.spaces, args.seeds, args.searches):
        wanted = [TARGETS[ssd]] if search == "joint" else [(target,) for target in args.alone or TARGETS[ssd]]
        cells += [Cell(ssd, seed, targets, args) for targets in wanted]
    rows = json.loads(Path(args.rows).read_text()) if args.rows and Path(args.rows).exists() else []
    found = [(cell, row) for cell in cells for row in rows if cell.is_of(row)]
    cells = [cell for cell in cells if not any(cell.is_of(row) for row in rows)]
    threads = max(1, len(os.sched_getaffinity(0)) // args.workers)
    os.environ["OMP_NUM_THREADS"] = str(threads)

    def note(said_of: list[dict[str, Any]]) -> None:
        rows.extend(said_of)
        print("\n".join(said(row) for row in said_of), flush=True)
        if args.rows:
            Path(args.rows).write_text(json.dumps(rows, indent=1))

    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers, share_threads, (threads,), maxtasksperchild=1) as pool:
        for cell, of_cell in pool.imap_unordered(work, cells, chunksize=1):
            found += [(cell, row) for row in of_cell]
            note(of_cell)
        if args.train:
            rows.clear()
            for row in pool.imap_unordered(trained, found, chunksize=1):
                note([row])
    summary(rows)


if __name__ == "__main__":
    main()
