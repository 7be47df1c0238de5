"""Towers and other structures as plain text for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tunas.space import layers
from tunas.space.choice import OneOf, fields_of
from tunas.space.registry import inner_layer, is_layer, kind_of

HEADER = ("block", "layer", "operation", "kernel", "stride", "expansion", "se", "width")
WIDTH = 100
"""Columns of text that a tree may take in a line."""
COLUMNS = ("kernel", "stride", "expansion", "se")
"""Fields that have a column of their own; others stand beside the layer's name."""


def tower_rows(tower: layers.Tower) -> list[tuple[str, ...]]:
    """One row of text per layer of a tower without choices, as in `HEADER`; the expansion with the width it comes
    to."""
    rows: list[tuple[str, ...]] = []
    width = layers.IMAGE_CHANNELS
    for number, block in enumerate(tower.blocks):
        for place, layer in enumerate(block.layers):
            kept = layers.keeps_width(layer)
            out = width if kept else int(block.filters)  # type: ignore[arg-type]
            rows.append((str(number), str(place), *_cells(layer, width, tower.filters_base), str(out)))
            width = out
    return rows


def _cells(layer: Any, width: int, base: int) -> tuple[str, str, str, str, str]:
    """Operation, kernel, stride, expansion and squeeze-and-excite of a layer whose input is `width` wide."""
    if layer == layers.SKIPPED:
        return ("skip", "", "", "", "")
    added = ""
    while (inner := inner_layer(layer)) is not None:
        added += " + x" if kind_of(layer).adds_input else f" in {type(layer).__name__}"
        layer = inner
    kernel = getattr(layer, "kernel", None)
    expansion = getattr(layer, "expansion", None)
    if expansion is not None:
        inside = layers.expansion_width(expansion, width, base)
        expansion = f"{expansion} = {inside}" if isinstance(expansion, layers.Times) else str(inside)
    return (
        _name(layer) + added,
        f"{kernel}×{kernel}" if kernel else "",
        str(layer.stride) if kernel and hasattr(layer, "stride") else "",
        expansion or "",
        "yes" if getattr(layer, "se", False) else "",
    )


def _name(layer: Any) -> str:
    """What a layer is called in a table: its type, and what it is told that has no column."""
    if _says_itself(layer):
        return str(layer)
    told = [
        field.name
        for field in dataclasses.fields(layer)
        if field.name not in COLUMNS
        and field.metadata.get(layers.IN_TABLES, True)
        and getattr(layer, field.name) != field.default
    ]
    inside = ", ".join(f"{name} {_value(getattr(layer, name))}" for name in told)
    return type(layer).__name__ + (f"({inside})" if told else "")


def _says_itself(node: Any) -> bool:
    """Whether the type of a description says how it is written."""
    return type(node).__str__ is not object.__str__


def tower_table(title: str, tower: layers.Tower) -> str:
    """A table of the layers of a tower without choices, under its title."""
    return title + "\n" + format_table(HEADER, tower_rows(tower))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` in aligned columns under `header`."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def tower_tree(title: str, tower: layers.Tower) -> str:
    """A numbered tower as an indented tree in which every choice shows its position in the indices."""
    lines = [title]
    for number, block in enumerate(tower.blocks):
        lines.append(f"block {number}: filters {_value(block.filters)}")
        lines += [f"  layer {place}: {_value(layer)}" for place, layer in enumerate(block.layers)]
    return "\n".join(lines)


def structure_tree(title: str, structure: Any) -> str:
    """A structure of any kind as an indented tree; its choices, if it still has some, show their positions."""
    lines = [title]

    def visit(name: str, node: Any, depth: int) -> None:
        text = _value(node)
        parts = list(fields_of(node))
        if len(text) + 2 * depth + len(name) <= WIDTH or not parts:
            lines.append(f"{'  ' * depth}{name}{text}")
            return
        head = f"[{node.position}] one of" if isinstance(node, OneOf) else _type_name(node)
        lines.append(f"{'  ' * depth}{name}{head}")
        for part, value in parts:
            visit(f"{part.removeprefix('choices/')}: ", value, depth + 1)

    visit("", structure, 0)
    return "\n".join(lines)


def _type_name(node: Any) -> str:
    return "" if isinstance(node, tuple) else type(node).__name__


def _value(node: Any) -> str:
    """A part of a structure in one line, its choices with their positions."""
    if isinstance(node, OneOf):
        inside = " | ".join(_value(choice) for choice in node.choices)
        return f"[{node.position}]{{{inside}}}"
    if isinstance(node, tuple):
        return f"({', '.join(_value(item) for item in node)})"
    if not dataclasses.is_dataclass(node) or _says_itself(node):
        return str(node)
    if is_layer(node) and kind_of(node).adds_input:
        return f"x + {_value(inner_layer(node))}"
    told = [field.name for field in dataclasses.fields(node) if getattr(node, field.name) != field.default]
    parts = ", ".join(f"{name} {_value(getattr(node, name))}" for name in told)
    return type(node).__name__ + (f"({parts})" if told else "")
