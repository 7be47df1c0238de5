"""Every architecture of a space on one set of weights (SPEC §2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.layers import Choice, NetworkOptions, TowerModule
from tunas.nn.network import Head, Network, build_network
from tunas.nn.ops import UsedKernels, _Sliceable, recording_kernels
from tunas.space.architecture import Architecture, Space


class SuperNet(nn.Module):
    """The weight-shared network: `forward(images, architecture)` runs any architecture, or several choices at once.

    Args:
        space: what can be chosen.
        num_classes: outputs of the classifier.
        rematerialize: recompute every layer in the backward pass to save memory; changes no result.
        same_padding: pad as TensorFlow does, and as the original did (SPEC §4).

    A width choice runs on the leading slice of the widest weight, so that a call costs what the sampled
    architecture costs. Batch norm has no state. In the indices `ALL` (-1) stands for every choice at once.
    """

    def __init__(self, space: Space, num_classes: int, *, rematerialize: bool = False, same_padding: bool = False):
        super().__init__()
        if num_classes < 1:
            raise InputError(f"num_classes must be at least 1, not {num_classes}")
        self.space = space
        self.num_classes = num_classes
        self.same_padding = same_padding
        options = NetworkOptions(stateless_bn=True, same_padding=same_padding, filters_base=space.tower.filters_base)
        self.tower = TowerModule(space.tower, options, rematerialize=rematerialize)
        self.head = Head(self.tower.output_width, num_classes, dropout_rate=0.0)
        self.flat: nn.Parameter | None = None
        self.used = UsedKernels()

    def forward(self, x: Tensor, architecture: Architecture | Sequence[int]) -> Tensor:
        """Logits `[N, num_classes]` of images `[N, 3, H, W]` under one architecture.

        `used` then holds the slices of convolution kernels that took part, which L2 counts: not batch norms, not
        biases, not the last layer.
        """
        indices = self._indices(architecture)
        with recording_kernels() as self.used:
            features, _ = self.tower(x, indices)
        return self.head(features)

    def endpoints(self, x: Tensor, architecture: Architecture | Sequence[int]) -> list[Tensor]:
        """Feature maps at the detection endpoints under one architecture."""
        return self.tower(x, self._indices(architecture))[1]

    def l2(self) -> Tensor:
        """½‖w‖² over the kernels that the last `forward` used, each with its share of the mixture (SPEC §2)."""
        squares = torch.stack([kernel.float().square().sum() for kernel in self.used.kernels])
        return 0.5 * torch.dot(squares.new_tensor(self.used.shares), squares)

    def extract(self, architecture: Architecture) -> Network:
        """The stand-alone network of `architecture` with a copy of the shared weights that it uses.

        Its running batch-norm statistics are fresh: train it further, or run it in train mode, or recalibrate.
        """
        options = NetworkOptions(same_padding=self.same_padding)
        network = build_network(architecture, self.num_classes, options=options)
        weight = next(self.parameters())
        network.to(weight.device, weight.dtype)
        with torch.no_grad():
            _copy_slices(self.tower, network.tower, architecture.indices)
            _copy_slices(self.head, network.head, architecture.indices)
        return network

    def flatten(self) -> nn.Parameter:
        """Lays all parameters, and their gradients, into one contiguous vector each.

        Afterwards an optimiser over the one returned parameter updates every weight, gradients of narrow slices are
        accumulated in place, and a gradient exchange between devices is one buffer. `zero_grad` must not set the
        gradients to None; use `flat.grad.zero_()`.
        """
        warnings.filterwarnings(
            "ignore", message="grad and param do not obey the gradient layout contract"
        )  # slices never do
        parameters = list(self.parameters())
        with torch.no_grad():
            flat = nn.Parameter(torch.cat([_channels_last_vector(parameter) for parameter in parameters]))
            flat.grad = torch.zeros_like(flat)
            start = 0
            for parameter in parameters:
                end = start + parameter.numel()
                parameter.data = _channels_last_view(flat.data[start:end], parameter.shape)
                parameter.grad = _channels_last_view(flat.grad[start:end], parameter.shape)
                start = end
        self._share_gradients(True)
        object.__setattr__(self, "flat", flat)  # a view of what is registered already, not one more parameter
        return flat

    def _share_gradients(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, _Sliceable):
                module.share_gradients(on)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SuperNet:
        """Moving or converting the weights ends the flat layout."""
        self._share_gradients(False)
        object.__setattr__(self, "flat", None)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle of the supernet is not flat."""
        return self.__dict__ | {"flat": None, "used": UsedKernels()}

    def _indices(self, architecture: Architecture | Sequence[int]) -> Sequence[int]:
        if isinstance(architecture, Architecture):
            if architecture.space != self.space:
                raise InputError(
                    f"this supernet is of space {self.space.name!r}, the architecture of {architecture.space.name!r}"
                )
            return architecture.indices
        indices = architecture.tolist() if hasattr(architecture, "tolist") else architecture
        if len(indices) != self.space.num_choices:
            raise InputError(f"{self.space.name} takes {self.space.num_choices} indices, but {len(indices)} were given")
        return indices


def _channels_last_vector(weight: Tensor) -> Tensor:
    return (weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight).reshape(-1)


def _channels_last_view(vector: Tensor, shape: torch.Size) -> Tensor:
    """`vector` as a weight of `shape`, the input channels varying fastest.

    On CPU the layout of the weight decides which convolution runs where a feature map is 1×1 and so has no layout of
    its own: a contiguous 7×7 depthwise weight was measured 30 times slower there.
    """
    if len(shape) != 4:
        return vector.view(shape)
    outputs, inputs, height, width = shape
    return vector.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


def _copy_slices(shared: Any, alone: nn.Module, indices: Sequence[int]) -> None:
    """Copies into `alone` the leading slices of the same-named modules of `shared`, through the choices taken."""
    while isinstance(shared, Choice):
        shared = shared.choices[indices[shared.position]]
    for name, parameter in alone.named_parameters(recurse=False):
        region = tuple(slice(size) for size in parameter.shape)
        parameter.copy_(getattr(shared, name)[region])
    for name, child in alone.named_children():
        _copy_slices(shared.get_submodule(name), child, indices)
