"""What differs by depth: learning rates, the classifier first, and how often a layer is dropped."""

from __future__ import annotations

from typing import Any

from torch import nn

from tunas.errors import InputError
from tunas.nn.layers import ResidualLayer
from tunas.nn.network import kernels

RATE = "rate"
"""What of the learning rate a parameter group gets."""
IS_HEAD = "is_head"
"""Whether a parameter group belongs to the classifier."""


def parameter_groups(network: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Kernels with L2 (of a tower not the last layer's), everything else without
    (docs/algorithm.md#stand-alone-training); by depth where deeper layers learn at other rates.

    Args:
        network: with a `tower` of `blocks` and a `head`, where rates differ by depth.
        weight_decay: of the kernels.
        layer_decay: how much slower each block learns than the one behind it; 1 for one rate.

    Raises:
        InputError: where rates shall differ by depth and the network has no blocks.
    """
    parts: list[tuple[nn.Module, float, bool]] = []
    tower, head = getattr(network, "tower", None), getattr(network, "head", None)
    blocks = list(getattr(tower, "blocks", []))
    if tower is None or head is None or (layer_decay != 1 and not blocks):
        if layer_decay != 1:
            raise InputError("layer_decay gives each block a rate of its own, and this network has no blocks")
        parts = [(network, 1.0, False)]
    elif layer_decay == 1:
        parts = [(tower, 1.0, False), (head, 1.0, True)]
    else:
        depths = [(block, layer_decay ** (len(blocks) - number), False) for number, block in enumerate(blocks)]
        parts = [*depths, (head, 1.0, True)]
    decayed = {id(p) for p in kernels(network)}
    groups = []
    for module, rate, is_head in parts:
        for decays in (True, False):
            chosen = [p for p in module.parameters() if (id(p) in decayed) == decays]
            if chosen:
                decay = weight_decay if decays else 0.0
                groups.append({"params": chosen, "weight_decay": decay, RATE: rate, IS_HEAD: is_head})
    return groups


def set_learning_rates(groups: list[dict[str, Any]], learning_rate: float, *, head_only: bool) -> None:
    """Gives every group its part of the learning rate; 0 to all but the classifier where this learns alone."""
    for group in groups:
        group["lr"] = 0.0 if head_only and not group[IS_HEAD] else learning_rate * group[RATE]


def drop_paths_by_depth(network: nn.Module, rate: float) -> None:
    """Lets the chance of dropping a skippable layer grow linearly from layer to layer, up to `rate` (Huang et al.
    2016)."""
    layers = [module for module in network.modules() if isinstance(module, ResidualLayer)]
    for number, layer in enumerate(layers):
        layer.path_dropout_rate = rate * (number + 1) / len(layers)
