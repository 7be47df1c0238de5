"""The packaged spaces, and spaces of one's own."""

import numpy as np
import pytest

import tunas
from tunas import InputError, OneOf
from tunas.space import (
    FILTERS,
    OP,
    RELU,
    SWISH6,
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
    catalog,
)

MULTIPLIERS = (0.5, 0.625, 0.75, 1, 1.25, 1.5, 2)


def tower_of(name):
    return tunas.get_space(name).tower


def shown(layer):
    """A fixed layer in the shorthand of the papers: R3x72se2 is a residual, kernel 3, 72 wide inside, SE, stride 2."""
    match layer:
        case Residual():
            return "R" + shown(layer.layer)
        case InvertedBottleneck():
            inner = f"×{layer.expansion.multiplier:g}" if isinstance(layer.expansion, Times) else str(layer.expansion)
            return f"{layer.kernel},{inner}{'se' if layer.se else ''}{',s2' if layer.stride == 2 else ''}"
        case SeparableConv():
            return f"sep{layer.kernel}"
        case Conv():
            return f"conv{layer.kernel}{',s2' if layer.stride == 2 else ''}{'' if layer.batch_norm else ',bias'}"
        case Activation():
            return layer.kind
        case Zero():
            return "0"
        case GlobalAveragePool():
            return "pool"
        case DetectionEndpoint():
            return "."


def table(name):
    return [(block.filters, " ".join(shown(layer) for layer in block.layers)) for block in tower_of(name).blocks]


def test_mobilenet_v2_is_that_of_its_paper():
    assert table("mobilenet_v2") == [
        (32, "conv3,s2 relu"),
        (16, "sep3 ."),
        (24, "3,×6,s2 R3,×6 R0 R0 ."),
        (32, "3,×6,s2 R3,×6 R3,×6 R0 ."),
        (64, "3,×6,s2 R3,×6 R3,×6 R3,×6"),
        (96, "3,×6 R3,×6 R3,×6 R0 ."),
        (160, "3,×6,s2 R3,×6 R3,×6 R0 ."),
        (320, "3,×6 ."),
        (1280, "conv1 relu pool"),
    ]


def test_mnasnet_b1_is_that_of_its_paper():
    assert table("mnasnet_b1") == [
        (32, "conv3,s2 relu"),
        (16, "sep3 ."),
        (24, "3,×3,s2 R3,×3 R3,×3 R0 ."),
        (40, "5,×3,s2 R5,×3 R5,×3 R0 ."),
        (80, "5,×6,s2 R5,×6 R5,×6 R0"),
        (96, "3,×6 R3,×6 R0 R0 ."),
        (192, "5,×6,s2 R5,×6 R5,×6 R5,×6 ."),
        (320, "3,×6 ."),
        (1280, "conv1 relu pool"),
    ]


def test_proxylessnas_mobile_is_that_of_its_paper():
    assert table("proxylessnas_mobile") == [
        (32, "conv3,s2 relu"),
        (16, "sep3 ."),
        (32, "5,×3,s2 R3,×3 R0 R0 ."),
        (40, "7,×3,s2 R3,×3 R5,×3 R5,×3 ."),
        (80, "7,×6,s2 R5,×3 R5,×3 R5,×3"),
        (96, "5,×6 R5,×3 R5,×3 R5,×3 ."),
        (192, "7,×6,s2 R7,×6 R7,×3 R7,×3 ."),
        (320, "7,×6 ."),
        (1280, "conv1 relu pool"),
    ]


def test_mobilenet_v3_large_is_that_of_its_paper():
    assert table("mobilenet_v3_large") == [
        (16, "conv3,s2 swish6 Rsep3 ."),
        (24, "3,64,s2 R3,72 ."),
        (40, "5,72se,s2 R5,120se R5,120se ."),
        (80, "3,240,s2 R3,200 R3,184 R3,184"),
        (112, "3,480se R3,672se ."),
        (160, "5,672se,s2 R5,960se R5,960se ."),
        (960, "conv1 swish6 pool"),
        (1280, "conv1,bias swish6"),
    ]
    blocks = tower_of("mobilenet_v3_large").blocks
    activations = [
        [getattr(layer, "layer", layer).activation for layer in block.layers if "," in shown(layer)]
        for block in blocks[1:6]
    ]
    assert activations == [[RELU] * 2, [RELU] * 3, [SWISH6] * 4, [SWISH6] * 2, [SWISH6] * 3]


def without_endpoints(name):
    return [(width, layers.removesuffix(" .")) for width, layers in table(name)]


def test_the_multi_hardware_models_are_those_of_their_paper():
    ends = [(960, "conv1 relu pool"), (1280, "conv1,bias relu")]
    assert without_endpoints("mobilenet_multi_avg") == [
        (32, "conv3,s2 relu"),
        (32, "3,96,s2 R3,64"),
        (64, "5,160,s2 R3,192 R3,128 R3,192"),
        (128, "5,384,s2 R3,384 R3,384 R3,384"),
        (160, "3,768 R3,640"),
        (192, "3,960,s2 R5,768 R5,768 R5,768"),
        *ends,
    ]
    assert without_endpoints("mobilenet_multi_max") == [
        (32, "conv3,s2 relu"),
        (32, "3,96,s2"),
        (64, "5,192,s2 R3,128 R3,128"),
        (128, "5,384,s2 R3,512 R3,384 R3,384"),
        (128, "3,768 R3,384"),
        (160, "3,768,s2 R5,640 R3,800 R5,640"),
        *ends,
    ]
    assert tower_of("mobilenet_multi_avg").filters_base == tower_of("mobilenet_multi_max").filters_base == 32


