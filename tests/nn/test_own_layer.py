"""A layer of one's own stands beside ours with no other line than its registration."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tunas
from tunas import InputError, OneOf, Space, SuperNet
from tunas.cost.additive import macs, parameters, peak_memory
from tunas.cost.regression import SpaceFeatures
from tunas.nn import for_each_choice, ops
from tunas.nn.checks import check_layer
from tunas.nn.operations import Operation
from tunas.nn.profile import count_macs, count_parameters
from tunas.space import (
    FILTERS,
    KERNEL_SIZE,
    OP,
    RELU,
    WIDTH,
    Block,
    Conv,
    GlobalAveragePool,
    Residual,
    Tower,
    Zero,
    chosen,
    structure_from_json,
    structure_to_json,
)
from tunas.space.describe import tower_rows, tower_tree
from tunas.space.layers import scale_filters


@dataclass(frozen=True)
class GhostConv:
    """A convolution to `inner` channels, and to the block's width from there by a depthwise one."""

    kernel: int | OneOf = field(metadata=KERNEL_SIZE)
    inner: int | OneOf = field(metadata=WIDTH)
    squared: bool | OneOf = False
    stride: int = 1


@tunas.register_layer(GhostConv)
class GhostConvLayer(nn.Module):
    def __init__(self, spec, inputs, outputs, options):
        super().__init__()
        self.spec = spec
        widest = max(spec.inner.choices) if isinstance(spec.inner, OneOf) else spec.inner
        self.inner = ops.Conv2d(inputs, widest, 1, spec.stride)
        self.norm = options.norm(widest)
        self.depthwise = for_each_choice(spec.kernel, lambda kernel: ops.DepthwiseConv2d(widest, kernel))
        self.act = for_each_choice(spec.squared, lambda squared: Squared() if squared else nn.ReLU())
        self.project = ops.Conv2d(widest, outputs, 1, bias=True)

    def forward(self, x, width=None, indices=None):
        x = self.norm(self.inner(x, chosen(self.spec.inner, indices)))
        return self.project(self.act(self.depthwise(x, indices), indices), width)

    @staticmethod
    def operations(spec, inputs, outputs, size, base):
        inner = Operation.conv("inner", inputs, spec.inner, 1, spec.stride, size, norm=True)
        size = inner.output_size
        return [
            inner,
            Operation.conv("depthwise", spec.inner, spec.inner, spec.kernel, 1, size, groups=spec.inner),
            Operation.conv("project", spec.inner, outputs, 1, 1, size, bias=True),
        ]


class Squared(nn.Module):
    def forward(self, x):
        return x.square()


def tower():
    ghost = GhostConv(OneOf((3, 5), OP), OneOf((8, 16), FILTERS), OneOf((False, True), OP))
    first = dataclasses.replace(ghost, stride=2)
    skippable = Residual(OneOf((ghost, Zero()), OP))
    blocks = [
        Block([Conv(3, 2), RELU], 8),
        Block([first, skippable], OneOf((8, 16), FILTERS)),
        Block([Conv(1), GlobalAveragePool()], 16),
    ]
    return Tower(blocks)


SPACE = Space("ghostly", tower())


def test_it_is_searched_and_extracted():
    supernet = SuperNet(SPACE, 5).double()
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for _ in range(8):
        architecture = SPACE.sample(rng)
        alone = supernet.extract(architecture).train()
        torch.testing.assert_close(supernet(x, architecture), alone(x), atol=1e-10, rtol=1e-10)
        assert sum(p.numel() for p in alone.parameters()) == count_parameters(architecture, 5)


def test_its_costs_are_counted_and_tabulated():
    indices = SPACE.sample(np.random.default_rng(1), 20)
    found = macs(SPACE, 32, 5).estimate(indices), parameters(SPACE, 5).estimate(indices)
    for row, of_macs, of_parameters in zip(indices, *found, strict=True):
        architecture = SPACE.architecture(row.tolist())
        assert (of_macs, of_parameters) == (count_macs(architecture, 5, 32), count_parameters(architecture, 5))
    assert peak_memory(SPACE, 32, 5).estimate(indices).min() > 0
    features = SpaceFeatures(SPACE, 32, 5)
    assert "macs depthwise" in features.names and features.active.any()


def test_it_is_written_read_scaled_and_shown():
    assert structure_from_json(structure_to_json(SPACE.tower)) == SPACE.tower
    architecture = SPACE.architecture([1, 1, 1, 0, 0, 0, 1, 1])
    assert scale_filters(architecture.tower, 2.0).blocks[1].layers[0].inner == 32
    assert "GhostConv(kernel [0]{3 | 5}, inner [1]{8 | 16}, squared [2]{False | True}, stride 2)" in tower_tree(
        "", SPACE.tower
    )
    rows = tower_rows(architecture.tower)
    assert rows[2] == ("1", "0", "GhostConv(inner 16, squared True)", "5×5", "2", "", "", "16")
    assert rows[3][2] == "skip"


