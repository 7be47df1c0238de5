"""The whole step of a search, this revision against an older one in the same run, over a whole schedule.

Each revision runs in processes of its own, in turns, with the search's own loop, data and configuration; only the steps
that are timed are carried out. They are spread over the schedule: a quarter of a search is its warmup, whose steps cost
several times as much, so both parts are measured and weighted as the schedule has them. Both revisions take the steps
of the same numbers, and so nearly the same architectures.

The share of the peak is the multiply-adds of the convolutions and matrix products that the step asks for (a training
pass counts as three forward passes), over what this machine reaches in one large float32 matrix product.

    python benchmarks/search_step.py [--revision d71eece] [--cases digits_proxyless digits_v3 px224] [--rounds 2]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

ROOT = Path(__file__).parents[1]
WARMUP_SHARE = 0.25
DIGITS = 1077
"""Training images of the embedded digits."""
PUBLISHED_STEPS = 27_050

CASES: dict[str, dict[str, Any]] = {
    "digits_proxyless": {"ssd": "proxylessnas_search"},
    "digits_v3": {"ssd": "mobilenet_v3_like_search"},
    "px224": {
        "ssd": "proxylessnas_search",
        "image_size": 224,
        "train_batch_size": 32,
        "replicas": 2,
        "rl_batch_size_multiplier": 4.0,
        "epochs": (PUBLISHED_STEPS + 0.5) * 32 / DIGITS,
    },
}
"""The defaults on the digits; and digits scaled to 224 px at the published length and with the published validation."""

WORKER = """
import json, resource, sys, tempfile, time
import numpy as np, torch
import tunas.search.loop as loop
from tunas.nn import SuperNet
from tunas.search.config import SearchConfig

asked = json.loads(sys.argv[1])
clock = {"wall": time.perf_counter, "processor": time.process_time}[asked["clock"]]
calls, forward = [], SuperNet.forward
def noted(self, x, indices):
    calls.append((self, len(x), tuple(x.shape[1:]), tuple(int(i) for i in indices), torch.is_grad_enabled()))
    return forward(self, x, indices)
SuperNet.forward = noted

class Done(Exception):
    pass

found = []
def time_steps(advance, steps):
    for fraction, untimed, timed in asked["places"]:
        first = int(fraction * steps)
        for step in range(first, first + untimed + timed):
            calls.clear()
            start = clock()
            scalars = advance(step)
            seconds = clock() - start
            if step >= first + untimed:
                found.append([fraction, seconds, list(calls), scalars["model/loss"]])
    raise Done

def carry_out(run, directory, world, log_to=()):
    with run.reading(0):
        time_steps(run.advance, run.steps)
loop.carry_out = carry_out
loop.run_steps = lambda label, steps, advance, **rest: time_steps(advance, steps.stop)  # of older revisions

def macs(supernet, shape, indices):
    from torch.utils.flop_counter import FlopCounterMode
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(supernet, torch.zeros(2, *shape), indices)
    return counter.get_total_flops() / 4

def peak():
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = 1e9
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2048**3 / best

with tempfile.TemporaryDirectory() as directory:
    try:
        loop.search(SearchConfig(**asked["settings"], checkpoint_dir=directory + "/run", device="cpu"))
    except Done:
        pass
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows = []
for fraction, seconds, used, loss in found:
    work = 0
    for net, n, shape, i, train in used if asked["count"] else ():
        work += (3 if train else 1) * n * macs(net, shape, i)
    rows.append([fraction, seconds, work, loss])
print("RESULT", json.dumps({"rows": rows, "peak": peak(), "mib": memory, "threads": torch.get_num_threads()}))
"""


@dataclass
class Options:
    revision: str = "d71eece"
    """The older one, as git names it."""
    cases: tuple[str, ...] = tuple(CASES)
    rounds: int = 2
    """How often each revision's turn comes."""
    warmup_places: int = 8
    """Places in the warmup at which steps are timed."""
    later_places: int = 3
    timed: int = 2
    """Steps timed at each place of the warmup; twice as many after it."""
    untimed: int = 1
    """Steps before them at each place."""
    set: tuple[str, ...] = field(default=())
    """name=value (JSON): further settings of the search, for this revision only."""
    peak: bool = True
    """Count the share of the peak."""
    clock: Literal["wall", "processor"] = "wall"
    """The time that passes, or that all threads run: the latter says more on a machine that other work shares, and
    nothing of what replicas side by side bring."""


