"""How a search scales over processes: measured on this machine's processors, and computed for 8 to 1024 GPUs.

    python benchmarks/scaling.py [--ssd proxylessnas_search] [--steps 12]

Measured: the same search (same seed, replicas and batch) by one process and by two, one thread each, joined by gloo. A
process's step is divided into its own work, waiting for the other, and the exchange itself. On a machine that others
use too, the processor time tells what the wall clock cannot: how much of the work a second process takes over.

Computed, not measured: one replica of 128 images on every GPU, 512 for its validation. An exchange is a ring all-reduce
of the dense gradient, 2 (N - 1)/N times its bytes over the slowest link, and 2 log2(N) latencies; nothing overlaps with
it. Each step waits for the most expensive of N random architectures, whose costs are drawn from the space.
"""

from __future__ import annotations

import math
import os
import socket
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import tyro

import tunas
from tunas.nn import SuperNet
from tunas.run.device import World, joined_world
from tunas.search.config import SearchConfig
from tunas.search.objective import search_objectives
from tunas.search.plan import plan_search
from tunas.search.step import Search
from tunas.task.opening import open_task


@dataclass
class Options:
    ssd: str = "proxylessnas_search"
    steps: int = 12
    """Measured, after two that are not."""
    train_batch_size: int = 64
    replicas: int = 4
    processes: tuple[int, ...] = (1, 2)
    replica_ms: tuple[float, ...] = (100.0, 300.0)
    """Assumed time of an average replica's step on one GPU."""
    node_gpus: int = 8
    node_gbytes: float = 200.0
    """Assumed GB/s between the GPUs of a machine."""
    link_gbytes: float = 20.0
    """Assumed GB/s of each GPU's ring between machines."""
    latency_us: float = 15.0
    """Assumed time of one hop."""
    only_computed: bool = False


class TimedWorld(World):
    """Adds up what waiting and exchanging take."""

    def start(self) -> None:
        object.__setattr__(self, "seconds", {"waiting": 0.0, "exchange": 0.0})

    def sum_(self, vector: torch.Tensor) -> None:
        self._timed(lambda: World.sum_(self, vector))

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return self._timed(lambda: World.gather(self, values))

    def any(self, flag: bool) -> bool:
        return self._timed(lambda: World.any(self, flag))

    def _timed(self, exchange):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        if self.size > 1:
            dist.barrier()
        met = time.perf_counter()
        result = exchange()
        self.seconds["waiting"] += met - began  # type: ignore[attr-defined]
        self.seconds["exchange"] += time.perf_counter() - met  # type: ignore[attr-defined]
        return result


def measured(rank: int, size: int, port: int, options: Options, results) -> None:  # type: ignore[no-untyped-def]
    """Puts a process's seconds per step into `results`: in all, waiting, exchanging, and of the processor."""
    torch.set_num_threads(1)
    os.environ.update(
        {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    )
    with joined_world("cpu") as world:
        timed = TimedWorld(world.rank, world.size, world.device)
        timed.start()
        config = SearchConfig(
            ssd=options.ssd,
            train_batch_size=options.train_batch_size,
            replicas=options.replicas,
            rl_batch_size_multiplier=4.0,
        )
        space, task = tunas.get_space(config.ssd), open_task(config)
        plan = plan_search(config, task.size("train"), digits=True, on_cuda=False)
        objectives = search_objectives(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
        search = Search(space, task, plan, config, objectives, timed)
        shard, first = (rank, size), plan.steps // 2  # past the warmups
        local = plan.replicas // size
        train = task.share_stream("train", plan.batch, local, seed=0, start_step=first, shard=shard)
        valid = task.share_stream(
            "valid", plan.valid_share * plan.replicas, local, seed=0, start_step=first, shard=shard
        )
        for step in range(2 + options.steps):
            if step == 2:
                timed.start()
                began, worked = time.perf_counter(), time.process_time()
            search.step(first + step, next(train), next(valid))
            timed.any(False)
        total = time.perf_counter() - began
        parts = (total, timed.seconds["waiting"], timed.seconds["exchange"], time.process_time() - worked)
        results.put([seconds / options.steps for seconds in parts])


def measure(options: Options, size: int) -> list[float]:
    """Means over the processes."""
    context = torch.multiprocessing.get_context("spawn")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    results = context.SimpleQueue()
    processes = [context.Process(target=measured, args=(rank, size, port, options, results)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not any(process.exitcode for process in processes), "a process failed"
    found = [results.get() for _ in processes]
    return np.mean(found, axis=0).tolist()


def exchange_seconds(gpus: int, payload: float, options: Options) -> float:
    bandwidth = options.node_gbytes if gpus <= options.node_gpus else options.link_gbytes
    return 2 * (gpus - 1) / gpus * payload / (bandwidth * 1e9) + 2 * math.log2(gpus) * options.latency_us * 1e-6


def slowest_of(gpus: int, ssd: str) -> float:
    """Mean of the most expensive of `gpus` random architectures, in means."""
    space = tunas.get_space(ssd)
    costs = tunas.load_cost_model("macs", space).estimate(space.sample(np.random.default_rng(0), 64 * gpus))
    return float(costs.reshape(64, gpus).max(axis=1).mean() / costs.mean())


def main(options: Options) -> None:
    print(f"torch {torch.__version__}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    if not options.only_computed:
        print(
            f"\nmeasured: {options.ssd}, 32 px, batch {options.train_batch_size}, {options.replicas} replicas, one "
            f"thread each, gloo"
        )
        print(
            f"{'processes':>9} {'steps/s':>8} {'own work':>9} {'waiting':>8} {'exchange':>9} "
            f"{'CPU ms a step, each':>20}"
        )
        for size in options.processes:
            total, waiting, exchange, processor = measure(options, size)
            own = total - waiting - exchange
            shares = f"{own / total:9.1%} {waiting / total:8.1%} {exchange / total:9.1%}"
            print(f"{size:9} {1 / total:8.2f} {shares} {processor * 1e3:20.0f}", flush=True)
    parameters = sum(parameter.numel() for parameter in SuperNet(tunas.get_space(options.ssd), 1000).parameters())
    payload = 4.0 * parameters
    print(
        f"\ncomputed (not measured): {options.ssd}, 1000 classes, {parameters / 1e6:.1f} M parameters, "
        f"{payload / 1e6:.0f} MB a step; "
        f"{options.node_gbytes:g} GB/s within {options.node_gpus} GPUs, {options.link_gbytes:g} GB/s beyond, "
        f"{options.latency_us:g} µs/hop"
    )
    columns = "".join(f"   steps/s, share, images/s at {ms:g} ms" for ms in options.replica_ms)
    print(f"{'GPUs':>5} {'exchange ms':>11} {'slowest/mean':>12}{columns}")
    for gpus in (8, 16, 32, 64, 128, 256, 512, 1024):
        exchange, slowest = exchange_seconds(gpus, payload, options), slowest_of(gpus, options.ssd)
        row = f"{gpus:5} {exchange * 1e3:11.2f} {slowest:12.2f}"
        for ms in options.replica_ms:
            total = ms * 1e-3 * slowest + exchange
            row += f"   {1 / total:8.2f} {exchange / total:6.1%} {gpus * 128 / total:14,.0f}"
        print(row)


if __name__ == "__main__":
    main(tyro.cli(Options))
