"""A fixed architecture as a plain stand-alone `nn.Module`."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.layers import NetworkOptions, TowerModule
from tunas.nn.ops import Conv2d
from tunas.space.architecture import Architecture
from tunas.space.layers import Tower

LAST_LAYER_STD = 0.01
"""SPEC §1."""


class Head(nn.Module):
    """Dropout, 1×1 convolution with bias to the classes, global average pool (SPEC §1)."""

    def __init__(self, inputs: int, num_classes: int, dropout_rate: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.classifier = Conv2d(inputs, num_classes, 1, bias=True)
        if not self.classifier.weight.is_meta:
            nn.init.normal_(self.classifier.weight, std=LAST_LAYER_STD)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(x)).mean((2, 3))


class Network(nn.Module):
    """A stand-alone network: `forward` gives logits `[N, num_classes]` of images `[N, 3, H, W]`."""

    def __init__(
        self, tower: Tower, num_classes: int, *, dropout_rate: float = 0.0, options: NetworkOptions | None = None
    ):
        super().__init__()
        options = dataclasses.replace(options or NetworkOptions(), filters_base=tower.filters_base)
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
) -> Network:
    """The stand-alone network of an architecture, or of a tower without choices, freshly initialised.

    Args:
        num_classes: outputs of the classifier.
        dropout_rate: before the classifier.
        options: batch norm, gate, padding and path dropout; TuNAS's own where left out.

    Raises:
        InputError: where a choice is still open or there are no classes.
    """
    tower = architecture.tower if isinstance(architecture, Architecture) else architecture
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, not {num_classes}")
    if isinstance(architecture, Tower):
        from tunas.space.choice import choice_points, numbered

        if open_choices := choice_points(numbered(tower)):
            first = open_choices[0].path
            raise InputError(
                f"the tower still has {len(open_choices)} choices, the first at {first}; build an Architecture of it"
            )
    return Network(tower, num_classes, dropout_rate=dropout_rate, options=options)
