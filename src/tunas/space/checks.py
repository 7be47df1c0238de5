"""What a structure must be to be searched, and a tower to be a network: every value of the right type, every layer
where it can stand."""

from __future__ import annotations

import dataclasses
from typing import Any

from tunas.errors import InputError
from tunas.space import layers
from tunas.space.choice import FILTERS, OP, OneOf, fields_of
from tunas.space.registry import inner_layer, is_layer, kind_of, layer_types, rule_of

TAG_NAMES = {OP: "OP", FILTERS: "FILTERS"}


def check_tower(name: str, tower: Any) -> None:
    """Raises `InputError`, naming the place after `name`, where `tower` cannot be a network."""
    if not isinstance(tower, layers.Tower):
        raise InputError(f"space {name!r} must be a Tower, not {type(tower).__name__}")
    base = tower.filters_base
    if not layers.is_count(base):
        raise InputError(f"{name}: filters_base must be a positive integer, not {base!r}")
    _check_conventions(name, tower.conventions)
    if not tower.blocks:
        raise InputError(f"space {name!r} has no blocks")
    source, width = "image", None
    for number, block in enumerate(tower.blocks):
        here = f"blocks/{number}"
        if not isinstance(block, layers.Block):
            raise InputError(f"{name}: {here} must be a Block, not {type(block).__name__}")
        if isinstance(block.filters, OneOf) and block.filters.tag != FILTERS:
            raise InputError(f"{name}: the filters of {here} must be tagged FILTERS")
        for filters in block.filters.choices if isinstance(block.filters, OneOf) else (block.filters,):
            if not layers.is_count(filters) or filters % base:
                raise InputError(f"{name}: the filters of {here} must be positive multiples of {base}, not {filters!r}")
        for place, layer in enumerate(block.layers):
            path = f"{name}: {here}/layers/{place}"
            if not (is_layer(layer) and kind_of(layer).marks):
                same_width = type(block.filters) is int and block.filters == width
                _check_layer(path, layer, residual_ok=source == here or same_width)
            if not layers.keeps_width(layer):
                source, width = here, block.filters


def _check_conventions(name: str, conventions: Any) -> None:
    """Refuses conventions that no network can follow."""
    if conventions is None:
        return
    if not isinstance(conventions, layers.Conventions):
        raise InputError(f"{name}: conventions must be Conventions or None, not {conventions!r}")
    right = {
        "bn_epsilon": type(conventions.bn_epsilon) is float and 0 < conventions.bn_epsilon < 1,
        "gate": conventions.gate in layers.GATES,
        "se_activation": conventions.se_activation in layers.ACTIVATIONS,
        "same_padding": isinstance(conventions.same_padding, bool),
    }
    if wrong := [field for field, is_right in right.items() if not is_right]:
        raise InputError(f"{name}: conventions/{wrong[0]} cannot be {getattr(conventions, wrong[0])!r}")


def check_structure(name: str, structure: Any) -> None:
    """Raises `InputError`, naming the place after `name`, where a structure of one's own cannot be searched.

    It consists of frozen dataclasses, tuples, OneOfs and plain values, which `model_spec.json` can hold.
    """
    if not (isinstance(structure, (tuple, OneOf)) or _is_frozen(structure)):
        raise InputError(
            f"space {name!r} must be a Tower, or another frozen dataclass or tuple, not {type(structure).__name__}"
        )
    _check_node(name, "", structure, {})


def _check_node(name: str, path: str, node: Any, types: dict[str, type]) -> None:
    """Checks the part of a structure at `path`; `types` are the classes met so far, by name."""
    where = f"{name}: {path}" if path else f"{name}"
    if isinstance(node, OneOf):
        if node.tag == FILTERS:
            for choice in node.choices:
                width_of(choice, where)
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        kind = type(node)
        if not _is_frozen(node):
            raise InputError(f"{where} holds a {kind.__name__}, which must be frozen: @dataclass(frozen=True)")
        if types.setdefault(kind.__name__, kind) is not kind:
            raise InputError(f"{where}: there are two classes named {kind.__name__} in this structure; rename one")
    elif not isinstance(node, (tuple, list, str, int, float, bool, type(None))):
        hashable = "" if type(node).__hash__ is not None else ", which cannot be hashed"
        raise InputError(
            f"{where} holds a {type(node).__name__}{hashable}: a structure consists of numbers, text, True, False, "
            f"None, tuples and frozen dataclasses"
        )
    for part, value in fields_of(node):
        _check_node(name, f"{path}/{part}" if path else part, value, types)


