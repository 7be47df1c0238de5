"""The supernet of docs/algorithm.md#weight-sharing by another hand: everything at the widest width and with every
choice, multiplied by masks.

Reads the description of the space and the weights by name; shares no code with `tunas.nn`. Every convolution runs with
its whole kernel, every choice of operations is computed and weighted by a one-hot mask (or 1/n each), and after every
layer the channels beyond the sampled width are multiplied by zero.
"""

import math

import torch
import torch.nn.functional as F

from tunas import OneOf
from tunas.space import (
    Activation,
    Conv,
    DetectionEndpoint,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Zero,
)

EPSILON = 1e-3


def masked_logits(space, weights, images, indices):
    """Logits of the supernet with `weights` (name -> tensor) under `indices`, -1 standing for every choice."""
    return MaskedSuperNet(space, weights, indices).logits(images)


class MaskedSuperNet:
    def __init__(self, space, weights, indices):
        self.space = space
        self.weights = weights
        self.indices = list(indices)
        self.base = space.tower.filters_base

    def logits(self, x):
        width = 3
        for b, block in enumerate(self.space.tower.blocks):
            filters = self.value(block.filters)
            widest = max(block.filters.choices) if isinstance(block.filters, OneOf) else block.filters
            for number, layer in enumerate(block.layers):
                if not isinstance(layer, DetectionEndpoint):
                    x, width = self.layer(f"tower.blocks.{b}.{number}", layer, x, width, filters, widest)
        scores = F.conv2d(x, self.weights["head.classifier.weight"], self.weights["head.classifier.bias"])
        return scores.mean((2, 3))

    def value(self, field):
        """The sampled value of a field that may be a choice of widths."""
        return field.choices[self.indices[field.position]] if isinstance(field, OneOf) else field

    def masks(self, oneof):
        """One weight per choice: one-hot, or 1/n each."""
        n = len(oneof.choices)
        index = self.indices[oneof.position]
        return [1 / n] * n if index == -1 else [float(i == index) for i in range(n)]

    def mixed(self, name, field, compute):
        """Sum of `compute(name, value)` over the choices of an operation, each times its mask."""
        if not isinstance(field, OneOf):
            return compute(name, field)
        parts = [
            m * compute(f"{name}.choices.{i}", v)
            for i, (m, v) in enumerate(zip(self.masks(field), field.choices, strict=True))
        ]
        return sum(parts)

    def layer(self, name, layer, x, width, filters, widest):
        """(output, its sampled width)."""
        if isinstance(layer, OneOf):
            outputs = [
                self.layer(f"{name}.choices.{i}", choice, x, width, filters, widest)
                for i, choice in enumerate(layer.choices)
            ]
            mixture = sum(mask * output for mask, (output, _) in zip(self.masks(layer), outputs, strict=True))
            return mixture, outputs[0][1]
        if isinstance(layer, Residual):
            output, width = self.layer(f"{name}.layer", layer.layer, x, width, filters, widest)
            return output + x, width
        if isinstance(layer, Zero):
            return x.new_zeros(len(x), widest, *x.shape[2:]), filters
        if isinstance(layer, Activation):
            return keep(act(layer.kind, x), width), width
        if isinstance(layer, GlobalAveragePool):
            return x.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3]), width
        if isinstance(layer, Conv):
            return self.mixed(
                f"{name}.conv", layer.kernel, lambda n, k: self.conv(n, x, filters, k, layer.stride)
            ), filters
        if isinstance(layer, SeparableConv):
            x = self.depthwise(f"{name}.depthwise", layer, x, width)
            return self.conv(f"{name}.pointwise", x, filters, 1), filters
        assert isinstance(layer, InvertedBottleneck)
        expansion = self.value(layer.expansion)
        inner = expansion
        if isinstance(expansion, Times):
            inner = max(self.base, math.floor(width * expansion.multiplier / self.base + 0.5) * self.base)
        x = keep(act(layer.activation.kind, self.conv(f"{name}.expand", x, inner, 1)), inner)
        x = self.depthwise(f"{name}.depthwise", layer, x, inner)
        x = self.mixed(f"{name}.se", layer.se, lambda n, on: self.squeeze_excite(n, x, inner) if on else x)
        return self.conv(f"{name}.project", x, filters, 1), filters

    def conv(self, name, x, width, kernel, stride=1):
        weight = self.weights[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, self.weights.get(f"{name}.conv.bias"), stride, kernel // 2)
        return keep(self.norm(name, x) if f"{name}.norm.weight" in self.weights else x, width)

    def depthwise(self, name, layer, x, width):
        def one(name, kernel):
            weight = self.weights[f"{name}.conv.weight"]
            y = F.conv2d(x, weight, None, layer.stride, kernel // 2, groups=len(weight))
            return keep(act(layer.activation.kind, self.norm(name, y)), width)

        return self.mixed(name, layer.kernel, one)

    def norm(self, name, x):
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (self.weights[f"{name}.norm.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + EPSILON) * scale + shift

    def squeeze_excite(self, name, x, width):
        pooled = x.mean((2, 3), keepdim=True)
        reduced = max(8, math.floor((width / 4 + 4) / 8) * 8)
        reduced += 8 * (reduced < 0.9 * width / 4)
        squeezed = F.conv2d(pooled, self.weights[f"{name}.reduce.weight"], self.weights[f"{name}.reduce.bias"])
        squeezed = keep(torch.clamp(squeezed, min=0), reduced)
        excited = F.conv2d(squeezed, self.weights[f"{name}.expand.weight"], self.weights[f"{name}.expand.bias"])
        return x * (1 / (1 + torch.exp(-keep(excited, width))))


def keep(x, width):
    """Zeros in every channel from `width` on."""
    return x * (torch.arange(x.shape[1]) < width).to(x.dtype).view(1, -1, 1, 1)


def act(kind, x):
    if kind == "relu":
        return torch.clamp(x, min=0)
    if kind == "relu6":
        return torch.clamp(x, 0, 6)
    if kind == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    return x * torch.clamp(x + 3, 0, 6) / 6
