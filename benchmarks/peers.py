"""What a supernet's training step costs over its architecture's own, in other tools as in ours.

    pip install --no-deps --target=peers ofa nni json_tricks schema pytorch_lightning websockets
    PYTHONPATH=peers python benchmarks/peers.py [--architectures 12] [--rounds 5] [--sizes 32 96]

As `supernet_step.py`: random architectures, forward and backward of the shared network and of the same architecture as
the tool hands it out (Once-for-All's `get_active_subnet`, NNI's `freeze`), in turns, channels_last, gradients thrown
away after each step as an ordinary training does; the median over architectures of the ratio of each pair's fastest
times. What is not installed is left out, and said. Spaces differ, so the milliseconds do not compare; the ratios do.
"""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from supernet_step import fastest
from torch import Tensor, nn

import tunas
from tunas.nn import SuperNet

Pair = tuple[Callable[[Tensor], Tensor], nn.Module]
"""The shared network set to an architecture, and that architecture by itself."""


@dataclass
class Options:
    architectures: int = 12
    batch: int = 32
    rounds: int = 5
    sizes: tuple[int, ...] = (32, 96)
    seed: int = 0


def ours(name: str) -> Iterator[Pair]:
    space = tunas.get_space(name)
    shared, rng = SuperNet(space, 10), np.random.default_rng(0)
    flat = shared.flatten()
    while True:
        architecture = space.sample(rng)
        yield lambda images, of=architecture: shared(images, of), shared.extract(architecture)
        assert flat.grad is not None
        flat.grad.zero_()


def once_for_all(name: str) -> Iterator[Pair]:
    from ofa.imagenet_classification.elastic_nn import networks

    choices = {"ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
    shared = getattr(networks, name)(n_classes=10, **choices).to(memory_format=torch.channels_last)
    while True:
        shared.sample_active_subnet()
        yield cleared(shared), shared.get_active_subnet(preserve_weight=True)


def nni(name: str) -> Iterator[Pair]:
    from nni.nas.hub import pytorch as hub
    from nni.nas.oneshot.pytorch.strategy import RandomOneShot
    from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule

    kind = getattr(hub, name)
    shared = RandomOneShot().mutate_model(kind(num_labels=10)).to(memory_format=torch.channels_last)
    alone = kind(num_labels=10)
    while True:
        sample: dict[str, object] = {}
        for module in shared.modules():
            if isinstance(module, BaseSuperNetModule):
                sample.update(module.resample(memo=sample))
        yield cleared(shared), alone.freeze(sample)


def cleared(shared: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network, whose gradients are thrown away before it runs."""

    def run(images: Tensor) -> Tensor:
        shared.zero_grad()
        return shared(images)

    return run


PEERS: tuple[tuple[str, Callable[[str], Iterator[Pair]], str], ...] = (
    ("tunas", ours, "proxylessnas_search"),
    ("tunas", ours, "mobilenet_v3_like_search"),
    ("ofa", once_for_all, "OFAProxylessNASNets"),
    ("ofa", once_for_all, "OFAMobileNetV3"),
    ("nni", nni, "ProxylessNAS"),
    ("nni", nni, "MobileNetV3Space"),
)


def report(package: str, pairs: Callable[[str], Iterator[Pair]], name: str, size: int, options: Options) -> str:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(options.seed)
    images = torch.randn(options.batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.arange(options.batch) % 10
    times = []
    for _, (shared, alone) in zip(range(options.architectures), pairs(name), strict=False):
        network = alone.to(memory_format=torch.channels_last).train()

        def shared_step(run: Callable[[Tensor], Tensor] = shared) -> None:
            F.cross_entropy(run(images), labels).backward()

        def alone_step(run: nn.Module = network) -> None:
            run.zero_grad()
            F.cross_entropy(run(images), labels).backward()

        times.append(fastest([shared_step, alone_step], options.rounds, "cpu"))
    both, single = np.array(times).T
    ratios = np.quantile(both / single, [0.5, 0, 1])
    version = tunas.__version__ if package == "tunas" else importlib.metadata.version(package)
    return (
        f"{package} {version:24} {name:26} {size:4} px  {ratios[0]:.3f} ({ratios[1]:.3f} to {ratios[2]:.3f})  "
        f"{1e3 * np.median(both):7.1f} ms, alone {1e3 * np.median(single):7.1f} ms"
    )


def main(options: Options) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, channels_last")
    for package, pairs, name in PEERS:
        for size in options.sizes:
            try:
                print(report(package, pairs, name, size, options), flush=True)
            except (ImportError, importlib.metadata.PackageNotFoundError) as missing:
                print(f"{package}: left out: {missing}")
                break


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
