"""Towers as JSON (`model_spec.json`), out and in. Reading checks everything against the layer types and runs
nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tunas.errors import InputError
from tunas.space.checks import check_tower
from tunas.space.choice import OneOf
from tunas.space.layers import Block, Times, Tower
from tunas.space.registry import layer_types

FORMAT = "tunas-model-spec"
VERSION = 1
DEEPEST = 60
"""Levels of lists and objects; the packaged spaces have 11."""
_SKIPPED_FIELDS = {(OneOf, "position")}


def _types() -> dict[str, type]:
    return {kind.__name__: kind for kind in (*layer_types(), Block, Tower, Times, OneOf)}


def tower_to_json(tower: Tower) -> str:
    """`tower` as JSON text; `tower_from_json` reads it back equal."""
    return json.dumps({"format": FORMAT, "version": VERSION, "model": _encode(tower)}, indent=1)


def tower_from_json(text: str) -> Tower:
    """The tower of a `model_spec.json`.

    Raises:
        InputError: where the text is not JSON, or holds an unknown type, an unknown or missing field, or a value of a
        wrong
            type, or where the tower cannot be a network.
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
    tower = _decode(document.get("model"), "model")
    if not isinstance(tower, Tower):
        raise InputError(f"the model spec's model must be a Tower, not {type(tower).__name__}")
    check_tower("model", tower)
    return tower


def _encode(node: Any) -> Any:
    if dataclasses.is_dataclass(node):
        fields = [f.name for f in dataclasses.fields(node) if (type(node), f.name) not in _SKIPPED_FIELDS]
        return {"type": type(node).__name__, **{name: _encode(getattr(node, name)) for name in fields}}
    if isinstance(node, tuple):
        return [_encode(item) for item in node]
    return node


def _decode(node: Any, path: str, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise InputError(f"{path[:40]}…: the model spec is nested more than {DEEPEST} deep")
    if isinstance(node, list):
        return tuple(_decode(item, f"{path}/{index}", depth + 1) for index, item in enumerate(node))
    if not isinstance(node, dict):
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise InputError(f"{path}: unexpected value {node!r}")
    name = node.get("type")
    types = _types()
    kind = types.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(f"{path}: unknown type {name!r}; known are {', '.join(sorted(types))}")
    values = {name: _decode(value, f"{path}/{name}", depth + 1) for name, value in node.items() if name != "type"}
    known = {f.name for f in dataclasses.fields(kind) if (kind, f.name) not in _SKIPPED_FIELDS}
    if unknown := sorted(values.keys() - known):
        raise InputError(f"{path}: {kind.__name__} has no field {unknown[0]!r}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not a {kind.__name__}: {error}") from None
