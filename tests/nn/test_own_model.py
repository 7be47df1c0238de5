"""A model of one's own: any frozen structure, and a module built from it with and without choices."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tunas
from tunas import InputError, OneOf, Space, SuperNet
from tunas.nn import for_each_choice, ops
from tunas.nn.network import kernels
from tunas.space import ALL, FILTERS, OP, chosen, structure_from_json, structure_to_json


def widest(value):
    return max(value.choices) if isinstance(value, OneOf) else value


@dataclass(frozen=True)
class Mixer:
    heads: int | OneOf
    hidden: int | OneOf


@dataclass(frozen=True)
class Reader:
    """Reads a text and a picture: a dict of tensors comes in."""

    width: int | OneOf
    act: str | OneOf
    layers: tuple[Any, ...]


class MixerModule(nn.Module):
    def __init__(self, spec, width):
        super().__init__()
        self.spec = spec
        self.norm = ops.LayerNorm(width)
        self.attention = ops.MultiheadAttention(width, widest(spec.heads), 4)
        self.up, self.down = ops.Linear(width, widest(spec.hidden)), ops.Linear(widest(spec.hidden), width)

    def forward(self, x, indices=None):
        x = x + self.attention(self.norm(x), chosen(self.spec.heads, indices), x.shape[-1])
        return self.down(self.up(x, chosen(self.spec.hidden, indices)), x.shape[-1])


class ReaderModule(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        width = widest(spec.width)
        self.words = ops.Embedding(11, width)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.picture = ops.Conv1d(8, width, 1, bias=True)
        self.act = for_each_choice(spec.act, lambda name: {"gelu": nn.GELU, "tanh": nn.Tanh}[name]())
        self.layers = nn.ModuleList(
            for_each_choice(layer, lambda spec: None if spec is None else MixerModule(spec, width))
            for layer in spec.layers
        )
        self.head = ops.Linear(width, 3)

    def forward(self, inputs, indices=None):
        width = chosen(self.spec.width, indices)
        picture = self.picture(self.backbone(inputs["picture"]).flatten(2), width).transpose(1, 2)
        x = self.act(torch.cat([self.words(inputs["text"], width), picture], 1), indices)
        for layer in self.layers:
            change = layer(x, indices)
            x = x if change is None else x + change
        return self.head(x.mean(1))


def reader():
    mixer = Mixer(OneOf((1, 2), FILTERS), OneOf((6, 10), FILTERS))
    layers = (mixer, OneOf((mixer, None), OP), OneOf((mixer, None), OP))
    return Reader(OneOf((8, 16), FILTERS), OneOf(("gelu", "tanh"), OP), layers)


SPACE = Space("reader", reader(), network=ReaderModule)


def inputs(batch=4):
    generator = torch.Generator().manual_seed(5)
    return {
        "text": torch.randint(11, (batch, 6), generator=generator),
        "picture": torch.randn(batch, 3, 9, 9, generator=generator, dtype=torch.float64),
    }


@pytest.fixture
def supernet():
    return SuperNet(SPACE).double()


def test_choices_are_numbered_in_the_order_of_the_walk():
    paths = [point.path for point in SPACE.points]
    assert paths[:4] == ["width", "act", "layers/0/heads", "layers/0/hidden"]
    assert paths[-1] == "layers/2" and SPACE.num_choices == 10
    assert SPACE.count_distinct() == 2 * 2 * 4 * (4 + 1) ** 2
    assert {paths[position]: index for position, index in SPACE.widest_indices.items()} == {
        path: 1 for path in paths if path == "width" or path.endswith(("heads", "hidden"))
    }


def test_every_architecture_computes_what_its_own_network_computes(supernet):
    rng = np.random.default_rng(0)
    for architecture in [SPACE.sample(rng) for _ in range(10)]:
        alone = supernet.extract(architecture).train()
        shared_output, alone_output = supernet(inputs(), architecture), alone(inputs())
        torch.testing.assert_close(shared_output, alone_output, atol=1e-12, rtol=1e-12)
        supernet.zero_grad()
        shared_output.square().sum().backward()
        alone_output.square().sum().backward()
        total = sum(p.grad.abs().sum() for p in supernet.parameters() if p.grad is not None)
        torch.testing.assert_close(total, sum(p.grad.abs().sum() for p in alone.parameters() if p.grad is not None))


def test_everything_at_once_is_the_mean(supernet):
    indices = [0] * SPACE.num_choices
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    act = supernet.network.act
    both = act(x, [ALL if position == 1 else 0 for position in range(SPACE.num_choices)])
    torch.testing.assert_close(both, (F.gelu(x) + torch.tanh(x)) / 2)
    half = supernet.network.layers[1](x, [*indices[:-4], ALL, *indices[-3:]])
    torch.testing.assert_close(half, supernet.network.layers[1](x, indices) / 2)


def test_l2_counts_the_kernels_in_use_of_sliceable_and_plain_modules(supernet):
    skip_both = [0, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    supernet(inputs(), skip_both)
    shapes = [tuple(kernel.shape) for kernel in supernet.used.kernels]
    assert shapes == [(8, 3, 3, 3), (8, 8, 1), (12, 8), (8, 4), (6, 8), (8, 6), (3, 8)]
    assert len(kernels(supernet.extract(SPACE.architecture(skip_both)))) == len(shapes)
    supernet.network.backbone.requires_grad_(False)  # frozen weights do not decay
    supernet(inputs(), skip_both)
    assert [tuple(kernel.shape) for kernel in supernet.used.kernels] == shapes[1:]


def test_the_flat_layout_trains_shared_and_plain_modules(supernet):
    flat = supernet.flatten()
    backbone = supernet.network.backbone[0].weight.detach().clone()
    optimizer = torch.optim.Adam([flat], lr=0.01)
    rng = np.random.default_rng(1)
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    losses = []
    for _ in range(30):
        flat.grad.zero_()
        loss = F.mse_loss(supernet(inputs(), SPACE.sample(rng)), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert not torch.equal(backbone, supernet.network.backbone[0].weight)


def test_batch_norm_of_a_plain_module_has_no_state_in_the_supernet(supernet):
    norm = supernet.network.backbone[1]
    indices = [0] * SPACE.num_choices
    assert norm.running_mean is None and not dict(supernet.named_buffers())
    assert torch.equal(supernet.train()(inputs(), indices), supernet.eval()(inputs(), indices))
    assert supernet.extract(SPACE.architecture(indices)).backbone[1].running_mean is not None


def test_it_is_written_and_read_back():
    assert structure_from_json(structure_to_json(SPACE.structure)) == SPACE.structure
    architecture = SPACE.sample(np.random.default_rng(3))
    assert structure_from_json(structure_to_json(architecture.structure)) == architecture.structure
    text = structure_to_json(SPACE.structure).replace('"Reader"', '"NoReader"').replace('"Mixer"', '"NoMixer"')
    with pytest.raises(InputError, match=r"unknown type '(NoReader|NoMixer)'"):
        structure_from_json(text)
    other = Space("unheard", structure_from_json(text, stand_ins=True))
    assert [point.path for point in other.points] == [point.path for point in SPACE.points]


def test_a_tuple_is_a_structure_too():
    structure = ((OneOf((8, 16), FILTERS), (3, 5)), Mixer(1, 6), None)
    assert structure_from_json(structure_to_json(structure)) == structure
    assert Space("pair", structure).num_choices == 1
    chosen = ((8, (3, 5, None)), 2)  # as one is once everything is chosen
    assert structure_from_json(structure_to_json(chosen)) == chosen
    with pytest.raises(InputError, match="model must be a Tower, not tuple"):
        structure_from_json(structure_to_json(()))


def test_an_architecture_of_it_prints_its_fields():
    assert str(SPACE.architecture([0] * 10)).splitlines() == [
        "reader  0:0:0:0:0:0:0:0:0:0",
        "Reader",
        "  width: 8",
        "  act: gelu",
        "  layers: (Mixer(heads 1, hidden 6), Mixer(heads 1, hidden 6), Mixer(heads 1, hidden 6))",
    ]


@dataclass
class Thawed:
    width: int


@dataclass(frozen=True)
class Holder:
    part: Any


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (None, "space 's' must be a Tower, or another frozen dataclass or tuple, not NoneType"),
        (Holder({"a": 1}), "s: part holds a dict, which cannot be hashed: a structure consists of numbers"),
        (Holder((1, np.zeros(2))), "s: part/1 holds a ndarray, which cannot be hashed"),
        (Holder(torch.relu), "s: part holds a builtin_function_or_method: a structure consists of"),
        (Holder(Thawed(3)), "s: part holds a Thawed, which must be frozen"),
        (Holder(OneOf(("a", "b"), FILTERS)), "s: part: the choices of a OneOf tagged FILTERS are positive numbers"),
        (Holder((Holder(1), dataclasses.make_dataclass("Holder", ["x"], frozen=True)(1))), "two classes named Holder"),
    ],
)
def test_structures_that_cannot_be_searched_are_refused(structure, message):
    with pytest.raises(InputError) as error:
        Space("s", structure)
    assert message in str(error.value)


class Deaf(nn.Module):
    """Takes the first choice, whatever is asked for."""

    def __init__(self, spec):
        super().__init__()
        self.linear = ops.Linear(4, widest(spec.part))

    def forward(self, x, indices=None):
        return self.linear(x)


class Rigid(nn.Module):
    """Cannot be built with a choice."""

    def __init__(self, spec):
        super().__init__()
        self.linear = nn.Linear(4, spec.part)


class Uneven(nn.Module):
    """Calls its part otherwise where there is a choice."""

    def __init__(self, spec):
        super().__init__()
        setattr(self, "many" if isinstance(spec.part, OneOf) else "one", ops.Linear(4, widest(spec.part)))
        self.part = spec.part

    def forward(self, x, indices=None):
        return self.many(x, chosen(self.part, indices))


def test_a_module_without_a_place_for_a_choice_is_named():
    structure = Holder(OneOf((2, 3), FILTERS))
    deaf = SuperNet(Space("s", structure, network=Deaf))
    with pytest.raises(InputError, match="Deaf has no place for the choice part of s: it never asks which of its 2"):
        for _ in range(3):
            deaf(torch.zeros(1, 4), [0])
    with pytest.raises(InputError, match="Rigid has no place for some choice of s: it can be built for an architect"):
        SuperNet(Space("s", structure, network=Rigid))
    uneven = SuperNet(Space("s", structure, network=Uneven))
    with pytest.raises(InputError, match=r"Uneven.one of the stand-alone network has no counterpart"):
        uneven.extract(uneven.space.architecture([0]))
    with pytest.raises(InputError, match="nothing says which module is built from it"):
        SuperNet(Space("s", structure))
    with pytest.raises(InputError, match="must be a torch module, not int"):
        SuperNet(Space("s", structure, network=lambda spec: 3))
    with pytest.raises(InputError, match="rematerialize recomputes the layers of a tower"):
        SuperNet(Space("s", structure, network=Deaf), rematerialize=True)


def test_a_name_that_is_taken_is_refused():
    tunas.register_space("reader_here", reader, network=ReaderModule)
    tunas.register_space("reader_here", reader, network=ReaderModule)  # as when a cell runs twice

    def elsewhere():
        return reader()

    elsewhere.__module__ = "elsewhere"
    with pytest.raises(InputError, match="'reader_here' is the name of a space of test_own_model already"):
        tunas.register_space("reader_here", elsewhere, network=ReaderModule)


def test_a_file_names_a_space_with_its_network(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\nimport tunas\nfrom torch import nn\n"
        "from tunas.nn import ops\nfrom tunas.space import FILTERS, OneOf, chosen\n"
        "@dataclass(frozen=True)\nclass Line:\n    width: int | OneOf\n"
        "class LineModule(nn.Module):\n"
        "    def __init__(self, spec):\n"
        "        super().__init__()\n"
        "        self.width = spec.width\n"
        "        self.linear = ops.Linear(4, 8)\n"
        "    def forward(self, x, indices=None):\n"
        "        return self.linear(x, chosen(self.width, indices))\n"
        "def line():\n    return Line(OneOf((4, 8), FILTERS))\n"
        "space = tunas.register_space('line', line, network=LineModule)\n"
    )
    name = f"{tmp_path}/mine.py:space"
    space = tunas.get_space(name)
    assert space.name == name and space.num_choices == 1
    assert SuperNet(space)(torch.zeros(2, 4), [0]).shape == (2, 4)
    assert type(tunas.get_space("line").structure) is type(space.structure)  # the file has been run once
    with pytest.raises(InputError, match="nothing says which module is built from it"):
        tunas.get_space(f"{tmp_path}/mine.py:line")
