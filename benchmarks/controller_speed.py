"""How fast architectures are drawn, learned from and priced.

    python benchmarks/controller_speed.py

Prints each figure beside a named alternative measured in the same run:
- a step of the controller (32 replicas of mobilenet_v3_like_search: sample, log-probabilities, update) beside one
  torch.distributions.Categorical per OneOf with autograd and torch.optim.Adam (which squares the mean of the replicas'
  gradients);
- a million architectures sampled and priced beside a Python loop over tables for each architecture (of 2,000, scaled
up), the
  loop being given its architectures.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import tunas
from tunas.cost import CostModel
from tunas.search.controller import Controller

SSD = "mobilenet_v3_like_search"
REPLICAS = 32
MILLION = 1_000_000
CHUNK = 8192
LOOPED = 2_000


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def controller_step(controller: Controller, rng: np.random.Generator) -> Callable[[], None]:
    def step() -> None:
        samples = controller.sample(rng, REPLICAS)
        controller.update(samples, samples.indices.mean(axis=1), 1e-4)

    return step


def categorical_step(sizes: tuple[int, ...]) -> Callable[[], None]:
    logits = [torch.zeros(size, requires_grad=True) for size in sizes]
    optimizer = torch.optim.Adam(logits, lr=1e-4, betas=(0.0, 0.999))

    def step() -> None:
        distributions = [torch.distributions.Categorical(logits=row) for row in logits]
        indices = [distribution.sample((REPLICAS,)) for distribution in distributions]
        log_prob = sum(distribution.log_prob(index) for distribution, index in zip(distributions, indices, strict=True))
        rewards = torch.stack(indices).float().mean(dim=0)
        loss = -((rewards - rewards.mean()) * log_prob).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def million_priced(controller: Controller, costs: CostModel, rng: np.random.Generator) -> Callable[[], float]:
    def price() -> float:
        total = 0.0
        for start in range(0, MILLION, CHUNK):
            total += costs.estimate(controller.sample(rng, min(CHUNK, MILLION - start)).indices).sum()
        return total

    return price


def looped_priced(costs: CostModel, architectures: np.ndarray) -> Callable[[], list[float]]:
    tables = [(term.positions, term.values) for term in costs.terms]
    rows = architectures.tolist()

    def price() -> list[float]:
        return [
            costs.bias + sum(values[tuple(row[p] for p in positions)] for positions, values in tables) for row in rows
        ]

    return price


def main() -> None:
    torch.set_num_threads(1)
    space = tunas.get_space(SSD)
    costs = tunas.load_cost_model("pixel1", space)
    controller = Controller(space)
    rng = np.random.default_rng(0)
    architectures = space.sample(rng, LOOPED)
    np.testing.assert_allclose(looped_priced(costs, architectures)(), costs.estimate(architectures))

    rows = [
        (
            f"one step, {REPLICAS} replicas (ms)",
            1e3 * median_seconds(controller_step(controller, rng), 200),
            1e3 * median_seconds(categorical_step(space.sizes), 20),
            "a torch Categorical per OneOf",
        ),
        (
            "1,000,000 sampled and priced (s)",
            median_seconds(million_priced(controller, costs, rng), 3),
            MILLION / LOOPED * median_seconds(looped_priced(costs, architectures), 3),
            "a Python loop over tables, pricing only",
        ),
        (
            "load the Pixel-1 tables (ms)",
            1e3 * median_seconds(lambda: tunas.load_cost_model("pixel1", space), 20),
            None,
            "",
        ),
    ]
    print(f"{'':34} {'tunas':>9} {'other':>9} {'ratio':>7}  the other")
    for name, ours, other, what in rows:
        beside = f"{other:9.2f} {other / ours:6.1f}×" if other is not None else f"{'':17}"
        print(f"{name:34} {ours:9.3f} {beside}  {what}".rstrip())


if __name__ == "__main__":
    main()