def places(options: Options) -> list[tuple[float, int, int]]:
    """(part of the schedule, untimed steps, timed steps)."""
    within = (np.arange(options.warmup_places) + 0.5) / options.warmup_places * WARMUP_SHARE
    later = WARMUP_SHARE + (np.arange(options.later_places) + 0.5) / options.later_places * (1 - WARMUP_SHARE)
    timed = [(float(place), options.untimed, options.timed) for place in within]
    return timed + [(float(place), options.untimed, 2 * options.timed) for place in later]


def run_worker(source: Path, settings: dict[str, Any], options: Options) -> dict[str, Any]:
    asked = json.dumps({"settings": settings, "places": places(options), "count": options.peak, "clock": options.clock})
    environment = {**os.environ, "PYTHONPATH": str(source / "src")}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, asked], env=environment, capture_output=True, text=True, cwd=source
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        raise SystemExit(f"the worker failed:\n{done.stderr[-3000:]}")
    return json.loads(lines[0].removeprefix("RESULT"))


def weighted(rows: list[list[float]], column: int) -> tuple[float, float, float]:
    """Means of the warmup, of the rest, and of the whole schedule."""
    early = np.mean([row[column] for row in rows if row[0] < WARMUP_SHARE])
    late = np.mean([row[column] for row in rows if row[0] >= WARMUP_SHARE])
    return float(early), float(late), float(WARMUP_SHARE * early + (1 - WARMUP_SHARE) * late)


def fastest(results: list[dict[str, Any]]) -> list[list[float]]:
    """Of every step the fastest of the rounds."""
    return [min(rows, key=lambda row: row[1]) for rows in zip(*(r["rows"] for r in results), strict=True)]


def main(options: Options) -> None:
    given = dict(text.split("=", 1) for text in options.set)
    with tempfile.TemporaryDirectory() as directory:
        older = Path(directory)
        archive = subprocess.run(
            ["git", "archive", options.revision, "src"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "-x"], cwd=older, input=archive, check=True)
        print(
            f"{'case':18} {'revision':>10} {'warmup ms':>10} {'later ms':>10} {'whole ms':>10} {'of peak':>8} "
            f"{'MiB':>6}",
            flush=True,
        )
        for case in options.cases:
            extra = {name: json.loads(value) for name, value in given.items()}
            results: dict[str, list[dict[str, Any]]] = {options.revision: [], "this": []}
            for _ in range(options.rounds):
                results[options.revision].append(run_worker(older, CASES[case], options))
                results["this"].append(run_worker(ROOT, {**CASES[case], **extra}, options))
            whole = {}
            for name, of_one in results.items():
                rows = fastest(of_one)
                milliseconds = [1e3 * mean for mean in weighted(rows, 1)]
                whole[name] = milliseconds
                share = weighted(rows, 2)[2] / weighted(rows, 1)[2] / max(r["peak"] for r in of_one)
                memory = max(result["mib"] for result in of_one)
                print(
                    f"{case:18} {name:>10} {milliseconds[0]:10.0f} {milliseconds[1]:10.0f} {milliseconds[2]:10.0f} "
                    f"{100 * share:7.1f}% {memory:6.0f}",
                    flush=True,
                )
            ratios = [old / new for old, new in zip(whole[options.revision], whole["this"], strict=True)]
            peak = max(result["peak"] for of_one in results.values() for result in of_one)
            print(f"{case:18} {'ratio':>10} {ratios[0]:10.2f} {ratios[1]:10.2f} {ratios[2]:10.2f}")
            losses = [np.array([row[3] for row in results[name][0]["rows"]]) for name in (options.revision, "this")]
            print(
                f"{case:18} largest difference of a loss {np.abs(losses[0] - losses[1]).max():.1e}; "
                f"peak {2e-9 * peak:.0f} GFLOP/s",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
