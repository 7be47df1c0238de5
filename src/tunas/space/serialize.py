"""Towers and other structures as JSON (`model_spec.json`), out and in. Reading checks everything against the known
types and runs nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tunas.errors import InputError
from tunas.space.checks import check_structure, check_tower
from tunas.space.choice import OneOf, fields_of
from tunas.space.layers import Block, Conventions, Times, Tower
from tunas.space.registry import layer_types

FORMAT = "tunas-model-spec"
VERSION = 1
DEEPEST = 60
"""Levels of lists and objects; the packaged spaces have 11."""
_SKIPPED_FIELDS = {(OneOf, "position")}


_own_types: dict[str, type] = {}
"""Classes of structures that are no towers, by name."""
_stand_ins: dict[tuple[str, ...], type] = {}
"""Classes made for those that are not known here, by their name and fields."""


def know_types(structure: Any) -> None:
    """Lets `structure_from_json` read the classes of a structure that is no tower, and of others like it."""
    is_class = dataclasses.is_dataclass(structure) and not isinstance(structure, OneOf)
    if is_class and type(structure) not in _stand_ins.values():
        _own_types[type(structure).__name__] = type(structure)
    for _, part in fields_of(structure):
        know_types(part)


def _types() -> dict[str, type]:
    ours = {kind.__name__: kind for kind in (*layer_types(), Block, Tower, Conventions, Times, OneOf)}
    return {**_own_types, **ours}


def structure_to_json(structure: Any) -> str:
    """A structure as JSON text; `structure_from_json` reads it back equal."""
    return json.dumps({"format": FORMAT, "version": VERSION, "model": _encode(structure)}, indent=1)


def structure_from_json(text: str, *, stand_ins: bool = False) -> Any:
    """The structure of a `model_spec.json`.

    Args:
        stand_ins: let classes that are not known here be stood in for by others with the same fields, so that the
            choices can be looked at where the code that belongs to them is not at hand.

    Raises:
        InputError: where the text is not JSON, or holds an unknown type, an unknown or missing field, or a value of a
            wrong type, or where the tower cannot be a network.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no text, and endless digits
        raise InputError(f"the model spec is not valid JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"this is not a model spec: its 'format' must be {FORMAT!r}")
    if document.get("version") != VERSION:
        raise InputError(
            f"the model spec has version {document.get('version')!r}; this program reads version {VERSION}"
        )
    structure = _decode(document.get("model"), "model", _types(), stand_ins=stand_ins)
    if isinstance(structure, Tower) and _has_stand_in(structure):  # a tower's layers must be known, a structure's not
        types = {name: kind for name, kind in _types().items() if kind is not Tower}
        structure = _decode(document.get("model"), "model", types, stand_ins=True)
    if isinstance(structure, Tower):
        check_tower("model", structure)
    elif is_own(structure) or (isinstance(structure, tuple) and structure):  # of plain values, once all is chosen
        check_structure("model", structure)
    else:
        raise InputError(f"the model spec's model must be a Tower, not {type(structure).__name__}")
    return structure


def _has_stand_in(node: Any) -> bool:
    return type(node) in _stand_ins.values() or any(_has_stand_in(part) for _, part in fields_of(node))


def is_own(structure: Any) -> bool:
    """Whether a structure is of a class of the user's own, or a tuple or choice in which there is one or a choice."""
    if isinstance(structure, OneOf):
        return any(is_own(choice) for choice in structure.choices)
    if isinstance(structure, tuple):
        return any(isinstance(part, OneOf) or is_own(part) for part in structure)
    return type(structure) in (*_own_types.values(), *_stand_ins.values())


def _encode(node: Any) -> Any:
    """A part of a structure as JSON values."""
    if dataclasses.is_dataclass(node):
        fields = [
            f.name
            for f in dataclasses.fields(node)
            if (type(node), f.name) not in _SKIPPED_FIELDS
            and not (f.metadata.get("omitted") and getattr(node, f.name) == f.default)
        ]
        return {"type": type(node).__name__, **{name: _encode(getattr(node, name)) for name in fields}}
    if isinstance(node, tuple):
        return [_encode(item) for item in node]
    return node


def _decode(node: Any, path: str, types: dict[str, type], depth: int = 0, *, stand_ins: bool) -> Any:
    """The part of a structure that JSON values at `path` describe, by the classes in `types`."""
    if depth > DEEPEST:
        raise InputError(f"{path[:40]}…: the model spec is nested more than {DEEPEST} deep")

    def inside(part: Any, name: Any) -> Any:
        return _decode(part, f"{path}/{name}", types, depth + 1, stand_ins=stand_ins)

    if isinstance(node, list):
        return tuple(inside(item, index) for index, item in enumerate(node))
    if not isinstance(node, dict):
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise InputError(f"{path}: unexpected value {node!r}")
    name = node.get("type")
    kind = types.get(name) if isinstance(name, str) else None
    if kind is None and stand_ins and isinstance(name, str):
        kind = _stand_in(name, [field for field in node if field != "type"], path)
    if kind is None:
        raise InputError(f"{path}: unknown type {name!r}; known are {', '.join(sorted(types))}")
    values = {name: inside(value, name) for name, value in node.items() if name != "type"}
    known = {f.name for f in dataclasses.fields(kind) if (kind, f.name) not in _SKIPPED_FIELDS}
    if unknown := sorted(values.keys() - known):
        raise InputError(f"{path}: {kind.__name__} has no field {unknown[0]!r}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not a {kind.__name__}: {error}") from None


def _stand_in(name: str, fields: list[str], path: str) -> type:
    """A class with these fields in place of one that is not known; the same for the same name and fields."""
    key = (name, *fields)
    if key not in _stand_ins:
        try:
            _stand_ins[key] = dataclasses.make_dataclass(name, fields, frozen=True)
        except (TypeError, ValueError) as error:  # no identifiers
            raise InputError(f"{path}: {name!r} cannot be the name of a class with its fields: {error}") from None
    return _stand_ins[key]
