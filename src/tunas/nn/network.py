"""A fixed architecture as a plain stand-alone `nn.Module`."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.layers import TowerModule
from tunas.nn.ops import Conv2d, MultiheadAttention
from tunas.nn.options import NetworkOptions
from tunas.space.architecture import Architecture, Space
from tunas.space.choice import choice_points, numbered
from tunas.space.layers import Tower

LAST_LAYER_STD = 0.01
"""Of the classifier's first weights (docs/algorithm.md#search-spaces)."""


class Head(nn.Module):
    """Dropout, 1×1 convolution with bias to the classes, global average pool (docs/algorithm.md#search-spaces)."""

    def __init__(self, inputs: int, num_classes: int, dropout_rate: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.classifier = Conv2d(inputs, num_classes, 1, bias=True)
        if not self.classifier.weight.is_meta:
            nn.init.normal_(self.classifier.weight, std=LAST_LAYER_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(x)).mean((2, 3))


class Network(nn.Module):
    """A stand-alone network: `forward` gives logits `[N, num_classes]` of images `[N, 3, H, W]`.

    Attributes:
        description: the tower that it was built from.
        options: how its layers were built.
    """

    def __init__(
        self, tower: Tower, num_classes: int, *, dropout_rate: float = 0.0, options: NetworkOptions | None = None
    ):
        super().__init__()
        options = dataclasses.replace(options or NetworkOptions(), filters_base=tower.filters_base)
        options = options.following(tower.conventions)
        self.description, self.options = tower, options
        self.tower = TowerModule(tower, options)
        self.head = Head(self.tower.output_width, num_classes, dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tower(x)[0])

    def endpoints(self, x: Tensor) -> list[Tensor]:
        """Feature maps `[N, C, H, W]` at the detection endpoints, the finest first."""
        return self.tower(x)[1]


def build_network(
    architecture: Architecture | Tower,
    num_classes: int = 1000,
    *,
    dropout_rate: float = 0.0,
    options: NetworkOptions | None = None,
) -> Any:
    """The stand-alone network of an architecture, or of a tower without choices, freshly initialised.

    Args:
        num_classes: outputs of the classifier.
        dropout_rate: before the classifier.
        options: batch norm, gate, padding and path dropout; TuNAS's own where left out.

    Returns:
        A `Network`; or the module that a space has for structures of its own, which takes none of these arguments.

    Raises:
        InputError: where a choice is still open or there are no classes.
    """
    if isinstance(architecture, Architecture) and not isinstance(architecture.space.structure, Tower):
        return own_network(architecture.space, architecture.structure)
    tower = architecture.tower if isinstance(architecture, Architecture) else architecture
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, not {num_classes}")
    if isinstance(architecture, Tower) and (open_choices := choice_points(numbered(tower))):
        first = open_choices[0].path
        raise InputError(
            f"the tower still has {len(open_choices)} choices, the first at {first}; build an Architecture of it"
        )
    return Network(tower, num_classes, dropout_rate=dropout_rate, options=options)


def own_network(space: Space, structure: Any) -> nn.Module:
    """The module that a space of one's own is built to, from its structure with or without choices.

    Raises:
        InputError: where nothing says how, or the module can be built without choices only.
    """
    build = space.network
    if build is None:
        raise InputError(
            f"{space.name} is a {type(structure).__name__}, and nothing says which module is built from it: "
            f"tunas.register_space(name, build, network=Module)"
        )
    try:
        network = build(structure)
    except InputError:
        raise
    except Exception as error:
        if not choice_points(structure):
            raise
        build(space.architecture([0] * space.num_choices).structure)  # raises what is no choice's fault
        raise InputError(
            f"{_name_of(build)} has no place for some choice of {space.name}: it can be built for an architecture, but "
            f"not with the OneOfs; see tunas.nn.for_each_choice and tunas.space.chosen ({error})"
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"the network of {space.name} must be a torch module, not {type(network).__name__}")
    return network


def _name_of(build: Any) -> str:
    return getattr(build, "__name__", type(build).__name__)


def kernels(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that weight decay is for: kernels of convolutions, linear layers and attention.

    Of a tower not the last layer's (docs/algorithm.md#stand-alone-training); of a model of one's own every one.
    """
    if isinstance(network, Network):
        return [parameter for parameter in network.tower.parameters() if parameter.dim() == 4]
    found: list[Any] = []
    for module in network.modules():
        if isinstance(module, MultiheadAttention):
            found += [module.in_weight, module.out_weight]
        elif isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            found.append(module.weight)
    return list(dict.fromkeys(found))
