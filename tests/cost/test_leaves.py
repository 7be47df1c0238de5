"""Costs of models of one's own: exact in tables, or refused with the name of the leaf."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tunas
from tunas import InputError, OneOf, Space
from tunas.cost import leaves
from tunas.cost.own import FunctionCost, counted_leaves
from tunas.cost.regression import SpaceFeatures
from tunas.nn import for_each_choice, ops
from tunas.nn.flat import flat_network
from tunas.nn.profile import count_macs, count_parameters
from tunas.space import ALL, FILTERS, OP, chosen


def widest(value):
    return max(value.choices) if isinstance(value, OneOf) else value


@dataclass(frozen=True)
class Net:
    widths: tuple[int | OneOf, ...]
    kernel: int | OneOf
    extra: bool | OneOf = False
    way: str = "chain"


class NetModule(nn.Module):
    """Convolutions over signals, an optional one, attention, and a classifier."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        sizes = [2, *map(widest, spec.widths)]
        self.convs = nn.ModuleList(
            for_each_choice(spec.kernel if number == 0 else 3, lambda k, i=i, o=o: Conv(i, o, k))
            for number, (i, o) in enumerate(itertools.pairwise(sizes))
        )
        self.extra = for_each_choice(spec.extra, lambda on: nn.Dropout(0.1) if on else None)
        self.head = ops.Linear(sum(sizes[1:]) if spec.way == "all" else sizes[-1], 3)

    def forward(self, x, indices=None):
        seen = []
        for conv, width in zip(self.convs, self.spec.widths, strict=True):
            x = torch.relu(conv(x, chosen(width, indices), indices))
            seen.append(x.mean(2))
        change = self.extra(x, indices)
        x = x if change is None else x + change
        return self.head(torch.cat(seen, 1) if self.spec.way == "all" else x.mean(2))


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.conv = ops.Conv1d(inputs, outputs, kernel, 2, bias=True)

    def forward(self, x, width, indices=None):
        return self.conv(x, width)


def space(way="chain", number=3, name="net"):
    widths = tuple(OneOf((4, 8, 12), FILTERS) for _ in range(number))
    structure = Net(widths, OneOf((3, 5), OP), OneOf((True, False), OP), way)
    return Space(name, structure, network=NetModule, example=lambda: torch.zeros(1, 2, 40))


SPACE = space()


def test_parameters_and_macs_are_those_of_the_network():
    models = {name: tunas.load_cost_model(name, SPACE) for name in ("params", "macs")}
    rng = np.random.default_rng(7)
    for _ in range(30):
        architecture = SPACE.sample(rng)
        network = tunas.build_network(architecture).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 2, 40))
        assert models["macs"].estimate(architecture) == counter.get_total_flops() / 2 == count_macs(architecture)
        parameters = sum(p.numel() for p in network.parameters())
        assert models["params"].estimate(architecture) == parameters == count_parameters(architecture)
    assert models["params"].unit == "parameters" and models["macs"].provenance["example"] == "[1, 2, 40]"


def test_each_leaf_has_the_choices_that_it_depends_on():
    found = counted_leaves(SPACE, SPACE.example())
    paths = {leaf: [SPACE.points[p].path for p in positions] for leaf, positions in found.positions.items()}
    assert paths["convs.0.conv"] == ["widths/0", "kernel"]
    assert paths["convs.2.conv"] == ["widths/1", "widths/2"]
    assert paths["head"] == ["widths/2"]
    assert all(len(found.entries[leaf]) == np.prod([SPACE.sizes[p] for p in found.positions[leaf]]) for leaf in paths)


def test_a_mixture_is_the_mean_over_the_choice():
    model = tunas.load_cost_model("macs", SPACE)
    rows = np.array([[1, 2, 0, choice, 0] for choice in (0, 1, ALL)])
    one, other, both = model.estimate(rows)
    assert both == (one + other) / 2


def test_a_leaf_that_depends_on_too_much_is_refused_by_its_name(monkeypatch):
    many = space("all", 4, "all")
    model = tunas.load_cost_model("macs", many)  # 81 entries are few enough
    architecture = many.sample(np.random.default_rng(0))
    assert model.estimate(architecture) == count_macs(architecture)
    monkeypatch.setattr(leaves, "LARGEST_TABLE", 50)
    with pytest.raises(InputError, match="head depends on widths/0, widths/1, widths/2, widths/3, which have 81 comb"):
        tunas.load_cost_model("macs", space("all", 4, "again"))


@dataclass(frozen=True)
class Hidden:
    """Only where both are 2 does the layer grow: varying one at a time around most networks shows nothing."""

    left: int | OneOf
    right: int | OneOf
    many: tuple[int | OneOf, ...]


