"""The order of the indices: what a released index string means, layer by layer."""

import dataclasses

import pytest

import tunas
from support.published import EXAMPLE_PROXYLESS, EXAMPLE_V3
from tunas import OneOf
from tunas.space import FILTERS, OP, InvertedBottleneck, Residual, SeparableConv, Times, Zero, active_positions
from tunas.space.choice import choice_points, numbered, resolved


def bottlenecks(layers):
    """(kernel, multiple, se, stride) of each bottleneck, None where the layer is skipped."""
    found = []
    for layer in layers:
        layer = layer.layer if isinstance(layer, Residual) else layer
        if isinstance(layer, InvertedBottleneck):
            found.append((layer.kernel, layer.expansion.multiplier, layer.se, layer.stride))
        elif isinstance(layer, Zero):
            found.append(None)
    return found


def test_the_v3_example_of_the_release_read_index_by_index():
    take = map(int, EXAMPLE_V3.split(":")).__next__
    tower = tunas.get_space("mobilenet_v3_like_search").architecture(EXAMPLE_V3).tower

    stem = tower.blocks[0].layers
    assert stem[0].kernel == (3, 5)[take()]
    separable_kernel = (3, 5, 7)[take()]
    assert stem[2].layer == (SeparableConv(separable_kernel), Zero())[take()]
    assert tower.blocks[0].filters == (8, 16, 24, 32)[take()]
    widths = [
        (8, 16, 24, 32),
        (16, 24, 32, 40, 48, 64),
        (32, 40, 48, 64, 80, 96, 128),
        (64, 80, 96, 128, 160, 192, 256),
    ]
    widths.append((128, 160, 192, 256, 320, 384, 512))
    for block, choices, stride in zip(tower.blocks[1:6], widths, (2, 2, 2, 1, 2), strict=True):
        expected = [((3, 5, 7)[take()], take() + 1.0, bool(take()), stride)]
        for _ in range(3):
            layer = ((3, 5, 7)[take()], take() + 1.0, bool(take()), 1)
            expected.append(None if take() else layer)
        assert bottlenecks(block.layers) == expected
        assert block.filters == choices[take()]
    assert tower.blocks[6].filters == (256, 320, 384, 512, 640, 768, 1024)[take()]
    assert tower.blocks[7].filters == (512, 640, 768, 1024, 1280, 1536, 2048)[take()]
    with pytest.raises(StopIteration):
        take()


def test_the_v3_example_in_plain_numbers():
    tower = tunas.get_space("mobilenet_v3_like_search").architecture(EXAMPLE_V3).tower
    assert [block.filters for block in tower.blocks] == [16, 24, 40, 80, 128, 192, 1024, 2048]
    assert bottlenecks(tower.blocks[1].layers) == [(5, 4.0, True, 2), None, None, None]
    assert bottlenecks(tower.blocks[4].layers) == [(5, 6.0, True, 1), None, (3, 2.0, True, 1), (3, 1.0, True, 1)]


def test_the_proxyless_example_of_the_release_read_index_by_index():
    take = map(int, EXAMPLE_PROXYLESS.split(":")).__next__
    tower = tunas.get_space("proxylessnas_search").architecture(EXAMPLE_PROXYLESS).tower
    assert take() == 0  # the only width
    assert tower.blocks[1].layers[0] == SeparableConv((3, 5, 7)[take()])
    assert take() == 0
    for block, stride in zip(tower.blocks[2:7], (2, 2, 2, 1, 2), strict=True):
        expected = [((3, 5, 7)[take()], (3.0, 6.0)[take()], False, stride)]
        assert take() == 0  # a bottleneck that cannot be skipped is a choice of one
        for _ in range(3):
            layer = ((3, 5, 7)[take()], (3.0, 6.0)[take()], False, 1)
            expected.append(None if take() else layer)
        assert bottlenecks(block.layers) == expected
        assert take() == 0
    assert bottlenecks(tower.blocks[7].layers) == [((3, 5, 7)[take()], (3.0, 6.0)[take()], False, 1)]
    assert [take() for _ in range(3)] == [0, 0, 0]
    assert [block.filters for block in tower.blocks] == [32, 16, 32, 40, 80, 96, 192, 320, 1280]


