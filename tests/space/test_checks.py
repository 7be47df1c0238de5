"""Towers that cannot be networks are refused with the place and the reason."""

import pytest

from tunas import InputError, OneOf, Space
from tunas.space import (
    FILTERS,
    OP,
    RELU,
    Activation,
    Block,
    Conv,
    DetectionEndpoint,
    GlobalAveragePool,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
)


def refusal(tower):
    with pytest.raises(InputError) as error:
        Space("s", tower)
    return str(error.value)


def layer_refusal(*layers):
    """The message about the last of `layers`, without the place, which must be that layer's."""
    place, _, message = refusal(Tower([Block(layers, 8)])).partition(f"blocks/0/layers/{len(layers) - 1}")
    assert place == "s: "
    return message.removeprefix(": ")


def test_what_is_no_tower_is_refused():
    assert refusal(None) == "space 's' must be a Tower, or another frozen dataclass or tuple, not NoneType"
    assert refusal(Tower([])) == "space 's' has no blocks"
    assert refusal(Tower(["conv"])) == "s: blocks/0 must be a Block, not str"
    assert (
        refusal(Tower([Block([Conv(3)], 8), OneOf([Block([Conv(3)], 8)], OP)]))
        == "s: blocks/1 must be a Block, not OneOf"
    )


@pytest.mark.parametrize("base", [0, -8, "8", 8.0, True, None, 1 << 40])
def test_a_base_is_a_positive_integer(base):
    assert refusal(Tower([Block([Conv(3)], 8)], base)) == f"s: filters_base must be a positive integer, not {base!r}"


@pytest.mark.parametrize("width", [0, -8, 12, 8.0, "8", True, None, 1 << 40, Times(2.0)])
def test_widths_are_positive_multiples_of_the_base(width):
    message = f"s: the filters of blocks/0 must be positive multiples of 8, not {width!r}"
    assert refusal(Tower([Block([Conv(3)], width)])) == message
    assert refusal(Tower([Block([Conv(3)], OneOf((8, width), FILTERS))])) == message


def test_a_width_choice_is_tagged_filters_and_holds_no_further_choice():
    assert refusal(Tower([Block([Conv(3)], OneOf((8, 16), OP))])) == "s: the filters of blocks/0 must be tagged FILTERS"
    nested = OneOf((OneOf((8, 16), FILTERS), 24), FILTERS)
    assert "must be positive multiples of 8, not OneOf" in refusal(Tower([Block([Conv(3)], nested)]))


@pytest.mark.parametrize("layer", [3, "conv", None, Conv, ("a",), Times(2.0), Block([], 8)])
def test_unknown_layers_are_shown_with_the_known_ones(layer):
    said = layer_refusal(layer)
    assert said.startswith(
        f"unknown layer {layer!r}; known are Conv, Activation, SeparableConv, InvertedBottleneck, Residual, Zero, "
        "GlobalAveragePool, DetectionEndpoint"  # and what other tests have registered
    )
    assert said.endswith(" (tunas.register_layer makes one of your own known)")


@pytest.mark.parametrize("stride", [0, 3, 1.0, True, "1", None])
def test_strides_are_one_or_two(stride):
    for layer in (Conv(3, stride), SeparableConv(3, stride), InvertedBottleneck(3, 8, stride=stride)):
        assert layer_refusal(layer) == f"/stride: the stride must be 1 or 2, not {stride!r}"


@pytest.mark.parametrize("kernel", [0, -3, 4, 3.0, "3", True, None, (1 << 40) + 1])
def test_kernels_are_odd(kernel):
    message = f"a kernel size is an odd positive integer, not {kernel!r}"
    for layer in (Conv(kernel), SeparableConv(kernel), InvertedBottleneck(OneOf((3, kernel), OP), 8)):
        assert layer_refusal(layer) == f"/kernel: {message}"


@pytest.mark.parametrize(
    "expansion",
    [0, -8, 1.5, "8", True, None]
    + [
        Times(multiple)
        for multiple in (0, -1.0, float("nan"), float("inf"), 1e300, "3", None, True, OneOf((1.0,), FILTERS))
    ],
)
def test_expansions_are_multiples_or_widths(expansion):
    message = f"/expansion: a width is Times(positive number) or a positive integer, not {expansion!r}"
    assert layer_refusal(InvertedBottleneck(3, expansion)) == message
    assert layer_refusal(InvertedBottleneck(3, OneOf((8, expansion), FILTERS))) == message


@pytest.mark.parametrize("value", [0, 1, "yes", None, OneOf((True,), OP)])
def test_squeeze_and_excite_is_true_or_false(value):
    assert (
        layer_refusal(InvertedBottleneck(3, 8, se=OneOf((False, value), OP)))
        == f"/se: this is True or False, not {value!r}"
    )