class HiddenModule(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        values = (spec.left, spec.right, *spec.many)
        grows = any(isinstance(value, OneOf) for value in values) or sum(value == 2 for value in values) >= 4
        self.linear = ops.Linear(4, 6 if grows else 3)

    def forward(self, x, indices=None):
        return self.linear(x)


def test_what_varying_one_choice_did_not_show_is_found_by_checking():
    two = OneOf((1, 2), OP)
    hidden = Space("hidden", Hidden(two, two, (two,) * 4), network=HiddenModule, example=lambda: torch.zeros(1, 4))
    model = tunas.load_cost_model("params", hidden)
    rng = np.random.default_rng(1)
    rows = hidden.sample(rng, 64)
    expected = [count_parameters(hidden.architecture(row)) for row in rows.tolist()]
    assert model.estimate(rows).tolist() == expected and len(set(expected)) == 2


class Moody(HiddenModule):
    calls = 0

    def __init__(self, spec):
        super().__init__(spec)
        Moody.calls += 1
        self.more = ops.Linear(4, Moody.calls)


def test_a_network_that_is_different_each_time_is_refused(monkeypatch):
    monkeypatch.setattr(leaves, "LARGEST_TABLE", 100)
    two = OneOf((1, 2), OP)
    moody = Space("moody", Hidden(two, two, (two,) * 6), network=Moody, example=lambda: torch.zeros(1, 4))
    with pytest.raises(InputError, match=r"more (depends on|comes out different)"):
        tunas.load_cost_model("params", moody)


def test_what_cannot_be_counted_says_why():
    with pytest.raises(InputError, match=r"does not run on torch's meta device with inputs \[1, 3, 8, 8\]"):
        tunas.load_cost_model("macs", space(name="images"), example=torch.zeros(1, 3, 8, 8))
    bare = Space("bare", SPACE.structure, network=NetModule)
    with pytest.raises(InputError, match="counting or measuring bare takes an example of its inputs"):
        tunas.load_cost_model("macs", bare)
    assert tunas.load_cost_model("macs", bare, example=lambda: torch.zeros(1, 2, 40)).bias >= 0
    with pytest.raises(InputError, match="peak_memory is known of towers only, and net is a model of one's own"):
        tunas.load_cost_model("peak_memory", SPACE)


def test_the_physical_prior_is_made_of_the_same_counts():
    features = SpaceFeatures(SPACE, None, None)
    assert {"weights", "macs conv", "macs linear", "calls", "calls conv"} <= set(features.names)
    rows = SPACE.sample(np.random.default_rng(0), 10)
    weights = (features.picked(rows) @ features.amounts)[:, features.names.index("weights")]
    assert weights.tolist() == tunas.load_cost_model("params", SPACE).estimate(rows).tolist()
    assert not features.is_fine.any()


def test_a_function_can_price():
    def cost(indices):
        return indices[:, 0] * 2.0 + 1

    cost.unit = "dollars"
    model = tunas.load_cost_model(cost, SPACE)
    assert isinstance(model, FunctionCost) and model.unit == "dollars"
    assert model.estimate(SPACE.architecture([2, 0, 0, 1, 0])) == 5.0
    assert model.estimate(np.array([[1, 0, 0, 0, 0], [0, 0, 0, ALL, ALL]])).tolist() == [3.0, 1.0]
    kernel = tunas.load_cost_model(lambda indices: indices[:, 3].astype(float), SPACE)
    assert kernel.estimate(np.array([[0, 0, 0, ALL, 1]])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rows: 3.0, "must give 2 numbers for 2 architectures, not float64 of shape"),
        (lambda rows: rows, "not int64 of shape"),
        (lambda rows: np.array(["a", "b"]), "not <U1 of shape"),
        (lambda rows: np.array([1.0, np.nan]), "gives nan for architecture 0:0:0:0:0"),
    ],
)
def test_functions_that_give_no_costs_are_refused(function: Any, message: str):
    with pytest.raises(InputError, match=message):
        FunctionCost(SPACE, function).estimate(np.zeros((2, 5), int))


def test_a_function_is_named_like_a_space(tmp_path):
    (tmp_path / "mine.py").write_text("def cost(indices):\n    return indices.sum(1)\nnumber = 3\n")
    model = tunas.load_cost_model(f"{tmp_path}/mine.py:cost", SPACE)
    assert model.estimate(np.array([[1, 1, 0, 0, 1]])).tolist() == [3.0]
    with pytest.raises(InputError, match="it is no function but int"):
        tunas.load_cost_model(f"{tmp_path}/mine.py:number", SPACE)


def test_runtimes_get_one_tensor_per_input():
    class Both(nn.Module):
        def forward(self, inputs, indices=None):
            return inputs["a"] + inputs["b"][0]

    example = {"b": (torch.ones(1),), "a": torch.zeros(1)}
    network, tensors, names = flat_network(Both(), example)
    assert names == ("b_input0", "a") and float(network(*tensors)) == 1.0
    assert flat_network(Both(), torch.zeros(2))[2] == ("input",)
    with pytest.raises(InputError, match="input1 of this one is int"):
        flat_network(Both(), (torch.zeros(1), 3))
