"""Spaces and architectures as text for people."""

import numpy as np
import pytest

import tunas
from tunas import OneOf, Space
from tunas.space import OP, RELU, Block, Conv, InvertedBottleneck, Residual, Times, Tower, Zero
from tunas.space.describe import format_table, tower_rows, tower_tree

TOWER = Tower(
    [
        Block([Conv(OneOf((3, 5), OP), stride=2), RELU], 16),
        Block(
            [InvertedBottleneck(3, Times(3.0), se=True), Residual(OneOf((InvertedBottleneck(7, 72), Zero()), OP))], 24
        ),
        Block([Conv(1, batch_norm=False)], 40),
    ]
)


def test_an_architecture_prints_as_a_table():
    assert str(Space("small", TOWER).architecture("1:0")).splitlines() == [
        "small  1:0",
        "block  layer  operation               kernel  stride  expansion  se   width",
        "0      0      Conv                    5×5     2                       16",
        "0      1      relu                                                    16",
        "1      0      InvertedBottleneck      3×3     1       ×3 = 48    yes  24",
        "1      1      InvertedBottleneck + x  7×7     1       72              24",
        "2      0      Conv                    1×1     1                       40",
    ]


def test_a_skipped_layer_is_shown_as_skipped():
    rows = tower_rows(Space("small", TOWER).architecture("0:1").tower)
    assert rows[3] == ("1", "1", "skip", "", "", "", "", "24")


def test_a_space_prints_as_a_tree_with_the_positions_of_its_choices():
    space = Space("small", TOWER)
    assert tower_tree(repr(space), space.tower).splitlines() == [
        "Space('small', 2 OneOfs, 4 index strings)",
        "block 0: filters 16",
        "  layer 0: Conv(kernel [0]{3 | 5}, stride 2)",
        "  layer 1: relu",
        "block 1: filters 24",
        "  layer 0: InvertedBottleneck(kernel 3, expansion ×3, se True)",
        "  layer 1: x + [1]{InvertedBottleneck(kernel 7, expansion 72) | Zero}",
        "block 2: filters 40",
        "  layer 0: Conv(kernel 1, batch_norm False)",
    ]


@pytest.mark.parametrize("name", tunas.space_names())
def test_every_packaged_space_can_be_printed(name):
    space = tunas.get_space(name)
    tree = tower_tree(repr(space), space.tower)
    assert all(f"[{position}]{{" in tree for position in range(space.num_choices))
    architecture = space.sample(np.random.default_rng(0))
    rows = tower_rows(architecture.tower)
    assert len(rows) == sum(len(block.layers) for block in space.tower.blocks)
    assert len(str(architecture).splitlines()) == len(rows) + 2
    assert max(map(len, str(architecture).splitlines()[1:])) < 90
    assert repr(architecture) == f"Architecture({name!r}, {architecture.text!r})"


def test_columns_are_aligned():
    table = format_table(("a", "long"), [("wide cell", "1"), ("", "22")])
    assert table.splitlines() == ["a          long", "wide cell  1", "           22"]