def test_its_runs_can_be_looked_at_where_its_code_is_not():
    text = structure_to_json(SPACE.tower).replace('"GhostConv"', '"Unheard"')
    with pytest.raises(InputError, match="unknown type 'Unheard'; known are"):
        structure_from_json(text)
    elsewhere = Space("elsewhere", structure_from_json(text, stand_ins=True))
    assert [point.oneof.tag for point in elsewhere.points] == [point.oneof.tag for point in SPACE.points]
    assert "Unheard(kernel 5, inner 16" in str(elsewhere.architecture([1] * SPACE.num_choices))


def test_its_fields_are_checked():
    def refusal(layer):
        with pytest.raises(InputError) as error:
            Space("s", Tower([Block([Conv(1), layer], 8)]))
        return str(error.value).removeprefix("s: blocks/0/layers/1")

    assert refusal(GhostConv(4, 8)) == "/kernel: a kernel size is an odd positive integer, not 4"
    assert refusal(GhostConv(3, OneOf((8, 16), OP))) == "/inner: a choice here must be tagged FILTERS"
    assert refusal(GhostConv(3, 8, stride=3)) == "/stride: the stride must be 1 or 2, not 3"
    assert "must have stride 1, not 2" in refusal(Residual(GhostConv(3, 8, stride=2)))
    assert refusal(GhostConv(3, 8, OneOf(("a", "b"), FILTERS))) == (
        "/squared: a width is Times(positive number) or a positive integer, not 'a'"
    )


def test_what_it_says_of_itself_is_checked():
    check_layer(GhostConv(OneOf((3, 5), OP), OneOf((8, 16), FILTERS), OneOf((False, True), OP), 2))
    for ours in (*tower().blocks[0].layers, *tower().blocks[2].layers, Residual(Conv(3))):
        check_layer(ours)


@dataclass(frozen=True)
class Boast:
    kind: str


@tunas.register_layer(Boast)
class BoastLayer(nn.Module):
    def __init__(self, spec, inputs, outputs, options):
        super().__init__()
        self.conv = ops.Conv2d(inputs, outputs, 3 if spec.kind == "wide" else 1, bias=spec.kind == "bias")
        self.shrinks = spec.kind == "small"

    def forward(self, x, width=None, indices=None):
        x = self.conv(x, width)
        return x[:, :, 1:, 1:] if self.shrinks else x

    @staticmethod
    def operations(spec, inputs, outputs, size, base):
        return [Operation.conv("conv", inputs, outputs, 1, 1, size)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bias", r"operations of Boast\(kind='bias'\) say 384 parameters, its module has 408"),
        ("wide", r"operations of Boast\(kind='wide'\) say 384 parameters, its module has 3,456"),
        ("small", r"gives \[1, 24, 13, 13\], where the tower and its operations expect \[1, 24, 14, 14\]"),
    ],
)
def test_operations_that_disagree_with_the_module_are_refused(kind, message):
    check_layer(Boast("right"))
    with pytest.raises(InputError, match=message):
        check_layer(Boast(kind))


@dataclass(frozen=True)
class Rigid:
    kernel: int | OneOf


@tunas.register_layer(Rigid)
class RigidLayer(nn.Module):
    def __init__(self, spec, inputs, outputs, options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, spec.kernel, padding=spec.kernel // 2)

    def forward(self, x, width=None, indices=None):
        return self.conv(x)

    @staticmethod
    def operations(spec, inputs, outputs, size, base):
        return [Operation.conv("conv", inputs, outputs, spec.kernel, 1, size, bias=True)]


def test_a_module_without_a_place_for_a_choice_is_named():
    with pytest.raises(InputError, match="RigidLayer has no place for the choice 'kernel' of Rigid"):
        SuperNet(Space("s", Tower([Block([Rigid(OneOf((3, 5), OP))], 8)])), 2)
    check_layer(Rigid(3))


def described(name="Other", **more):
    return dataclasses.make_dataclass(name, ["kernel"], frozen=True, **more)


@pytest.mark.parametrize(
    ("description", "module", "message"),
    [
        (3, RigidLayer, "a layer is described by a frozen dataclass, unlike 3"),
        (dataclasses.make_dataclass("Soft", ["kernel"]), RigidLayer, "Soft describes a layer and must be frozen"),
        (described("Conv"), RigidLayer, "there is a layer Conv already, tunas.space.layers.Conv"),
        (described("Tower"), RigidLayer, "Tower is no layer's name"),
        (described(), nn.Identity, r"Identity, the module of Other, has no operations\(…\)"),
    ],
)
def test_registrations_that_cannot_be_are_refused(description: Any, module: Any, message: str):
    with pytest.raises(InputError, match=message):
        tunas.register_layer(description)(module)
    assert "Other" not in json.loads(structure_to_json(SPACE.tower))


def test_a_layer_that_is_defined_again_takes_the_place_of_the_first():
    first, second = (dataclasses.make_dataclass("Cell", ["kernel"], frozen=True) for _ in range(2))
    for description in (first, second):
        tunas.register_layer(description)(RigidLayer)
    assert Space("s", Tower([Block([second(3)], 8)])).num_choices == 0
    with pytest.raises(InputError, match=r"unknown layer Cell\(kernel=3\)"):
        Space("s", Tower([Block([first(3)], 8)]))
