"""Which layers can stand in a tower: the one place that knows.

A layer is a description, a frozen dataclass in which any field may hold a choice, and a torch module that runs it.
`register_layer` brings the two together. The layers of `tunas.space.layers` are registered with the names of their
modules in place of the modules, so that describing a space imports no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tunas.errors import InputError

M = TypeVar("M", type, str)
PACKAGE = "tunas."
_RESERVED = ("Block", "Tower", "Conventions", "Times", "OneOf")
"""Names that stand for something else in `model_spec.json`."""


@dataclass(frozen=True)
class FieldRule:
    """What a field of a layer may hold.

    Args:
        holds: whether a value, or each value of a choice, is right.
        expected: completes "… , not 7": what would be right.
        tag: what a choice that stands here must be tagged, `OP` or `FILTERS`; None where none may.
    """

    holds: Callable[[Any], bool]
    expected: str
    tag: str | None


@dataclass(frozen=True)
class LayerKind:
    """What is known of a type of layer. The arguments are `register_layer`'s."""

    description: type
    module: type | str
    keeps_width: bool = False
    inner: str | None = None
    adds_input: bool = False
    pools: bool = False
    marks: bool = False


_kinds: dict[type, LayerKind] = {}


def register_layer(
    description: type,
    *,
    keeps_width: bool = False,
    inner: str | None = None,
    adds_input: bool = False,
    pools: bool = False,
    marks: bool = False,
) -> Callable[[M], M]:
    """Makes a layer known everywhere: in spaces and their checks, in JSON, tables, counts, cost models and reports.

    Goes over the class of the module that runs it:

    ```python
    @tunas.register_layer(GhostConv)
    class GhostConvLayer(nn.Module): ...
    ```

    Args:
        description: a frozen dataclass. Where it has a field `stride`, 1 or 2, the layer divides the resolution by it.
            A field's metadata may hold a rule, such as `field(metadata=KERNEL_SIZE)`.
        keeps_width: the output is as wide as the input, where other layers take the width of their block.
        inner: name of the field that holds another layer, which decides the width and the resolution.
        adds_input: the output is a sum with the input, so the layer inside must change neither width nor resolution.
        pools: the output is one pixel whatever the resolution.
        marks: computes nothing and marks the feature map at this place as one to hand out.

    Raises:
        InputError: where the description is no frozen dataclass, its name is taken, or the module lacks what it needs.
    """
    _check_description(description, inner)

    def register(module: M) -> M:
        if isinstance(module, type):
            _check_module(module, description.__name__)
        for known in [known for known in _kinds if known.__name__ == description.__name__]:
            if known is not description:
                del _kinds[known]  # defined again, as when a notebook's cell runs twice
        _kinds[description] = LayerKind(description, module, keeps_width, inner, adds_input, pools, marks)
        return module

    return register


def _check_module(module: type, name: str) -> None:
    for needed in ("forward", "operations"):
        if not callable(getattr(module, needed, None)):
            raise InputError(f"{module.__name__}, the module of {name}, has no {needed}(…)")


def _check_description(description: Any, inner: str | None) -> None:
    """Refuses what cannot describe a layer, or has the name of another one."""
    if not (isinstance(description, type) and dataclasses.is_dataclass(description)):
        raise InputError(f"a layer is described by a frozen dataclass, unlike {description!r}")
    name = description.__name__
    if not description.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise InputError(f"{name} describes a layer and must be frozen: @dataclass(frozen=True)")
    if inner is not None and inner not in {field.name for field in dataclasses.fields(description)}:
        raise InputError(f"{name} has no field {inner!r} that could hold the layer inside")
    if name in _RESERVED:
        raise InputError(f"{name} is no layer's name: it stands for something else in a tower; choose another one")
    for known in _kinds:
        taken = known.__name__ == name and known is not description
        if taken and (_is_ours(known) or _origin(known) != _origin(description)):
            raise InputError(
                f"there is a layer {name} already, {'.'.join(_origin(known))}; give this one another name, which is "
                f"what model_spec.json calls it"
            )


def _origin(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(PACKAGE)


def layer_types() -> tuple[type, ...]:
    """The descriptions of every layer that is known now."""
    return tuple(_kinds)


def is_layer(node: Any) -> bool:
    """Whether `node` is the description of a registered layer."""
    return type(node) in _kinds


def kind_of(layer: Any) -> LayerKind:
    """What is known of the type of a layer that `is_layer`."""
    return _kinds[type(layer)]


def layer_module(layer: Any) -> Any:
    """The module class that runs a layer."""
    module = kind_of(layer).module
    if isinstance(module, str):
        package, _, name = module.partition(":")
        module = getattr(importlib.import_module(package), name)
    return module


def inner_layer(layer: Any) -> Any:
    """The layer inside `layer`, or None where it holds none."""
    kind = _kinds.get(type(layer))
    return None if kind is None or kind.inner is None else getattr(layer, kind.inner)


def with_inner_layer(layer: Any, inner: Any) -> Any:
    """`layer` around another layer."""
    name = kind_of(layer).inner
    assert name is not None
    return dataclasses.replace(layer, **{name: inner})


def rule_of(field: dataclasses.Field[Any]) -> FieldRule | None:
    """What a field of a description says that it may hold."""
    return field.metadata.get("rule")
