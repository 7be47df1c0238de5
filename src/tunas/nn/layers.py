"""How each layer of `tunas.space.layers` runs, once for the supernet and for stand-alone networks alike.

A layer module is built from a layer description that may still hold numbered OneOfs (supernet) or holds none
(stand-alone). Its `forward(x, width, indices)` takes the block's output width and the architecture's indices; a
stand-alone network passes neither. `None` as an output means all zeros, so that a skipped layer costs nothing.

`operations` of the same class lists what a fixed layer computes, for counting parameters, MACs and memory without
building it. A layer of one's own is registered with `tunas.register_layer`, as those here are in `space/layers.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.choice import choices_of, for_each_choice
from tunas.nn.operations import Operation
from tunas.nn.ops import BatchNorm2d, Conv2d, DepthwiseConv2d, activation, shape_of
from tunas.nn.options import NetworkOptions
from tunas.space import layers
from tunas.space.choice import OneOf, choice_points, chosen, numbered, resolved
from tunas.space.registry import layer_module

Indices = Sequence[int] | None


class Same(nn.Module):
    """The input itself."""

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        return x


class ConvNormAct(nn.Module):
    """Convolution, batch norm or bias, activation; the last two where there are any."""

    def __init__(self, conv: Conv2d | DepthwiseConv2d, norm: BatchNorm2d | None, act: str | None = None):
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = act

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        x = self.conv(x, width)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.act is None else activation(self.act, x, inplace=True)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from all channels' means (docs/algorithm.md#search-spaces).

    Args:
        channels: what it scales at most.
        width: inside; where None, a quarter of the channels at hand.
    """

    def __init__(self, channels: int, options: NetworkOptions, width: int | None):
        super().__init__()
        self.gate, self.act, self.width = options.gate, options.se_activation, width
        self.reduce = Conv2d(channels, squeezed_width(channels, width), 1, bias=True)
        self.expand = Conv2d(self.reduce.out_channels, channels, 1, bias=True)

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        channels = shape_of(x)[1]
        pooled = x.mean((2, 3), keepdim=True)
        squeezed = activation(self.act, self.reduce(pooled, squeezed_width(channels, self.width)), inplace=True)
        excited = self.expand(squeezed, channels)
        return x * (torch.sigmoid(excited) if self.gate == "sigmoid" else F.hardsigmoid(excited))


def squeezed_width(channels: int, width: int | None) -> int:
    """Channels inside squeeze-and-excite."""
    return width or layers.divisible_width(channels / 4)


def _squeeze_excite(
    spec: layers.SeparableConv | layers.InvertedBottleneck, channels: int, options: NetworkOptions
) -> nn.Module:
    return choices_of(spec.se, lambda on: SqueezeExcite(channels, options, spec.se_width) if on else Same())


def _squeeze_operations(spec: layers.SeparableConv | layers.InvertedBottleneck, channels: int) -> list[Operation]:
    if not spec.se:
        return []
    reduced = squeezed_width(channels, spec.se_width)
    return [
        Operation.conv("se_reduce", channels, reduced, 1, 1, 1, bias=True),
        Operation.conv("se_expand", reduced, channels, 1, 1, 1, bias=True),
    ]


