"""Every architecture of a space on one set of weights (docs/algorithm.md#weight-sharing)."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.choice import Choice
from tunas.nn.layers import TowerModule
from tunas.nn.network import Head, build_network, own_network
from tunas.nn.ops import DepthwiseConv2d, Sliceable
from tunas.nn.options import NetworkOptions
from tunas.nn.used_kernels import UsedKernels, kernel_used, recording_kernels
from tunas.space.architecture import Architecture, Space
from tunas.space.choice import ALL
from tunas.space.layers import Tower

PATIENCE = 3
"""Forward passes in which a choice may be in use without being asked for."""


class SuperNet(nn.Module):
    """The weight-shared network: `forward(inputs, architecture)` runs any architecture, or several choices at once.

    Args:
        space: what can be chosen.
        num_classes: outputs of the classifier of a tower; a model of one's own has its own.
        rematerialize: recompute every layer of a tower in the backward pass to save memory; changes no result.
        same_padding: pad as TensorFlow does, and as the original did (docs/algorithm.md#padding); towers only.
        aggressive_sharing: whether all kernel sizes, expansions and squeeze-and-excite choices of a bottleneck share
            its 1×1 convolutions (docs/algorithm.md#weight-sharing). Where not, each combination of these has weights
            of its own, which is an ablation of the paper's: widths of blocks stay slices. Towers only.

    A width choice runs on the leading slice of the widest weight, so that a call costs what the sampled
    architecture costs. Batch norm has no state. In the indices `ALL` (-1) stands for every choice at once.

    Raises:
        InputError: where there are no classes, or the module of a space of one's own cannot be built with choices.
    """

    def __init__(
        self,
        space: Space,
        num_classes: int = 1000,
        *,
        rematerialize: bool = False,
        same_padding: bool = False,
        aggressive_sharing: bool = True,
    ):
        super().__init__()
        self.space = space
        self.num_classes = num_classes
        self.same_padding = same_padding
        if isinstance(space.structure, Tower):
            if num_classes < 1:
                raise InputError(f"num_classes must be at least 1, not {num_classes}")
            base = space.structure.filters_base
            options = NetworkOptions(
                stateless_bn=True,
                same_padding=same_padding,
                filters_base=base,
                aggressive_sharing=aggressive_sharing,
            )
            self.tower = TowerModule(space.structure, options, rematerialize=rematerialize)
            self.head = Head(self.tower.output_width, num_classes, dropout_rate=0.0)
        else:
            if rematerialize:
                raise InputError(
                    f"rematerialize recomputes the layers of a tower, and {space.name} is a model of one's own; call "
                    f"torch.utils.checkpoint in its forward instead"
                )
            if not aggressive_sharing:
                raise InputError(
                    f"without aggressive sharing the layers of a tower get more weights, and {space.name} is a model "
                    f"of one's own, which shares what its code shares"
                )
            self.network = own_network(space, space.structure)
            for module in self.network.modules():
                _make_stateless(module)
                if not isinstance(module, Sliceable) and isinstance(module, PLAIN_KERNELS):
                    module.register_forward_hook(_note_kernel)
        self._never_asked = dict.fromkeys(range(space.num_choices), 0)
        self.flat: nn.Parameter | None = None
        self._last = _LastForward()

    def forward(self, inputs: Any, architecture: Architecture | Sequence[int]) -> Any:
        """What the network gives under one architecture: of a tower logits `[N, num_classes]` of images `[N, 3, H, W]`.

        `used` then holds the (slices of) kernels of convolutions, linear layers and attention that took part, which L2
        counts: not norms, not biases, not embeddings, of a tower not the last layer.
        """
        indices = self._indices(architecture)
        asked = _Asked(indices) if self._never_asked else indices
        with recording_kernels() as self._last.used:
            features = self.network(inputs, asked) if self.is_own else self.tower(inputs, asked)[0]
        if isinstance(asked, _Asked):
            self._check_asked(asked)
        return features if self.is_own else self.head(features)

    @property
    def used(self) -> UsedKernels:
        """What the last `forward` of this thread used."""
        return self._last.used

    @property
    def is_own(self) -> bool:
        """Whether this is a model of the user's own, and no tower."""
        return not isinstance(self.space.structure, Tower)

    def endpoints(self, x: Tensor, architecture: Architecture | Sequence[int]) -> list[Tensor]:
        """Feature maps of a tower at the detection endpoints under one architecture."""
        return self.tower(x, self._indices(architecture))[1]

    def _check_asked(self, indices: _Asked) -> None:
        """Notes which choices the network asked for, and finds those that it never does."""
        in_use: list[bool] = [True] * len(indices.values)
        for position in reversed(range(len(in_use))):  # a parent comes after its children
            point = self.space.points[position]
            if point.parent is not None:
                taken = indices.values[point.parent]
                in_use[position] = in_use[point.parent] and taken in (point.parent_choice, ALL)
            if position in indices.asked:
                self._never_asked.pop(position, None)
            elif in_use[position] and position in self._never_asked:
                self._never_asked[position] += 1
                if self._never_asked[position] >= PATIENCE:
                    network = type(self.network if self.is_own else self.tower).__name__
                    raise InputError(
                        f"{network} has no place for the choice {point.path} of {self.space.name}: it never asks which "
                        f"of its {point.size} choices is taken; see tunas.nn.for_each_choice and tunas.space.chosen"
                    )

    def l2(self) -> Tensor:
        """½‖w‖² over the kernels that the last `forward` used, each with its share of the mixture
        (docs/algorithm.md#weight-sharing)."""
        squares = torch.stack([kernel.float().square().sum() for kernel in self.used.kernels])
        return 0.5 * torch.dot(squares.new_tensor(self.used.shares), squares)

    def extract(self, architecture: Architecture) -> Any:
        """The stand-alone network of `architecture` with a copy of the shared weights that it uses.

        Its running batch-norm statistics are fresh: train it further, or run it in train mode, or recalibrate.

        Raises:
            InputError: where a model of one's own builds other modules for an architecture than for the space.
        """
        options = NetworkOptions(same_padding=self.same_padding)
        network = build_network(architecture, self.num_classes, options=options)
        weight = next(self.parameters())
        network.to(weight.device, weight.dtype)
        with torch.no_grad():
            if self.is_own:
                _copy_slices(self.network, network, architecture.indices, type(network).__name__)
            else:
                _copy_slices(self.tower, network.tower, architecture.indices, "tower")
                _copy_slices(self.head, network.head, architecture.indices, "head")
        return network

    def compile_no_kernels(self) -> None:
        """On CUDA, uses only kernels that need not be compiled for each shape first: for short searches."""
        for module in self.modules():
            if isinstance(module, DepthwiseConv2d):
                module.at_once = True

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
            if isinstance(module, Sliceable):
                module.share_gradients(on)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SuperNet:
        """Moving or converting the weights ends the flat layout."""
        self._share_gradients(False)
        object.__setattr__(self, "flat", None)
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle of the supernet is not flat."""
        return {name: value for name, value in self.__dict__.items() if name != "_last"} | {"flat": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._last = _LastForward()

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


def _copy_slices(shared: Any, alone: nn.Module, indices: Sequence[int], path: str) -> None:
    """Copies into `alone` the leading slices of the same-named modules of `shared`, through the choices taken."""
    while isinstance(shared, Choice):
        shared = shared.choices[indices[shared.position]]
    for name, tensor in [*alone.named_parameters(recurse=False), *alone.named_buffers(recurse=False)]:
        source = getattr(shared, name, None)
        if source is None and isinstance(tensor, nn.Parameter):
            raise _differently_built(f"{path}.{name}")
        if source is None or tensor.dim() == 0:
            continue
        source = source[tuple(slice(size) for size in tensor.shape)]
        if source.shape != tensor.shape:
            raise _differently_built(f"{path}.{name}")
        tensor.copy_(source)
    for name, child in alone.named_children():
        inside = getattr(shared, name, None)
        if not isinstance(inside, nn.Module):
            raise _differently_built(f"{path}.{name}")
        _copy_slices(inside, child, indices, f"{path}.{name}")


def _differently_built(path: str) -> InputError:
    return InputError(
        f"{path} of the stand-alone network has no counterpart, or a smaller one, in the network that is built for the "
        f"whole space: build the same modules with and without choices, and put what differs into for_each_choice"
    )


class _LastForward(threading.local):
    """What the last forward pass of a thread used."""

    def __init__(self) -> None:
        self.used = UsedKernels()


class _Asked(Sequence[int]):
    """Indices that know which of them were asked for."""

    def __init__(self, values: Sequence[int]):
        self.values = values
        self.asked: set[int] = set()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, position: Any) -> Any:
        self.asked.update(range(len(self.values))[position] if isinstance(position, slice) else (position,))
        return self.values[position]


PLAIN_KERNELS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""torch's modules whose weights L2 counts, where they stand in a model as they are."""


def _note_kernel(module: Any, inputs: Any, output: Any) -> None:
    if module.weight.requires_grad:
        kernel_used(module.weight)


def _make_stateless(module: nn.Module) -> None:
    """Lets a batch norm use the statistics of the batch at hand: running ones would be of no one architecture."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.track_running_stats = False
        module.running_mean = module.running_var = module.num_batches_tracked = None
