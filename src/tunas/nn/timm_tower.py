"""A network of timm's efficientnet builder as a tower, with choices beside what it has or without."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from tunas.errors import InputError
from tunas.space.choice import FILTERS, OP, OneOf
from tunas.space.layers import (
    Activation,
    Block,
    Conv,
    Conventions,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Tower,
    Zero,
    scaled_width,
)

ACTIVATIONS = {"ReLU": "relu", "ReLU6": "relu6", "Hardswish": "swish6", "HardSwish": "swish6", "SiLU": "swish"}
GATES = {"Sigmoid": "sigmoid", "Hardsigmoid": "hard_sigmoid", "HardSigmoid": "hard_sigmoid"}
PARTS = {
    "InvertedResidual": {"conv_pw", "bn1", "conv_dw", "bn2", "se", "conv_pwl", "bn3"},
    "DepthwiseSeparableConv": {"conv_dw", "bn1", "se", "conv_pw", "bn2"},
    "ConvBnAct": {"conv", "bn1"},
}
"""timm's blocks that a tower can have, and what is in them."""
LAST_NORM = {"InvertedResidual": "bn3", "DepthwiseSeparableConv": "bn2", "ConvBnAct": "bn1"}
EMPTY = (nn.Identity, nn.Dropout)


@dataclass(frozen=True)
class BuilderModel:
    """A model of timm's builder, and what a tower may choose from beside what the model has.

    Args:
        name: of the model.
        model: timm's module, on any device.
        kernels: sizes of depthwise convolutions.
        expansions, widths: parts of the widths inside bottlenecks and of stages.
        skips: whether layers with a residual connection can be left out.
    """

    name: str
    model: Any
    kernels: tuple[int, ...]
    expansions: tuple[float, ...]
    widths: tuple[float, ...]
    skips: bool

    def tower(self) -> Tower:
        """The model as a tower, with a choice wherever something stands beside what the model has.

        Raises:
            InputError: where the model has a part that a tower cannot have, naming it.
        """
        model = self.model
        for part in ("conv_stem", "bn1", "blocks", "conv_head", "classifier"):
            if not hasattr(model, part):
                raise InputError(f"timm's {self.name} is not made by its efficientnet builder: it has no {part}")
        stem = (Conv(self._kernel(model.conv_stem), model.conv_stem.stride[0]), self._activation(model.bn1))
        stages = [list(stage) for stage in model.blocks]
        outputs = [_last_conv(stage[-1]).out_channels for stage in stages]
        inputs = [model.conv_stem.out_channels, *outputs[:-1]]
        tied = [has_skip(stage[0]) for stage in stages]  # its first layer adds its input, so both widths are the same
        blocks = [Block(stem, model.conv_stem.out_channels)]
        for number, stage in enumerate(stages):
            free = not tied[number] and not (number + 1 < len(stages) and tied[number + 1])
            layers = [layer for place, block in enumerate(stage) for layer in self._layers(f"{number}.{place}", block)]
            base_width = outputs[number]
            blocks.append(Block(tuple(layers), self._filters(base_width) if free else base_width))
            assert not tied[number] or inputs[number] == base_width
        return Tower((*blocks, *self._head()), self._base(), self._conventions())

    def _layers(self, place: str, block: Any) -> Iterator[Any]:
        """The layers of a tower that compute what one of timm's blocks does."""
        kind = type(block).__name__
        if kind not in PARTS:
            raise self._no_layer(f"a {kind} at blocks.{place}")
        for name, part in block.named_children():
            if not (name in PARTS[kind] or isinstance(part, EMPTY) or name == "drop_path"):
                raise self._no_layer(f"{name} at blocks.{place}")
        if has_skip(block) and not _is_linear(getattr(block, LAST_NORM[kind])):
            raise self._no_layer(f"an activation before the sum at blocks.{place}")
        if kind == "ConvBnAct":
            yield Conv(self._kernel(block.conv), block.conv.stride[0])
            yield self._activation(block.bn1)
            return
        layer = self._separable(block) if kind == "DepthwiseSeparableConv" else self._bottleneck(block)
        if not has_skip(block):
            yield layer
        else:
            yield Residual(OneOf((layer, Zero()), OP) if self.skips else layer)
        if kind == "DepthwiseSeparableConv" and not _is_linear(block.bn2):
            yield self._activation(block.bn2)

    def _separable(self, block: Any) -> SeparableConv:
        kernel, stride = self._depthwise(block.conv_dw)
        act = self._activation(block.bn1)
        return SeparableConv(kernel, stride, act, **self._squeeze(block.se))

    def _bottleneck(self, block: Any) -> InvertedBottleneck:
        kernel, stride = self._depthwise(block.conv_dw)
        self._kernel(block.conv_pw)  # refuses what a tower's 1×1 convolution is not
        inside = block.conv_pw.out_channels
        base = 8 if inside % 8 == 0 else 1
        parts = {inside, *(scaled_width(inside, part, base) for part in self.expansions)}
        expansion = OneOf(tuple(sorted(parts)), FILTERS) if self.expansions else inside
        act = self._activation(block.bn1)
        return InvertedBottleneck(kernel, expansion, stride=stride, activation=act, **self._squeeze(block.se))

    def _depthwise(self, conv: Any) -> tuple[int | OneOf, int]:
        size = self._kernel(conv, groups=conv.in_channels)
        sizes = tuple(sorted({size, *self.kernels}))
        return OneOf(sizes, OP) if self.kernels else size, conv.stride[0]

    def _kernel(self, conv: Any, groups: int = 1) -> int:
        """The kernel size of a convolution that a tower can have."""
        kernel = getattr(conv, "kernel_size", (0, 0))
        if kernel[0] != kernel[1] or kernel[0] % 2 == 0 or conv.dilation != (1, 1) or conv.groups != groups:
            raise self._no_layer(f"a {type(conv).__name__} of kernel {kernel}")
        return kernel[0]

    def _squeeze(self, se: Any) -> dict[str, Any]:
        """What a layer's description says of its squeeze-and-excite."""
        if isinstance(se, EMPTY):
            return {}
        if type(se).__name__ != "SqueezeExcite":
            raise self._no_layer(f"a {type(se).__name__}")
        return {"se": True, "se_width": se.conv_reduce.out_channels}

    def _activation(self, norm: Any) -> Activation:
        """The activation that timm keeps in the batch norm before it."""
        kind = type(getattr(norm, "act", None)).__name__
        if kind not in ACTIVATIONS or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise self._no_layer(f"a {type(norm).__name__} with {kind}")
        return Activation(ACTIVATIONS[kind])

    def _head(self) -> list[Block]:
        """What follows the stages: a convolution with batch norm before the pooling, or one with a bias behind it."""
        model = self.model
        conv = model.conv_head
        if isinstance(conv, nn.Identity):
            return [Block((GlobalAveragePool(),), self._last_width())]
        if hasattr(model, "bn2"):
            layers = (Conv(self._kernel(conv)), self._activation(model.bn2), GlobalAveragePool())
            return [Block(layers, conv.out_channels)]
        if conv.bias is None or not isinstance(model.norm_head, nn.Identity):
            raise self._no_layer("a head without a bias, behind the pooling")
        act = Activation(ACTIVATIONS[type(model.act2).__name__])
        pool = Block((GlobalAveragePool(),), self._last_width())
        return [pool, Block((Conv(self._kernel(conv), batch_norm=False), act), conv.out_channels)]

    def _last_width(self) -> int:
        return _last_conv(self.model.blocks[-1][-1]).out_channels

    def _filters(self, width: int) -> int | OneOf:
        parts = {width, *(scaled_width(width, part, self._base()) for part in self.widths)}
        return OneOf(tuple(sorted(parts)), FILTERS) if self.widths else width

    def _base(self) -> int:
        """What all widths between layers are multiples of: 8, but for models scaled otherwise."""
        widths = [_last_conv(block).out_channels for stage in self.model.blocks for block in stage]
        ends = (self.model.conv_stem, self.model.conv_head)
        return math.gcd(8, *widths, *(conv.out_channels for conv in ends if isinstance(conv, nn.Conv2d)))

    def _no_layer(self, what: str) -> InputError:
        return InputError(f"timm's {self.name} has {what}, for which a tower has no layer")

    def _conventions(self) -> Conventions:
        """What the model computes otherwise than TuNAS's own layers."""
        squeezes = [module for module in self.model.modules() if type(module).__name__ == "SqueezeExcite"]
        gate, act = "sigmoid", "relu"
        if squeezes:
            gates, acts = ({type(getattr(se, part)).__name__ for se in squeezes} for part in ("gate", "act1"))
            if len(gates) > 1 or len(acts) > 1 or not gates <= GATES.keys() or not acts <= ACTIVATIONS.keys():
                raise InputError(f"timm's {self.name} mixes kinds of squeeze-and-excite: {sorted(gates | acts)}")
            gate, act = GATES[gates.pop()], ACTIVATIONS[acts.pop()]
        same = type(self.model.conv_stem).__name__ == "Conv2dSame"
        return Conventions(float(self.model.bn1.eps), gate, act, same)


def has_skip(block: Any) -> bool:
    """Whether one of timm's blocks adds its input."""
    return bool(getattr(block, "has_skip", False))


def _is_linear(norm: Any) -> bool:
    return isinstance(getattr(norm, "act", None), nn.Identity)


def _last_conv(block: Any) -> Any:
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)][-1]