class ConvLayer(nn.Module):
    """A dense convolution, each kernel size with a batch norm or bias of its own."""

    def __init__(self, spec: layers.Conv, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()

        def build(kernel: int) -> nn.Module:
            conv = Conv2d(inputs, outputs, kernel, spec.stride, bias=not spec.batch_norm, same=options.same_padding)
            return ConvNormAct(conv, options.norm(outputs) if spec.batch_norm else None)

        self.conv = for_each_choice(spec.kernel, build)

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        return self.conv(x, width, indices)

    @staticmethod
    def operations(spec: layers.Conv, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        bias = not spec.batch_norm
        return [
            Operation.conv("conv", inputs, outputs, spec.kernel, spec.stride, size, bias=bias, norm=spec.batch_norm)
        ]


class SeparableConvLayer(nn.Module):
    """A depthwise convolution, squeeze-and-excite where told, and a pointwise convolution."""

    def __init__(self, spec: layers.SeparableConv, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()
        self.depthwise = _depthwise(spec, inputs, options)
        self.se = _squeeze_excite(spec, inputs, options)
        self.pointwise = ConvNormAct(Conv2d(inputs, outputs, 1), options.norm(outputs))

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        return self.pointwise(self.se(self.depthwise(x, None, indices), None, indices), width)

    @staticmethod
    def operations(spec: layers.SeparableConv, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        depthwise = Operation.conv(
            "depthwise",
            inputs,
            inputs,
            spec.kernel,
            spec.stride,
            size,
            groups=inputs,
            norm=True,
            activation=spec.activation.kind,
        )
        pointwise = Operation.conv("pointwise", inputs, outputs, 1, 1, depthwise.output_size, norm=True)
        return [depthwise, *_squeeze_operations(spec, inputs), pointwise]


class InvertedBottleneckLayer(nn.Module):
    """A pointwise expansion, a depthwise convolution, squeeze-and-excite where chosen, a pointwise projection."""

    def __init__(self, spec: layers.InvertedBottleneck, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()
        self.expansion = spec.expansion
        self.base = options.filters_base
        choices = spec.expansion.choices if isinstance(spec.expansion, OneOf) else (spec.expansion,)
        expanded = max(layers.expansion_width(choice, inputs, self.base) for choice in choices)
        act = options.activation(spec.activation)
        self.expand = ConvNormAct(Conv2d(inputs, expanded, 1), options.norm(expanded), act)
        self.depthwise = _depthwise(spec, expanded, options)
        self.se = _squeeze_excite(spec, expanded, options)
        self.project = ConvNormAct(Conv2d(expanded, outputs, 1), options.norm(outputs))

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        expanded = layers.expansion_width(chosen(self.expansion, indices), shape_of(x)[1], self.base)
        x = self.expand(x, expanded)
        x = self.se(self.depthwise(x, None, indices), None, indices)
        return self.project(x, width)

    @staticmethod
    def operations(spec: layers.InvertedBottleneck, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        assert isinstance(spec.expansion, (int, layers.Times))
        inner = layers.expansion_width(spec.expansion, inputs, base)
        act = spec.activation.kind
        expand = Operation.conv("expand", inputs, inner, 1, 1, size, norm=True, activation=act)
        depthwise = Operation.conv(
            "depthwise", inner, inner, spec.kernel, spec.stride, size, groups=inner, norm=True, activation=act
        )
        return [
            expand,
            depthwise,
            *_squeeze_operations(spec, inner),
            Operation.conv("project", inner, outputs, 1, 1, depthwise.output_size, norm=True),
        ]


class ResidualLayer(nn.Module):
    """layer(x) + x, where in training the layer may be dropped for a whole batch (path dropout)."""

    def __init__(self, spec: layers.Residual, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()
        self.layer = build_layer(spec.layer, inputs, outputs, options)
        self.path_dropout_rate = options.path_dropout_rate

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        drops = self.training and self.path_dropout_rate > 0
        if drops and torch.rand(()).item() < self.path_dropout_rate:
            return x
        change = self.layer(x, width, indices)
        if change is None:
            return x
        return x + (change / (1 - self.path_dropout_rate) if drops else change)

    @staticmethod
    def operations(spec: layers.Residual, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        inside = [
            operation
            for operation in layer_operations(spec.layer, inputs, outputs, size, base)
            if operation.kind != "zeros"
        ]
        if all(operation.is_in_passing for operation in inside):
            return inside
        return [*inside, Operation.in_passing("add", outputs, inside[-1].output_size)]


class ZeroLayer(nn.Module):
    """Gives None, which stands for zeros."""

    def __init__(self, spec: layers.Zero, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> None:
        return None

    @staticmethod
    def operations(spec: layers.Zero, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        return [Operation.in_passing("zeros", outputs, size)]


class ActivationLayer(nn.Module):
    """An activation by itself."""

    def __init__(self, spec: layers.Activation, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()
        self.kind = options.activation(spec)

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        return activation(self.kind, x)

    @staticmethod
    def operations(spec: layers.Activation, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        return [Operation.in_passing("activation", inputs, size, spec.kind)]


class GlobalAveragePoolLayer(nn.Module):
    """The mean over all pixels, as a map of one."""

    def __init__(self, spec: layers.GlobalAveragePool, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def operations(spec: layers.GlobalAveragePool, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        return [Operation.pool(inputs, size)]


class DetectionEndpointLayer(nn.Module):
    """Computes nothing; the tower collects the feature map at this place."""

    def __init__(self, spec: layers.DetectionEndpoint, inputs: int, outputs: int, options: NetworkOptions):
        super().__init__()

    def forward(self, x: Tensor, width: int | None = None, indices: Indices = None) -> Tensor:
        return x

    @staticmethod
    def operations(spec: layers.DetectionEndpoint, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
        return []


def _depthwise(
    spec: layers.SeparableConv | layers.InvertedBottleneck, channels: int, options: NetworkOptions
) -> nn.Module:
    """Depthwise convolution, batch norm and activation, each kernel size with its own."""
    act = options.activation(spec.activation)

    def build(kernel: int) -> nn.Module:
        conv = DepthwiseConv2d(channels, kernel, spec.stride, same=options.same_padding)
        return ConvNormAct(conv, options.norm(channels), act)

    return for_each_choice(spec.kernel, build)


def build_layer(spec: Any, inputs: int, outputs: int, options: NetworkOptions) -> nn.Module:
    """The module of a layer description; `inputs` and `outputs` are the widest that it will meet.

    Raises:
        InputError: where the module of a layer can be built for each choice, but not for a choice as such.
    """
    return choices_of(spec, lambda layer: _built(layer, inputs, outputs, options))


def _built(layer: Any, inputs: int, outputs: int, options: NetworkOptions) -> nn.Module:
    """The module of a layer that is no choice itself, though its fields may be."""
    kind = layer_module(layer)
    if not options.aggressive_sharing and isinstance(layer, layers.SeparableConv | layers.InvertedBottleneck):
        return _apart(layer, lambda fixed: kind(fixed, inputs, outputs, options))
    try:
        return kind(layer, inputs, outputs, options)
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:
        points = choice_points(numbered(layer))
        if not points:
            raise
        kind(resolved(numbered(layer), [0] * len(points)), inputs, outputs, options)  # raises what is no choice's fault
        raise InputError(
            f"{kind.__name__} has no place for the choice {points[0].path!r} of {type(layer).__name__}: it can be "
            f"built for each value, but not for the OneOf; see tunas.nn.for_each_choice and tunas.space.chosen "
            f"({error})"
        ) from error


def _apart(layer: Any, build: Callable[[Any], nn.Module]) -> nn.Module:
    """A module of its own for every combination of a layer's choices, which are taken one after the other."""
    values = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    name = next((name for name, value in values.items() if isinstance(value, OneOf)), None)
    if name is None:
        return build(layer)
    return choices_of(values[name], lambda one: _apart(dataclasses.replace(layer, **{name: one}), build))


def layer_operations(spec: Any, inputs: int, outputs: int, size: int, base: int) -> list[Operation]:
    """What a fixed layer computes on `inputs` channels of `size`×`size` pixels."""
    return layer_module(spec).operations(spec, inputs, outputs, size, base)


class TowerModule(nn.Module):
    """A tower's blocks, run in order; collects the detection endpoints.

    Args:
        tower: the description, numbered where it holds choices.
        options: how layers are built.
        rematerialize: recompute every layer in the backward pass instead of keeping its activations.
    """

    def __init__(self, tower: layers.Tower, options: NetworkOptions, *, rematerialize: bool = False):
        super().__init__()
        options = options.following(tower.conventions)
        self.filters = [block.filters for block in tower.blocks]
        self.rematerialize = rematerialize
        self.blocks = nn.ModuleList()
        width = layers.IMAGE_CHANNELS
        for block in tower.blocks:
            outputs = layers.widest(block.filters)
            modules = nn.ModuleList()
            for layer in block.layers:
                modules.append(build_layer(layer, width, outputs, options))
                width = width if layers.keeps_width(layer) else outputs
            self.blocks.append(modules)
        self.output_width = width

    def forward(self, x: Tensor, indices: Indices = None) -> tuple[Tensor, list[Tensor]]:
        """Features `[N, C, H, W]` of images `[N, 3, H, W]`, and the feature maps at the detection endpoints."""
        endpoints = []
        for filters, block in zip(self.filters, self.blocks, strict=True):
            width = None if indices is None else chosen(filters, indices)
            for layer in block.children():
                if isinstance(layer, DetectionEndpointLayer):
                    endpoints.append(x)
                    continue
                output = self._run(layer, x, width, indices)
                x = zeros_like_output(x, width or layers.widest(filters)) if output is None else output
        return x, endpoints

    def _run(self, layer: nn.Module, x: Tensor, width: int | None, indices: Indices) -> Tensor | None:
        if self.rematerialize and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(layer, x, width, indices, use_reentrant=False)
        return layer(x, width, indices)


def zeros_like_output(x: Tensor, width: int) -> Tensor:
    """What a lone Zero layer hands on."""
    return x.new_zeros(x.shape[0], width, *x.shape[2:])
