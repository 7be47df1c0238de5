"""Counting, sampling, encoding and validating architectures."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tunas
from support.published import SEARCH_SPACES
from tunas import Architecture, InputError, OneOf, Space
from tunas.space import (
    FILTERS,
    OP,
    RELU,
    Activation,
    Block,
    Conv,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
)


@pytest.mark.parametrize(
    ("name", "choices", "count"),
    [
        ("proxylessnas_search", 73, "2.16e+21"),
        ("proxylessnas_enlarged_search", 73, "1.39e+28"),
        ("mobilenet_v3_like_search", 86, "8.48e+42"),
    ],
)
def test_the_spaces_are_as_large_as_the_paper_says(name, choices, count):
    space = tunas.get_space(name)
    assert space.num_choices == choices
    assert f"{space.count():.2e}" == count
    assert isinstance(space.count(), int)  # exact, however large


def test_distinct_networks_of_the_paper_spaces_in_closed_form():
    skippable = 1 + 6 + 6**2 + 6**3  # none to three of them, in whichever places
    proxyless = 3 * (6 * skippable) ** 5 * 6
    assert tunas.get_space("proxylessnas_search").count_distinct() == proxyless
    enlarged_widths = 4 * 4 * 4 * 6 * 7**5
    assert tunas.get_space("proxylessnas_enlarged_search").count_distinct() == proxyless * enlarged_widths
    v3_stages = (36 * (1 + 36 + 36**2 + 36**3)) ** 5
    assert tunas.get_space("mobilenet_v3_like_search").count_distinct() == 2 * (1 + 3) * v3_stages * (4 * 4 * 6 * 7**5)


def bneck(kernels=(3,), multiples=(3.0,)):
    return InvertedBottleneck(OneOf(kernels, OP), OneOf([Times(m) for m in multiples], FILTERS))


def skippable(*layers):
    return Residual(OneOf((*layers, Zero()), OP))


SMALL_TOWERS = {
    "one skippable layer": [Conv(3), skippable(bneck((3, 5), (1.0, 2.0)))],
    "alike layers in any place": [Conv(3), *[skippable(bneck((3, 5)))] * 3],
    "layers that share some variants": [
        Conv(3),
        skippable(bneck((3, 5))),
        skippable(bneck((5, 7))),
        skippable(bneck((3, 7))),
    ],
    "a layer that cannot be skipped between": [
        Conv(3),
        skippable(bneck((3, 5))),
        Residual(bneck((3, 5))),
        skippable(bneck((3, 5))),
    ],
    "choices that are equal": [Conv(OneOf((3, 3, 5), OP)), skippable(bneck((3,)), bneck((3,))), skippable(bneck((3,)))],
    "nested choices": [
        Conv(3),
        Residual(OneOf((OneOf((bneck((3, 5)), Zero()), OP), Zero(), SeparableConv(OneOf((3, 5), OP))), OP)),
    ],
}


@pytest.mark.parametrize("layers", SMALL_TOWERS.values(), ids=SMALL_TOWERS)
def test_distinct_networks_of_small_spaces_by_building_every_one(layers):
    tower = Tower([Block([*layers, RELU], OneOf((8, 16, 8), FILTERS)), Block([Conv(1), *layers[1:]], 8)])
    space = Space("small", tower)
    networks = set()
    for indices in itertools.product(*map(range, space.sizes)):
        blocks = space.architecture(indices).tower.blocks
        networks.add(
            tuple(
                (block.filters, tuple(layer for layer in block.layers if layer != Residual(Zero()))) for block in blocks
            )
        )
    assert space.count_distinct() == len(networks)
    assert space.count() >= len(networks)


@pytest.mark.parametrize("name", SEARCH_SPACES)
def test_sampling_is_in_range_and_uniform_in_every_position(name):
    space = tunas.get_space(name)
    drawn = space.sample(np.random.default_rng(0), 20_000)
    assert drawn.shape == (20_000, space.num_choices)
    for position, size in enumerate(space.sizes):
        counts = np.bincount(drawn[:, position], minlength=size)
        assert len(counts) == size
        chi_square = ((counts - 20_000 / size) ** 2 / (20_000 / size)).sum()
        assert chi_square < (size - 1) + 6 * np.sqrt(2 * size)  # some six standard deviations


def test_sampling_one_gives_an_architecture_and_the_seed_decides_which():
    space = tunas.get_space("mobilenet_v3_like_search")
    one = space.sample(np.random.default_rng(7))
    assert isinstance(one, Architecture)
    assert one == space.sample(np.random.default_rng(7)) != space.sample(np.random.default_rng(8))
    assert space.architecture(one.text) == one


def test_a_space_without_choices_has_one_architecture():
    space = tunas.get_space("mobilenet_v2")
    assert (space.num_choices, space.count(), space.count_distinct()) == (0, 1, 1)
    assert space.architecture("") == space.architecture([]) == space.sample(np.random.default_rng(0))
    assert space.architecture("").text == ""
    assert space.sample(np.random.default_rng(0), 3).shape == (3, 0)


def test_an_architecture_is_a_value():
    space = tunas.get_space("proxylessnas_search")
    zeros = space.architecture([0] * 73)
    again = space.architecture(np.zeros(73, np.int64))
    assert zeros == again and hash(zeros) == hash(again)
    assert len({zeros, again, space.architecture(":".join(["0"] * 73))}) == 1
    assert zeros != tunas.get_space("proxylessnas_enlarged_search").architecture([0] * 73)
    assert all(type(index) is int for index in again.indices)


class TestIndicesThatAreNone:
    space = tunas.get_space("proxylessnas_search")

    def message(self, indices):
        with pytest.raises(InputError) as error:
            self.space.architecture(indices)
        return str(error.value)

    @pytest.mark.parametrize("found", [1, 72, 74])
    def test_a_wrong_number_says_how_many_were_expected_and_found(self, found):
        assert self.message([0] * found) == f"proxylessnas_search takes 73 indices, but {found} were given"

    def test_none_at_all_names_the_flag_that_takes_them(self):
        none = "proxylessnas_search takes 73 indices, but 0 were given; the flag for them is --indices=0:1:…"
        assert self.message([]) == self.message("") == none

    @pytest.mark.parametrize("index", [3, 99, -1, 10**15])
    def test_out_of_range_says_which_position_path_and_range(self, index):
        assert self.message([0, 0, 0, index] + [0] * 69) == (
            f"index {index} at position 3 (blocks/2/layers/0/choices/0/kernel_size) of proxylessnas_search is out "
            f"of range: "
            "there are 3 choices, 0 to 2"
        )

    @pytest.mark.parametrize("part", ["x", "1.0", "", "--1", "²", "1_0", "0x1", "1e0", "9" * 5000])
    def test_text_that_is_no_integer_is_shown(self, part):
        assert self.message(f"0:{part}:0").endswith(f"{part!r} is not an integer")

    @pytest.mark.parametrize("part", [1.0, np.float64(2), None, True, [1], np.zeros((2, 2), int)])
    def test_numbers_that_are_no_integers_are_refused_rather_than_rounded(self, part):
        assert self.message([0, part, *[0] * 71]).endswith("is not an integer")

    @given(st.text(alphabet="0123456789:-+ .x\n٣", max_size=40))
    def test_no_text_raises_anything_else(self, text):
        self.message(text)


@settings(max_examples=50)
@given(st.data())
def test_any_indices_in_range_survive_the_round_trip_through_text(data):
    space = tunas.get_space(data.draw(st.sampled_from(SEARCH_SPACES)))
    indices = tuple(data.draw(st.integers(0, size - 1)) for size in space.sizes)
    architecture = space.architecture(":".join(map(str, indices)))
    assert architecture.indices == indices
    assert space.architecture(architecture.text) == architecture


def test_widest_choices_are_found_by_what_they_come_to():
    tower = Tower(
        [
            Block([Conv(3)], OneOf((16, 8), FILTERS)),
            Block(
                [InvertedBottleneck(3, OneOf((Times(3.0), 40, Times(1.0)), FILTERS)), Activation("relu")],
                OneOf((8, 24, 16), FILTERS),
            ),
            Block([InvertedBottleneck(3, OneOf((Times(1.0), 64, Times(2.0)), FILTERS))], 8),
        ]
    )
    # at most 16 wide: ×3 is 48, above 40; then at most 24 wide: ×2 is 48, below 64
    assert Space("widths", tower).widest_indices == {0: 0, 1: 0, 2: 1, 3: 1}


def test_spaces_are_described_without_torch_and_numpy():
    program = (
        "import sys, tunas.space as s; space = s.get_space('mobilenet_v3_like_search');"
        "space.architecture([0] * 86).tower; space.count_distinct(); print(space.architecture([0] * 86));"
        "s.structure_from_json(s.structure_to_json(space.tower));"
        "sys.exit(','.join(sorted({'torch', 'numpy', 'timm', 'rich'} & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
