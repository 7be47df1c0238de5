"""How much of a digits search step is the loop around the network: sampling, pricing, the controller's update, logging.

Runs the search on the embedded digits with its default settings and times each part of the steps after the warmup. The
network is forward, backward and optimiser of the training shares and the forward passes on the validation shares;
everything else but the data counts as the loop.

    python benchmarks/loop_overhead.py [--ssd proxylessnas_search] [--steps 40]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from tunas.run.device import World
from tunas.run.events import EventLog
from tunas.search.config import SearchConfig
from tunas.search.objective import search_objectives
from tunas.search.plan import plan_search
from tunas.search.step import Search
from tunas.space import get_space
from tunas.task.opening import open_task


@dataclass
class Options:
    ssd: str = "proxylessnas_search"
    steps: int = 40


def main(options: Options) -> None:
    config = SearchConfig(ssd=options.ssd)
    space = get_space(config.ssd)
    task = open_task(config)
    plan = plan_search(config, task.size("train"), digits=True, on_cuda=False)
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
    search = Search(space, task, plan, config, objectives, World(0, 1, torch.device("cpu")))
    spent = {"network": 0.0, "data": 0.0}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            spent[name] += time.perf_counter() - start
            return result

        return run

    search._train = timed("network", search._train)  # type: ignore[method-assign]
    search.qualities = timed("network", search.qualities)  # type: ignore[method-assign]
    first = plan.rl_delay_steps
    train = task.share_stream("train", plan.batch, plan.replicas, seed=0, start_step=first)
    valid = task.share_stream("valid", plan.valid_share * plan.replicas, plan.replicas, seed=0, start_step=first)
    following = timed("data", next)
    with tempfile.TemporaryDirectory() as directory:
        log = EventLog(Path(directory))
        for step in range(first, first + options.steps + 3):
            if step == first + 3:
                spent.update(network=0.0, data=0.0)
                start = time.perf_counter()
            scalars = search.step(step, following(train), following(valid))
            if step % plan.log_every == 0:
                log.log(step, [*scalars.items(), *search.aims.logits()])
        whole = time.perf_counter() - start
        log.close()
    loop = whole - spent["network"] - spent["data"]
    print(
        f"{options.ssd}: {plan.replicas} replicas of {plan.share} images, {plan.num_cost_samples} priced "
        f"architectures a step"
    )
    network, data_part, loop_part = (100 * part / whole for part in (spent["network"], spent["data"], loop))
    print(
        f"step {1e3 * whole / options.steps:.1f} ms: network {network:.1f} %, data {data_part:.2f} %, loop "
        f"{loop_part:.2f} %"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