@pytest.mark.parametrize(
    ("name", "base_widths"),
    [
        ("proxylessnas_enlarged_search", (16, 16, 16, 32, 64, 128, 256, 512, 1024)),
        ("mobilenet_v3_like_search", (16, 16, 32, 64, 128, 256, 512, 1024)),
    ],
)
def test_width_choices_are_the_sorted_multiples_of_eight_nearest_to_the_seven_scalings(name, base_widths):
    for block, base in zip(tower_of(name).blocks, base_widths, strict=True):
        nearest = {max(8, int((base * multiplier + 4) // 8 * 8)) for multiplier in MULTIPLIERS}
        assert block.filters == OneOf(tuple(sorted(nearest)), FILTERS)


def test_proxyless_widths_are_choices_of_one():
    assert [block.filters.choices for block in tower_of("proxylessnas_search").blocks] == [
        (width,) for width in (32, 16, 32, 40, 80, 96, 192, 320, 1280)
    ]


def test_the_references_of_the_proxyless_tower_lie_where_the_search_can_find_them():
    """Apart from the widths, which only ProxylessNAS-Mobile shares."""
    found = tunas.get_space("proxylessnas_search").tower.blocks
    fixed = tower_of("proxylessnas_mobile").blocks
    assert [len(block.layers) for block in found] == [len(block.layers) for block in fixed]
    assert [block.filters.choices[0] for block in found] == [block.filters for block in fixed]


def test_default_targets_are_those_of_the_paper():
    targets = [tunas.get_space(name).default_target for name in tunas.space_names()[:3]]
    assert targets == [84.0, 84.0, 57.0]


@pytest.fixture
def names():
    """Registered names are forgotten after the test."""
    builders, spaces = dict(catalog._definitions), dict(catalog._spaces)
    yield
    catalog._definitions.clear(), catalog._definitions.update(builders)
    catalog._spaces.clear(), catalog._spaces.update(spaces)


def tiny_search():
    bottleneck = InvertedBottleneck(kernel=OneOf([3, 5], OP), expansion=OneOf([Times(3), Times(6)], FILTERS), stride=2)
    return Tower(
        [
            Block([Conv(3, stride=2), RELU], filters=16),
            Block(
                [bottleneck, Residual(OneOf([bottleneck.with_stride(1), Zero()], OP))],
                filters=OneOf([16, 24, 32], FILTERS),
            ),
            Block([Conv(1), RELU, GlobalAveragePool()], filters=256),
        ]
    )


def test_a_registered_space_is_known_by_name_everywhere(names):
    space = tunas.register_space("tiny_search", tiny_search, default_target=20.0)
    assert tunas.get_space("tiny_search") is space
    assert "tiny_search" in tunas.space_names()
    assert (space.num_choices, space.count(), space.default_target) == (6, 2 * 2 * 2 * 2 * 2 * 3, 20.0)
    architecture = space.sample(np.random.default_rng(0))
    assert tunas.build_network(architecture, num_classes=10).head.classifier.out_channels == 10


def test_registering_again_replaces_a_space_of_ones_own(names):
    tunas.register_space("mine", tiny_search)
    tunas.register_space("mine", lambda: Tower([Block([Conv(3)], 8)]))
    assert tunas.get_space("mine").num_choices == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenet_v2", "is the name of a packaged space"),
        ("a b", "letters, digits, _ and -"),
        ("", "letters, digits"),
        ("x:y", "letters"),
    ],
)
def test_names_that_cannot_be_registered_are_refused(names, name, message):
    with pytest.raises(InputError, match=message):
        tunas.register_space(name, tiny_search)


def test_a_tower_that_cannot_be_a_network_is_not_registered(names):
    with pytest.raises(InputError, match="must be a Tower, or another frozen dataclass or tuple, not NoneType"):
        tunas.register_space("broken", lambda: None)
    assert "broken" not in tunas.space_names()


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(InputError, match="unknown space 'proxylesnas_search'; did you mean proxylessnas_search"):
        tunas.get_space("proxylesnas_search")
    with pytest.raises(InputError, match="unknown space 'xyz'; known are proxylessnas_search, "):
        tunas.get_space("xyz")


SOURCE = """
from tunas.space import Block, Conv, OneOf, OP, Tower
number = 3
def mine():
    return Tower([Block([Conv(OneOf([3, 5], OP))], 8)])
"""


def test_a_function_in_a_file_is_a_space(names, tmp_path):
    (tmp_path / "my_spaces.py").write_text(SOURCE)
    space = tunas.get_space(f"{tmp_path}/my_spaces.py:mine")
    assert space.num_choices == 1
    assert tunas.get_space(f"{tmp_path}/my_spaces.py:mine") is space


def test_a_function_in_a_module_is_a_space(names, tmp_path, monkeypatch):
    (tmp_path / "spaces_of_a_module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert tunas.get_space("spaces_of_a_module:mine").sizes == (2,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{path}/nothing.py:mine", "there is no file"),
        ("{path}/my_spaces.py:other", "no attribute 'other'"),
        ("{path}/my_spaces.py:number", "number.: it is neither a function nor a Space"),
        ("{path}/my_spaces.py:", "no attribute ''"),
        ("no_such_module:mine", "No module named 'no_such_module'"),
        (":mine", "cannot load space ':mine'"),
        ("..a:mine", "cannot load space"),
    ],
)
def test_what_cannot_be_loaded_is_said(tmp_path, name, message):
    (tmp_path / "my_spaces.py").write_text(SOURCE)
    with pytest.raises(InputError, match=message):
        tunas.get_space(name.format(path=tmp_path))