def _is_frozen(node: Any) -> bool:
    is_instance = dataclasses.is_dataclass(node) and not isinstance(node, type)
    return is_instance and type(node).__dataclass_params__.frozen  # type: ignore[attr-defined]


def width_of(choice: Any, where: str = "a choice") -> float:
    """The number by which the choices of a `FILTERS` OneOf are compared: the largest is the widest.

    Raises:
        InputError: where a choice is no such number.
    """
    width = choice.multiplier if isinstance(choice, layers.Times) else choice
    if type(width) not in (int, float) or not 0 < width <= layers.LARGEST:
        raise InputError(
            f"{where}: the choices of a OneOf tagged FILTERS are positive numbers, of which the largest is the widest, "
            f"not {choice!r}; tag it OP if it is no width"
        )
    return width


def _check_layer(path: str, layer: Any, *, residual_ok: bool, resizing_ok: bool = True) -> None:
    """Checks one layer, or a choice between layers, and what is inside.

    Args:
        residual_ok: whether the input is as wide as the block, so that it can be added to the output.
        resizing_ok: whether the resolution may change here; not inside a layer that adds its input.
    """
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
    if not is_layer(layer):
        known = ", ".join(kind.__name__ for kind in layer_types())
        raise InputError(
            f"{path}: unknown layer {layer!r}; known are {known} (tunas.register_layer makes one of your own known)"
        )
    kind, name = kind_of(layer), type(layer).__name__
    if kind.marks:
        raise InputError(f"{path}: a {name} stands between layers, not inside a choice or another layer")
    if kind.pools and not resizing_ok:
        raise InputError(f"{path}: a {name} changes the resolution and cannot stand inside a layer that adds its input")
    if kind.adds_input and not (residual_ok or layers.keeps_width(layer)):
        raise InputError(
            f"{path}: a {name}'s input must already be as wide as its block; put a layer that sets the width before it"
        )
    if (inner := inner_layer(layer)) is not None:
        inside_ok = resizing_ok and not kind.adds_input
        _check_layer(f"{path}/{kind.inner}", inner, residual_ok=residual_ok, resizing_ok=inside_ok)
    _check_fields(path, layer, resizing_ok=resizing_ok)


def _check_fields(path: str, layer: Any, *, resizing_ok: bool) -> None:
    """Checks the fields of a layer, but for the layer inside it."""
    stride = getattr(layer, "stride", 1)
    if type(stride) is not int or stride not in (1, 2):
        raise InputError(f"{path}/stride: the stride must be 1 or 2, not {stride!r}")
    if stride != 1 and not resizing_ok:
        raise InputError(f"{path}: a layer inside one that adds its input must have stride 1, not {stride}")
    for field in dataclasses.fields(layer):
        if field.name == kind_of(layer).inner:
            continue
        here, value, rule = f"{path}/{field.name}", getattr(layer, field.name), rule_of(field)
        if rule is None:
            _check_free(here, value)
            continue
        if isinstance(value, OneOf) and rule.tag is not None and value.tag != rule.tag:
            raise InputError(f"{here}: a choice here must be tagged {TAG_NAMES[rule.tag]}")
        may_choose = isinstance(value, OneOf) and rule.tag is not None
        for choice in value.choices if may_choose else (value,):
            if not rule.holds(choice):
                raise InputError(f"{here}: {rule.expected}, not {choice!r}")


def _check_free(path: str, value: Any) -> None:
    """What holds for a field without a rule: a choice of widths is between widths."""
    if isinstance(value, OneOf) and value.tag == FILTERS:
        for choice in value.choices:
            if not layers.is_width(choice):
                raise InputError(f"{path}: {layers.WIDTH['rule'].expected}, not {choice!r}")
    for name, part in fields_of(value):
        _check_free(f"{path}/{name}", part)


def _strides(layer: Any) -> set[int]:
    """The strides that a checked layer can have, 0 standing for a pooling of the whole map."""
    if isinstance(layer, OneOf):
        return set().union(*(_strides(choice) for choice in layer.choices))
    if (inner := inner_layer(layer)) is not None:
        return _strides(inner)
    return {0} if kind_of(layer).pools else {getattr(layer, "stride", 1)}
