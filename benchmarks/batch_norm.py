"""Is batch norm as fast as memory lets it be? Its time against that of copying as many bytes, in turns.

In training it has to pass over a map eight times: the forward pass reads the inputs for their statistics, reads them
again and writes the outputs; the backward pass reads inputs and gradients for two sums, reads both again and writes
one. A copy of the same map passes over it twice, so four copies move as much. Small maps stay in the caches for both.

    python benchmarks/batch_norm.py [--rounds 7]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from supernet_step import fastest
from torch import nn

from tunas.allocator import keep_freed_memory

PASSES = 8
MAPS = (
    *((16, 96, 112), (16, 144, 56), (16, 192, 28), (16, 576, 14), (16, 1152, 7)),
    *((64, 96, 16), (64, 576, 4), (64, 1152, 1)),
)
"""Images, channels, pixels a side: of the 224 px search's replica, and of the digits'."""


@dataclass
class Options:
    rounds: int = 7


def main(options: Options) -> None:
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, channels_last, float32")
    print(f"{'images × channels × side':26} {'MiB':>6} {'batch norm':>11} {'GB/s':>6} {'four copies':>11} {'GB/s':>6}")
    for images, channels, side in MAPS:
        x = torch.randn(images, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
        gradient, other = torch.randn_like(x), torch.empty_like(x)
        norm = nn.BatchNorm2d(channels)

        def step(x: torch.Tensor = x, norm: nn.Module = norm, gradient: torch.Tensor = gradient) -> None:
            x.grad = None
            norm(x).backward(gradient)

        def copies(source: torch.Tensor = gradient, target: torch.Tensor = other) -> None:
            for _ in range(PASSES // 2):
                target.copy_(source)

        took = fastest([step, copies], options.rounds, "cpu")
        size = x.numel() * x.element_size()
        speeds = [PASSES * size / seconds / 1e9 for seconds in took]
        name = f"{images} × {channels} × {side}²"
        print(
            f"{name:26} {size / 2**20:6.1f} {1e3 * took[0]:8.2f} ms {speeds[0]:6.1f} {1e3 * took[1]:8.2f} ms "
            f"{speeds[1]:6.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