def test_an_index_string_is_what_it_was_read_from():
    for name, text in [("mobilenet_v3_like_search", EXAMPLE_V3), ("proxylessnas_search", EXAMPLE_PROXYLESS)]:
        assert tunas.get_space(name).architecture(text).text == text


def test_oneofs_inside_a_choice_come_before_the_one_that_holds_them_and_fields_in_the_order_of_the_table():
    inner = InvertedBottleneck(OneOf((3, 5), OP), OneOf((Times(3.0), Times(6.0)), FILTERS), OneOf((False, True), OP))
    points = choice_points(numbered((OneOf((inner, OneOf((Zero(), inner), OP)), OP), OneOf((8, 16), FILTERS))))
    assert [(point.path, point.parent, point.parent_choice) for point in points] == [
        ("0/choices/0/kernel_size", 7, 0),
        ("0/choices/0/expansion_filters", 7, 0),
        ("0/choices/0/use_squeeze_and_excite", 7, 0),
        ("0/choices/1/choices/1/kernel_size", 6, 1),
        ("0/choices/1/choices/1/expansion_filters", 6, 1),
        ("0/choices/1/choices/1/use_squeeze_and_excite", 6, 1),
        ("0/choices/1", 7, 1),
        ("0", None, 0),
        ("1", None, 0),
    ]
    assert [point.oneof.position for point in points] == list(range(9))


def test_log_paths_are_those_of_the_original():
    paths = [point.path for point in tunas.get_space("mobilenet_v3_like_search").points]
    bottleneck = "blocks/1/layers/0"
    for field in ("kernel_size", "expansion_filters", "use_squeeze_and_excite"):
        assert f"{bottleneck}/{field}" in paths
    proxyless = [point.path for point in tunas.get_space("proxylessnas_search").points]
    assert proxyless[3:6] == [
        "blocks/2/layers/0/choices/0/kernel_size",
        "blocks/2/layers/0/choices/0/expansion_filters",
        "blocks/2/layers/0",
    ]


def test_equal_structures_at_two_places_are_two_choices():
    choice = OneOf((3, 5), OP)
    structure = numbered((choice, choice))
    assert [one.position for one in structure] == [0, 1]
    assert resolved(structure, (0, 1)) == (3, 5)


def test_a_oneof_is_a_value_whatever_its_position():
    assert OneOf([3, 5], OP) == OneOf((3, 5), OP) == dataclasses.replace(OneOf((3, 5), OP), position=4)
    assert OneOf((3, 5), OP) != OneOf((3, 5), FILTERS)
    assert len({OneOf((3, 5), OP), OneOf([3, 5], OP, position=1)}) == 1


def test_a_oneof_without_choices_or_with_a_foreign_tag_is_refused():
    with pytest.raises(ValueError, match="at least one choice"):
        OneOf((), OP)
    with pytest.raises(ValueError, match="tag is 'op_indices' or 'filters_indices', not 'ops'"):
        OneOf((1,), "ops")


def test_only_oneofs_on_the_path_taken_are_active():
    space = tunas.get_space("mobilenet_v3_like_search")
    indices = list(space.architecture(EXAMPLE_V3).indices)
    active = active_positions(space, indices)
    assert active[:8] == [
        True,
        False,
        True,
        True,
        True,
        True,
        True,
        False,
    ]  # 1 is the kernel of the skipped stem, 7 of a skipped layer
    indices[2] = 0
    assert active_positions(space, indices)[1]


def test_pruning_forgets_the_indices_of_what_is_skipped_and_nothing_else():
    space = tunas.get_space("mobilenet_v3_like_search")
    indices = list(space.architecture(EXAMPLE_V3).indices)
    indices[1] = 2
    architecture = space.architecture(indices)
    assert architecture.pruned().indices[1] == 0
    assert architecture.pruned().tower == architecture.tower
    assert architecture.pruned().pruned() == architecture.pruned()
