"""Packs the published Pixel-1 coefficients (one JSON file per space) into src/tunas/cost/pixel1/*.npz.

    python tools/pack_pixel1.py DIRECTORY_WITH_JSON [OUTPUT_DIRECTORY]

In the JSON, a layer's choices are one flat list: the product over the layer's fields, the later field varying fastest,
and for a OneOf of layers the choices one after the other. Here each becomes a table with one axis per OneOf.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import tunas
from tunas.cost.catalog import PIXEL1_DIRECTORY
from tunas.space import OneOf, Space
from tunas.space.choice import fields_of

SPACES = ("proxylessnas_search", "proxylessnas_enlarged_search", "mobilenet_v3_like_search")


def own_choices(node: Any) -> list[dict[int, int]]:
    """Every choice of a layer in the order of the JSON files, as {position of a OneOf: index taken}."""
    if isinstance(node, OneOf):
        assert node.position is not None
        return [
            {node.position: index, **rest} for index, choice in enumerate(node.choices) for rest in own_choices(choice)
        ]
    parts = [own_choices(part) for _, part in fields_of(node)]
    return [
        {position: index for part in combination for position, index in part.items()}
        for combination in itertools.product(*parts)
    ]


def layer_table(space: Space, layer: dict[str, Any]) -> tuple[tuple[int, ...], np.ndarray]:
    """(positions, table) of one layer of the JSON file."""
    _, block, _, place = layer["path"].split("/")
    number = int(block)
    node = space.tower.blocks[number].layers[int(place)]
    cells = layer["milliseconds"]
    widths = [space.tower.blocks[number].filters.position]  # type: ignore[union-attr]
    if int(place) > 0:
        assert layer["input_widths"] == layer["output_widths"]
        milliseconds = np.array([cells[width][width] for width in range(len(cells))])
    elif number > 0:
        widths.append(space.tower.blocks[number - 1].filters.position)  # type: ignore[union-attr]
        milliseconds = np.array(cells)
    else:
        milliseconds = np.array([row[0] for row in cells])
    choices = own_choices(node)
    assert milliseconds.shape == (*(space.sizes[position] for position in widths), len(choices)), layer["path"]
    own = sorted({position for choice in choices for position in choice})
    positions = (*widths, *own)
    table = np.full([space.sizes[position] for position in positions], np.nan, np.float32)
    for index, choice in enumerate(choices):
        # What a choice does not mention, such as the kernel size of a skipped layer, makes no difference to it.
        place_of_choice = tuple(choice.get(position, slice(None)) for position in own)
        unmentioned = (None,) * sum(isinstance(part, slice) for part in place_of_choice)
        table[(slice(None),) * len(widths) + place_of_choice] = milliseconds[(..., index, *unmentioned)]
    assert np.isfinite(table).all(), layer["path"]
    return positions, table


def pack(source: Path, target: Path, ssd: str) -> Path:
    document = json.loads((source / f"pixel1_{ssd}.json").read_text())
    space = tunas.get_space(ssd)
    tables = [layer_table(space, layer) for layer in document["layers"]]
    path = target / f"{ssd}.npz"
    np.savez_compressed(
        path,
        sizes=np.array(space.sizes, np.int16),
        bias=np.float32(document["bias"]),
        ranks=np.array([len(positions) for positions, _ in tables], np.int8),
        positions=np.array([position for positions, _ in tables for position in positions], np.int16),
        values=np.concatenate([table.ravel() for _, table in tables]),
        paths=np.array([layer["path"] for layer in document["layers"]]),
    )
    return path


if __name__ == "__main__":
    output = Path(sys.argv[2]) if len(sys.argv) > 2 else PIXEL1_DIRECTORY
    for name in SPACES:
        written = pack(Path(sys.argv[1]), output, name)
        print(f"{written}  {written.stat().st_size} bytes")
