"""How far accuracies and rewards move where a search validates in bfloat16 (`--valid_precision=bf16`).

A search on the digits goes its way in float32; at a few places of its schedule the architectures of many steps are
measured twice, with the same shared weights on the same validation images. Printed are the differences of accuracies
(the reward's only part that moves, so that they are the rewards' as well), beside the spread of the accuracies of one
step's replicas, from which the controller learns; and how long each forward pass took.

    python benchmarks/valid_precision.py [--ssd proxylessnas_search] [--epochs 30] [--steps-measured 20]
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import tunas
import tunas.search.loop as loop


class Done(Exception):
    """The search need not end as usual."""


@dataclass
class Options:
    ssd: str = "proxylessnas_search"
    epochs: float = 30.0
    steps_measured: int = 20
    """Steps at each place whose replicas are measured."""
    places: tuple[float, ...] = (0.26, 0.6, 0.999)
    """Parts of the schedule."""
    seed: int = 0


def both(search: Any, step: int, valid: Any) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Accuracies of a step's replicas in float32 and in bfloat16, and the seconds that each took."""
    plan = search.plan
    indices = search.aims.sample(step, (0.0, 0.0)).indices
    found, seconds = [], []
    for precision in ("fp32", "bf16"):
        search.plan = dataclasses.replace(plan, valid_precision=precision)
        start = time.perf_counter()
        found.append(search.qualities(indices, valid, plan.valid_share).cpu().double().numpy())
        seconds.append(time.perf_counter() - start)
    search.plan = plan
    return found[0], found[1], seconds[0], seconds[1]


def main(options: Options) -> None:
    print(
        f"{'step':>6} {'replicas':>8} {'accuracy':>8} {'spread':>7} {'mean |Δ|':>8} {'mean Δ':>8} {'largest':>8} "
        f"{'rank corr.':>10} {'fp32/bf16 time':>14}"
    )

    def carry_out(run: Any, directory: Path, world: Any, log_to: Any = ()) -> None:
        search, steps = run.state, run.steps
        wanted = {int(place * steps) for place in options.places}
        task, plan = search.task, search.plan
        valid = task.share_stream("valid", plan.valid_share * plan.replicas, plan.replicas, seed=options.seed + 1)
        with run.reading(0):
            for step in range(steps):
                run.advance(step)
                if step in wanted:
                    rows = [both(search, steps + number, next(valid)) for number in range(options.steps_measured)]
                    report(step, rows)
        raise Done

    loop.carry_out = carry_out  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as directory:
        config = tunas.SearchConfig(
            ssd=options.ssd, epochs=options.epochs, seed=options.seed, device="cpu", checkpoint_dir=directory + "/run"
        )
        with contextlib.suppress(Done):
            tunas.search(config)


def report(step: int, rows: list[tuple[np.ndarray, np.ndarray, float, float]]) -> None:
    exact, short = np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])
    spread = np.mean([row[0].std(ddof=1) for row in rows])
    differences = short - exact
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (exact, short)]
    print(
        f"{step:6} {len(exact):8} {exact.mean():8.4f} {spread:7.4f} {np.abs(differences).mean():8.5f} "
        f"{differences.mean():+8.5f} {np.abs(differences).max():8.4f} {np.corrcoef(*ranks)[0, 1]:10.3f} "
        f"{sum(row[2] for row in rows[1:]) / sum(row[3] for row in rows[1:]):14.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
