"""Spaces and architectures as plain text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunas.space import layers
from tunas.space.architecture import Architecture, Space
from tunas.space.choice import OneOf

HEADER = ("block", "layer", "operation", "kernel", "stride", "expansion", "se", "width")


def architecture_rows(architecture: Architecture) -> list[tuple[str, ...]]:
    """One row of text per layer, as in `HEADER`; the expansion with the width it comes to."""
    rows: list[tuple[str, ...]] = []
    tower = architecture.tower
    width = layers.IMAGE_CHANNELS
    for number, block in enumerate(tower.blocks):
        for place, layer in enumerate(block.layers):
            kept = layers.keeps_width(layer)
            out = width if kept else int(block.filters)  # type: ignore[arg-type]
            rows.append((str(number), str(place), *_cells(layer, width, tower.filters_base), str(out)))
            width = out
    return rows


def _cells(layer: Any, width: int, base: int) -> tuple[str, str, str, str, str]:
    residual = isinstance(layer, layers.Residual)
    if residual:
        layer = layer.layer
    if residual and isinstance(layer, layers.Zero):
        return ("skip", "", "", "", "")
    name = layer.kind if isinstance(layer, layers.Activation) else type(layer).__name__
    if residual:
        name += " + x"
    kernel = getattr(layer, "kernel", None)
    expansion = getattr(layer, "expansion", None)
    if expansion is not None:
        inner = layers.expansion_width(expansion, width, base)
        expansion = f"×{expansion.multiplier:g} = {inner}" if isinstance(expansion, layers.Times) else str(inner)
    return (
        name,
        f"{kernel}×{kernel}" if kernel else "",
        str(layer.stride) if kernel else "",
        expansion or "",
        "yes" if getattr(layer, "se", False) else "",
    )


def architecture_table(architecture: Architecture) -> str:
    """A table of the layers, under a line with the space's name and the indices."""
    title = architecture.space.name + (f"  {architecture.text}" if architecture.indices else "")
    return title + "\n" + format_table(HEADER, architecture_rows(architecture))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows` in aligned columns under `header`."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def space_tree(space: Space) -> str:
    """The tower as an indented tree in which every choice shows its position in the indices."""
    lines = [repr(space)]
    for number, block in enumerate(space.tower.blocks):
        lines.append(f"block {number}: filters {_value(block.filters)}")
        lines += [f"  layer {place}: {_value(layer)}" for place, layer in enumerate(block.layers)]
    return "\n".join(lines)


def _value(node: Any) -> str:
    if isinstance(node, OneOf):
        inner = " | ".join(_value(choice) for choice in node.choices)
        return f"[{node.position}]{{{inner}}}"
    if isinstance(node, layers.Times):
        return f"×{node.multiplier:g}"
    if isinstance(node, layers.Activation):
        return node.kind
    if isinstance(node, layers.Residual):
        return f"x + {_value(node.layer)}"
    if isinstance(node, (layers.Conv, layers.SeparableConv, layers.InvertedBottleneck)):
        parts = [f"kernel {_value(node.kernel)}"]
        if isinstance(node, layers.InvertedBottleneck):
            parts += [f"expansion {_value(node.expansion)}"] + ([f"se {_value(node.se)}"] if node.se else [])
        if node.stride != 1:
            parts.append(f"stride {node.stride}")
        if isinstance(node, layers.Conv):
            parts += [] if node.batch_norm else ["bias, no batch norm"]
        else:
            parts.append(node.activation.kind)
        return f"{type(node).__name__}({', '.join(parts)})"
    return str(node) if isinstance(node, (int, bool)) else type(node).__name__
