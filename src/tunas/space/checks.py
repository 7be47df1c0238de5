"""What a tower must be to be a network: every value of the right type, every layer where it can stand."""

from __future__ import annotations

import math
from typing import Any

from tunas.errors import InputError
from tunas.space import layers
from tunas.space.choice import FILTERS, OP, OneOf

LARGEST = 1 << 20
"""Beyond any width, kernel size or multiple that could be meant."""
VALUE_TAGS = {"kernel": OP, "se": OP, "expansion": FILTERS}
"""Fields of a layer in which a choice may stand, and the tag it must have."""


def check_tower(name: str, tower: Any) -> None:
    """Raises `InputError`, naming the place after `name`, where `tower` cannot be a network."""
    if not isinstance(tower, layers.Tower):
        raise InputError(f"space {name!r} must be a Tower, not {type(tower).__name__}")
    base = tower.filters_base
    if not _is_count(base):
        raise InputError(f"{name}: filters_base must be a positive integer, not {base!r}")
    if not tower.blocks:
        raise InputError(f"space {name!r} has no blocks")
    source = "image"
    for number, block in enumerate(tower.blocks):
        here = f"blocks/{number}"
        if not isinstance(block, layers.Block):
            raise InputError(f"{name}: {here} must be a Block, not {type(block).__name__}")
        if isinstance(block.filters, OneOf) and block.filters.tag != FILTERS:
            raise InputError(f"{name}: the filters of {here} must be tagged FILTERS")
        for width in block.filters.choices if isinstance(block.filters, OneOf) else (block.filters,):
            if not _is_count(width) or width % base:
                raise InputError(f"{name}: the filters of {here} must be positive multiples of {base}, not {width!r}")
        for place, layer in enumerate(block.layers):
            path = f"{name}: {here}/layers/{place}"
            if not isinstance(layer, layers.DetectionEndpoint):
                _check_layer(path, layer, residual_ok=source == here)
            source = source if layers.keeps_width(layer) else here


def _check_layer(path: str, layer: Any, *, residual_ok: bool, resizing_ok: bool = True) -> None:
    if isinstance(layer, OneOf):
        if layer.tag != OP:
            raise InputError(f"{path}: a choice between layers must be tagged OP")
        for index, choice in enumerate(layer.choices):
            _check_layer(f"{path}/choices/{index}", choice, residual_ok=residual_ok, resizing_ok=resizing_ok)
        if len({layers.keeps_width(choice) for choice in layer.choices}) > 1:
            raise InputError(
                f"{path}: some choices keep the input's width and others take the block's, so they cannot be exchanged"
            )
        if len(_strides(layer)) > 1:
            raise InputError(
                f"{path}: the choices have different strides, so their outputs would differ in size (Zero has stride 1)"
            )
        return
    if isinstance(layer, layers.DetectionEndpoint):
        raise InputError(f"{path}: a DetectionEndpoint stands between layers, not inside a choice or a Residual")
    if not isinstance(layer, layers.LAYER_TYPES):
        known = ", ".join(kind.__name__ for kind in layers.LAYER_TYPES)
        raise InputError(f"{path}: unknown layer {layer!r}; known are {known}")
    if isinstance(layer, layers.Residual):
        if not (residual_ok or layers.keeps_width(layer.layer)):
            raise InputError(
                f"{path}: a Residual's input must already be as wide as its block; put a layer that sets the width "
                f"before it"
            )
        _check_layer(f"{path}/layer", layer.layer, residual_ok=residual_ok, resizing_ok=False)
        return
    if isinstance(layer, layers.GlobalAveragePool) and not resizing_ok:
        raise InputError(f"{path}: a GlobalAveragePool cannot stand inside a Residual")
    _check_fields(path, layer, resizing_ok=resizing_ok)


def _check_fields(path: str, layer: Any, *, resizing_ok: bool) -> None:
    if hasattr(layer, "stride"):
        if type(layer.stride) is not int or layer.stride not in (1, 2):
            raise InputError(f"{path}: the stride must be 1 or 2, not {layer.stride!r}")
        if layer.stride != 1 and not resizing_ok:
            raise InputError(f"{path}: a layer inside a Residual must have stride 1, not {layer.stride}")
    if hasattr(layer, "activation") and not isinstance(layer.activation, layers.Activation):
        raise InputError(f"{path}: the activation must be an Activation such as RELU, not {layer.activation!r}")
    if hasattr(layer, "batch_norm") and not isinstance(layer.batch_norm, bool):
        raise InputError(f"{path}: batch_norm is True or False, not {layer.batch_norm!r}")
    for name, tag in VALUE_TAGS.items():
        if hasattr(layer, name):
            value = getattr(layer, name)
            if isinstance(value, OneOf) and value.tag != tag:
                raise InputError(f"{path}/{name}: must be tagged {'OP' if tag == OP else 'FILTERS'}")
            for choice in value.choices if isinstance(value, OneOf) else (value,):
                _check_value(f"{path}/{name}", name, choice)


def _check_value(path: str, name: str, value: Any) -> None:
    if name == "kernel" and not (_is_count(value) and value % 2):
        raise InputError(f"{path}: a kernel size is an odd positive integer, not {value!r}")
    if name == "se" and not isinstance(value, bool):
        raise InputError(f"{path}: se is True or False, not {value!r}")
    if name == "expansion" and not (
        _is_multiple(value.multiplier) if isinstance(value, layers.Times) else _is_count(value)
    ):
        raise InputError(f"{path}: an expansion is Times(positive number) or a positive width, not {value!r}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST


def _is_multiple(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value <= LARGEST


def _strides(layer: Any) -> set[int]:
    """The strides that a checked layer can have, 0 standing for a pooling of the whole map."""
    if isinstance(layer, OneOf):
        return set().union(*(_strides(choice) for choice in layer.choices))
    return {0} if isinstance(layer, layers.GlobalAveragePool) else {getattr(layer, "stride", 1)}
