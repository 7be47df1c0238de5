"""Rounding of widths, exactly as the original rounds."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tunas import OneOf
from tunas.space import FILTERS, OP, Block, Conv, InvertedBottleneck, Residual, Times, Tower
from tunas.space.layers import divisible_width, expansion_width, filters_choice, scale_filters, scaled_width

WIDTHS = st.integers(1, 4096)
MULTIPLIERS = st.sampled_from((0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0, 0.35, 1.4, 3.0, 6.0))
BASES = st.sampled_from((1, 8, 32))


@given(WIDTHS, MULTIPLIERS, BASES)
def test_a_scaled_width_is_the_formula_of_the_specification(width, multiplier, base):
    assert scaled_width(width, multiplier, base) == max(base, math.floor(width * multiplier / base + 0.5) * base)


@given(WIDTHS, MULTIPLIERS, BASES)
def test_a_scaled_width_is_the_nearest_positive_multiple_of_the_base(width, multiplier, base):
    scaled = scaled_width(width, multiplier, base)
    assert scaled > 0 and scaled % base == 0
    assert scaled == base or abs(scaled - width * multiplier) <= base / 2 + 1e-9


@given(st.integers(1, 512).map(lambda n: 8 * n))
def test_scaling_a_multiple_of_the_base_by_one_changes_nothing(width):
    assert scaled_width(width, 1.0) == width


def test_halves_round_up_and_nothing_below_the_base():
    assert [scaled_width(width, 1.0) for width in (1, 4, 11, 12, 20, 28)] == [8, 8, 8, 16, 24, 32]
    assert scaled_width(96, 0.5, 32) == 64


@given(st.floats(0.01, 4096))
def test_a_divisible_width_loses_at_most_a_tenth(width):
    rounded = divisible_width(width)
    assert rounded % 8 == 0 and rounded >= 8
    assert rounded >= 0.9 * width
    assert rounded < width + 12 or rounded == 8


def test_divisible_widths_worked_by_hand():
    by_hand = {
        1: 8,
        11: 16,
        12: 16,
        18: 24,
        19: 24,
        20: 24,
        90: 88,
        92: 96,
        120: 120,
    }  # 11 → 8 < 9.9 → 16; 18 → 16 < 16.2 → 24
    assert {width: divisible_width(width) for width in by_hand} == by_hand
    assert [divisible_width(width / 4) for width in (72, 120, 480, 672, 960)] == [
        24,
        32,
        120,
        168,
        240,
    ]  # MobileNetV3-Large


def test_an_expansion_is_a_multiple_of_the_input_or_a_width_of_its_own():
    assert expansion_width(Times(3.0), 24) == 72
    assert expansion_width(Times(0.5), 24) == 16  # 12 rounds up
    assert expansion_width(Times(2.5), 32, 32) == 96
    assert expansion_width(100, 24) == 100


def test_a_width_choice_has_the_distinct_scalings_in_order():
    multipliers = (2.0, 0.5, 0.625, 0.75, 1.0, 1.25, 1.5)
    assert filters_choice(16, multipliers) == OneOf((8, 16, 24, 32), FILTERS)
    assert filters_choice(32, multipliers) == OneOf((16, 24, 32, 40, 48, 64), FILTERS)
    assert filters_choice(128, multipliers) == OneOf((64, 80, 96, 128, 160, 192, 256), FILTERS)


def test_a_filters_multiplier_scales_absolute_widths_and_leaves_multiples():
    def tower(first, second, inner, base):
        bottleneck = InvertedBottleneck(5, OneOf((inner, Times(3.0)), FILTERS), se=True)
        layers = [Conv(OneOf((3, 5), OP)), Residual(OneOf((bottleneck, InvertedBottleneck(3, inner)), OP))]
        return Tower([Block(layers, first), Block([Conv(1)], second)], base)

    scaled = scale_filters(tower(16, OneOf((24, 48), FILTERS), 96, 8), 1.4)
    assert scaled == tower(24, OneOf((32, 64), FILTERS), 136, 8)  # 22.4, 33.6, 67.2, 134.4
    assert scale_filters(tower(32, OneOf((64, 96), FILTERS), 96, 32), 0.5) == tower(
        32, OneOf((32, 64), FILTERS), 64, 32
    )
