"""When should the controller of a short search decide, if the shared weights rank better the longer they learn?

    python benchmarks/moving_ranking.py [--seeds 20] [--steps 312] [--from 0.2 --to 0.7] [--settings default late …]

No network is trained. Each seed makes up two qualities of the architectures of `search_vs_random.py`'s space, both with
pairs of choices that depend on each other: what an architecture is worth alone, and what the shared weights see of it
wrongly, all through the search. What the controller is shown is a mixture whose correlation with the former grows over
the steps from `--from` to `--to`, with the noise of `--images` images; equally expensive architectures differ by 3
points. Printed is which part of those of 20,000 random architectures that cost what the target is (within 2 %) a result
beats in what it is worth alone: the likeliest architecture, and the best of some of the likeliest (`--choose_from`) or
of as many random ones, by what the weights of the end show of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

import tunas
from tunas.cost.catalog import load_cost_model
from tunas.search.candidates import likeliest
from tunas.search.config import SearchConfig
from tunas.search.controller import Controller
from tunas.search.plan import PUBLISHED_STEPS, SearchPlan, plan_search
from tunas.search.schedule import RL_LEARNING_RATE, rl_learning_rate, warmup_probability
from tunas.space import Space

TRAIN_IMAGES, BATCH, REPLICAS = 40_000, 256, 4
WINDOW, QUANTILE, POPULATION, PAIRS = 0.02, 0.05, 20_000, 60
SPREAD = 0.03
"""Standard deviation of the accuracies of equally expensive architectures."""
BATCH_NOISE = 0.01
"""Of a step's images, the same for all architectures."""
CHOOSE_FROM, LAST_IMAGES = 64, 1_500
"""Architectures of the last choice, and images that each is then measured on."""


def settings(steps: int) -> dict[str, SearchConfig]:
    """By name: the defaults; the controller begins after 60 % of the steps; its rate is lowered to what moves logits
    at random no farther than in the published run; both."""
    plain = SearchConfig(train_batch_size=BATCH, replicas=REPLICAS, epochs=(steps + 0.5) * BATCH / TRAIN_IMAGES)
    slow = {"rl_learning_rate": RL_LEARNING_RATE * 4096 / BATCH * math.sqrt(PUBLISHED_STEPS / steps)}
    late = {"rl_delay_steps_fraction": 0.6}
    changed = {"default": {}, "late": late, "slow": slow, "late_slow": late | slow}
    return {name: dataclasses.replace(plain, **changes) for name, changes in changed.items()}


def hot(space: Space, indices: np.ndarray) -> np.ndarray:
    """`[N, sum of sizes]`: 1 for each choice taken by a OneOf that is in use; of all at once the first."""
    taken = np.where(indices < 0, 0, indices)
    active = np.ones(taken.shape, bool)
    for position in reversed(range(space.num_choices)):  # a parent comes after its children
        point = space.points[position]
        if point.parent is not None:
            active[:, position] = active[:, point.parent] & (taken[:, point.parent] == point.parent_choice)
    columns = [active[:, [p]] & (taken[:, [p]] == np.arange(size)) for p, size in enumerate(space.sizes)]
    return np.concatenate(columns, axis=1).astype(float)


def made_up(rng: np.random.Generator, equal: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A quality of rows of `hot`, standardised over the rows `equal`."""
    width = equal.shape[1]
    weights, pairs, together = rng.normal(size=width), rng.integers(0, width, (PAIRS, 2)), rng.normal(size=PAIRS)

    def raw(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows @ weights + (rows[:, pairs[:, 0]] * rows[:, pairs[:, 1]]) @ together)

    mean, spread = raw(equal).mean(), raw(equal).std()
    return lambda rows: (raw(rows) - mean) / spread


def beaten(space: Space, plan: SearchPlan, seed: int, images: int, first: float, last: float) -> list[float]:
    """Parts of the equally expensive architectures that one search's results beat: the likeliest, the best of the
    likeliest, the best of random ones."""
    costs = load_cost_model("macs", space, image_size=48, num_classes=10)
    drawn = space.sample(np.random.default_rng([seed, 0]), POPULATION)
    prices = costs.estimate(drawn)
    target = float(np.quantile(prices, QUANTILE))
    equal = hot(space, drawn[np.abs(prices / target - 1) <= WINDOW])
    rng = np.random.default_rng([seed, 1])
    alone, wrong = made_up(rng, equal), made_up(rng, equal)
    controller = Controller(space, momentum=plan.rl_baseline_momentum, beta2=plan.rl_adam_beta2)
    for step in range(plan.unmeasured_steps, plan.steps):
        warmups = (
            warmup_probability(step, plan.increase_ops_steps),
            warmup_probability(step, plan.increase_filters_steps),
        )
        samples = controller.sample(rng, REPLICAS, *warmups)
        rows, part = hot(space, samples.indices), step / plan.steps
        right = first + (last - first) * part
        seen = right * alone(rows) + math.sqrt(1 - right**2) * wrong(rows)
        accuracy = np.clip(0.2 + 0.45 * min(1.0, 1.6 * part) + SPREAD * seen, 0.05, 0.99)
        noise = np.sqrt(accuracy * (1 - accuracy) / images) * rng.normal(size=REPLICAS) + BATCH_NOISE * rng.normal()
        rate = rl_learning_rate(plan.rl_learning_rate, step, plan.steps, plan.rl_delay_steps, plan.rl_growth)
        gradient = controller.cost_gradient(
            rng,
            plan.num_cost_samples,
            lambda indices: plan.rl_cost_model_exponent * np.abs(costs.estimate(indices) / target - 1),
            *warmups,
        )
        controller.update(samples, accuracy + noise, rate, cost_gradient=gradient)
    winner = controller.likeliest_within(costs.estimate, target, WINDOW)
    named = likeliest(controller, winner, costs, target, WINDOW, CHOOSE_FROM, seed)
    groups = [hot(space, np.array([each.indices for each in group])) for group in ([winner], named)]
    groups.append(equal[rng.permutation(len(equal))[:CHOOSE_FROM]])
    found = []
    for rows in groups:
        seen = last * alone(rows) + math.sqrt(1 - last**2) * wrong(rows)
        best = int(np.argmax(SPREAD * seen + math.sqrt(0.24 / LAST_IMAGES) * rng.normal(size=len(rows))))
        found.append(float((alone(equal) < alone(rows[[best]])[0]).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=312)
    parser.add_argument("--images", type=int, default=128, help="that a sampled architecture is measured on")
    parser.add_argument("--from", type=float, default=0.2, dest="first", help="correlation at the start")
    parser.add_argument("--to", type=float, default=0.7, dest="last", help="correlation at the end")
    parser.add_argument("--settings", nargs="+", default=["default", "late", "slow", "late_slow"])
    options = parser.parse_args()
    space = tunas.get_space(f"{Path(__file__).with_name('search_vs_random.py')}:space")
    ways = ("the likeliest", f"best of the {CHOOSE_FROM} likeliest", f"best of {CHOOSE_FROM} random ones")
    print(
        f"| setting | {' | '.join(f'{way}: mean (least), above 75 %' for way in ways)} |\n|{' --- |' * (len(ways) + 1)}"
    )
    for name in options.settings:
        plan = plan_search(settings(options.steps)[name], TRAIN_IMAGES, digits=False, on_cuda=False)
        seeds = range(options.seeds)
        parts = np.array([beaten(space, plan, seed, options.images, options.first, options.last) for seed in seeds])
        cells = [
            f"{column.mean():.0%} ({column.min():.0%}), {(column > 0.75).sum()} of {len(column)}" for column in parts.T
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