@pytest.mark.parametrize("value", ["relu", None, OneOf((RELU,), OP)])
def test_an_activation_field_is_an_activation(value):
    assert (
        layer_refusal(SeparableConv(3, activation=value))
        == f"/activation: an activation is an Activation such as RELU, not {value!r}"
    )
    with pytest.raises(ValueError, match="unknown activation 'gelu'; known are relu, relu6, swish6, swish, sigmoid"):
        Activation("gelu")


def test_batch_norm_is_true_or_false():
    assert layer_refusal(Conv(3, batch_norm=OneOf((True, False), OP))).startswith(
        "/batch_norm: this is True or False, not OneOf"
    )


def test_choices_carry_the_tag_of_what_they_choose():
    assert layer_refusal(OneOf((Conv(3), Conv(5)), FILTERS)) == "a choice between layers must be tagged OP"
    tagged = "a choice here must be tagged"
    assert layer_refusal(Conv(OneOf((3, 5), FILTERS))) == f"/kernel: {tagged} OP"
    assert layer_refusal(InvertedBottleneck(3, OneOf((8, 16), OP))) == f"/expansion: {tagged} FILTERS"
    assert layer_refusal(InvertedBottleneck(3, 8, OneOf((False, True), FILTERS))) == f"/se: {tagged} OP"


def test_choices_that_cannot_be_exchanged_are_refused():
    keeps_or_not = "some choices keep the input's width and others take the block's, so they cannot be exchanged"
    assert layer_refusal(OneOf((Conv(3), RELU), OP)) == keeps_or_not
    strides = "the choices have different strides, so their outputs would differ in size (Zero has stride 1)"
    assert layer_refusal(OneOf((Conv(3), Conv(3, 2)), OP)) == strides
    assert layer_refusal(OneOf((Conv(3, 2), Zero()), OP)) == strides
    assert layer_refusal(OneOf((Conv(3), OneOf((Conv(5, 2), Conv(7, 2)), OP)), OP)) == strides
    assert layer_refusal(OneOf((GlobalAveragePool(), RELU), OP)) == strides


def test_residuals_stand_where_input_and_output_have_one_shape():
    needs_width = "a Residual's input must already be as wide as its block; put a layer that sets the width before it"
    assert layer_refusal(Residual(Conv(3))) == needs_width
    assert layer_refusal(RELU, Residual(OneOf((Conv(3), Zero()), OP))) == needs_width
    strided = "a layer inside one that adds its input must have stride 1, not 2"
    assert layer_refusal(Conv(3), Residual(Conv(3, 2))) == f"/layer: {strided}"
    assert layer_refusal(Conv(3), Residual(OneOf((Conv(3, 2),), OP))) == f"/layer/choices/0: {strided}"
    assert layer_refusal(Residual(GlobalAveragePool())) == (
        "/layer: a GlobalAveragePool changes the resolution and cannot stand inside a layer that adds its input"
    )


def test_a_residual_may_not_rely_on_the_block_before():
    for before, width in ((8, 16), (8, OneOf((8,), FILTERS)), (OneOf((8, 16), FILTERS), 8)):
        tower = Tower([Block([Conv(3)], before), Block([Residual(Conv(3))], width)])
        assert "blocks/1/layers/0: a Residual's input must already be as wide" in refusal(tower)


def test_a_residual_may_begin_a_block_of_the_same_fixed_width():
    assert Space("s", Tower([Block([Conv(3)], 8), Block([Residual(Conv(3))], 8)])).num_choices == 0


def test_an_endpoint_inside_a_choice_would_never_be_handed_out():
    message = "a DetectionEndpoint stands between layers, not inside a choice or another layer"
    assert layer_refusal(OneOf((DetectionEndpoint(), RELU), OP)) == f"/choices/0: {message}"
    assert layer_refusal(Conv(3), Residual(DetectionEndpoint())) == f"/layer: {message}"


def test_what_is_unusual_but_right_is_accepted():
    inner = OneOf((Residual(SeparableConv(OneOf((3, 5), OP))), OneOf((Conv(1), Zero()), OP)), OP)
    layers = [
        DetectionEndpoint(),
        RELU,
        Residual(Activation("sigmoid")),
        OneOf((Zero(),), OP),
        inner,
        Residual(Residual(Zero())),
    ]
    layers += [GlobalAveragePool(), Residual(Conv(1, batch_norm=False)), InvertedBottleneck(1, Times(1), se=True)]
    space = Space("s", Tower([Block(layers, OneOf((24,), FILTERS)), Block([Zero()], 48), Block([], 24)], 24))
    assert space.num_choices == 5
