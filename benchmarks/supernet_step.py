"""One replica's step of the supernet against the same architecture as a stand-alone module, in the same run.

For random architectures of each space, at each image size, in turn: forward and backward of the supernet (gradients
accumulated into the shared buffer, as in a search) and of the extracted stand-alone network (gradients freshly
allocated, as in ordinary training); and the forward pass alone. Prints the median over architectures of the ratio of
each pair's fastest times. The optimiser is left out: the search steps it once for all replicas, over all weights.
Models of one's own, the programs in examples/, follow with their own inputs.

    python benchmarks/supernet_step.py [--architectures 20] [--batch 32] [--rounds 5]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

import tunas
from tunas.nn import SuperNet
from tunas.search.replicas import gradients_of
from tunas.space import Architecture

EXAMPLES = Path(__file__).parents[1] / "examples"
OWN_INPUTS = {"transformer": (3, 32, 32), "signals": (1, 512)}
"""What an example of each program's model takes."""


@dataclass
class Options:
    architectures: int = 20
    batch: int = 32
    rounds: int = 5
    sizes: tuple[int, ...] = (32, 96)
    spaces: tuple[str, ...] = ("proxylessnas_search", "proxylessnas_enlarged_search", "mobilenet_v3_like_search")
    own: tuple[str, ...] = ("transformer", "signals")
    device: str = "cpu"
    seed: int = 0


def seconds(run: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def fastest(runs: Sequence[Callable[[], object]], rounds: int, device: str) -> list[float]:
    """The fastest time of each, taken in turns."""
    for run in runs:
        run()
    times = [[seconds(run, device) for run in runs] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]


def compare(
    supernet: SuperNet, architecture: Architecture, images: Tensor, labels: Tensor, options: Options
) -> list[float]:
    """Seconds of a training step and of a forward pass: shared and alone, shared and alone."""
    alone = supernet.extract(architecture).to(memory_format=torch.channels_last).train()

    def shared_step() -> None:
        gradients_of(F.cross_entropy(supernet(images, architecture), labels), in_turn=True).add()

    def alone_step() -> None:
        F.cross_entropy(alone(images), labels).backward()
        alone.zero_grad(set_to_none=True)

    @torch.no_grad()
    def shared_forward() -> None:
        supernet(images, architecture)

    @torch.no_grad()
    def alone_forward() -> None:
        alone(images)

    train = fastest([shared_step, alone_step], options.rounds, options.device)
    return [*train, *fastest([shared_forward, alone_forward], options.rounds, options.device)]


def main(options: Options) -> None:
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device}, batch {options.batch}, "
        f"channels_last"
    )
    print(f"{'space':30} {'inputs':>9} {'train ratio':>11} {'forward ratio':>13} {'train ms':>9} {'alone ms':>9}")
    for name in options.spaces:
        for size in options.sizes:
            report(name, name, (3, size, size), options)
    for name in options.own:
        report(name, f"{EXAMPLES}/{name}.py:space", OWN_INPUTS[name], options)


def report(title: str, name: str, shape: tuple[int, ...], options: Options) -> None:
    """Prints one line: medians over random architectures of a space, on inputs `[batch, *shape]`."""
    rng = np.random.default_rng(options.seed)
    space = tunas.get_space(name)
    supernet = SuperNet(space, 10).to(options.device)
    flat = supernet.flatten()
    inputs = torch.randn(options.batch, *shape, device=options.device)
    if inputs.dim() == 4:
        inputs = inputs.to(memory_format=torch.channels_last)
    labels = torch.arange(options.batch, device=options.device) % 4
    rows = []
    for _ in range(options.architectures):
        rows.append(compare(supernet, space.sample(rng), inputs, labels, options))
        assert flat.grad is not None
        flat.grad.zero_()
    train, alone, forward, alone_forward = np.array(rows).T
    ratios = f"{np.median(train / alone):11.3f} {np.median(forward / alone_forward):13.3f}"
    size = "×".join(map(str, shape))
    print(f"{title:30} {size:>9} {ratios} {1e3 * np.median(train):9.1f} {1e3 * np.median(alone):9.1f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
