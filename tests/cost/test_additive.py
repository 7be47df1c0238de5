"""Costs without a device are exact: the tables say what the built network has, does and keeps in memory."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tunas
from support.published import SEARCH_SPACES
from tunas import InputError, OneOf, Space, load_cost_model
from tunas.cost.additive import NAMED, flash, flash_int8, macs, named_cost, parameters, peak_memory
from tunas.cost.catalog import DEVICE_FREE
from tunas.cost.features import without_constant_axes
from tunas.nn.profile import count_macs, count_parameters
from tunas.space import (
    ALL,
    FILTERS,
    OP,
    RELU,
    Activation,
    Block,
    Conv,
    DetectionEndpoint,
    InvertedBottleneck,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
)

REFERENCES = ("mobilenet_v2", "mnasnet_b1", "mobilenet_v3_large", "mobilenet_multi_max")


def odd_space():
    """What the published spaces do not have: layers of different kinds to choose from, each with its own choices, a
    choice inside a choice, a lone Zero, a block that only hands on, and no pooling before the head."""
    expansion = OneOf((Times(1.0), Times(2.5), 40), FILTERS)
    bottleneck = InvertedBottleneck(OneOf((3, 5), OP), expansion, OneOf((False, True), OP), activation=RELU)
    either = OneOf((bottleneck, SeparableConv(OneOf((3, 7), OP)), OneOf((Conv(1), Zero()), OP)), OP)
    return Space(
        "odd",
        Tower(
            (
                Block((Conv(3, stride=2), Activation("swish6")), OneOf((8, 16), FILTERS)),
                Block((RELU, DetectionEndpoint()), OneOf((24, 32), FILTERS)),
                Block((Conv(OneOf((1, 3), OP), stride=2, batch_norm=False), Residual(either)), OneOf((8, 24), FILTERS)),
                Block((OneOf((Conv(3), Zero()), OP), bottleneck), 16),
                Block((OneOf((Activation("sigmoid"), RELU), OP), Conv(1)), OneOf((16, 8), FILTERS)),
            )
        ),
    )


def plain_space():
    """A choice of each kind, few enough to try all architectures."""
    bottleneck = InvertedBottleneck(
        OneOf((3, 5), OP), OneOf((Times(2.0), Times(3.0)), FILTERS), OneOf((False, True), OP), stride=2
    )
    skippable = Residual(OneOf((bottleneck.with_stride(1), Zero()), OP))
    return Space(
        "plain", Tower((Block((Conv(3, stride=2), RELU), 8), Block((bottleneck, skippable), OneOf((8, 24), FILTERS))))
    )


def spaces():
    return [odd_space(), plain_space(), *map(tunas.get_space, SEARCH_SPACES), *map(tunas.get_space, REFERENCES)]


def executed_macs(network, image):
    """Multiply-accumulates of the convolutions that really run."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        channels, kernel = module.in_channels // module.groups, module.kernel_size[0] * module.kernel_size[1]
        total += output.numel() * channels * kernel

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    network(image)
    return total


def storage_of(tensor):
    return tensor.untyped_storage().data_ptr()


class Tensors(TorchDispatchMode):
    """Writes down which tensors each executed operator reads and makes; batch norm and activations count as in
    place."""

    IN_PLACE = ("batch_norm", "relu", "relu_", "hardswish", "sigmoid", "dropout")

    def __init__(self, weights):
        super().__init__()
        self.weights = {storage_of(weight) for weight in weights}
        self.alive, self.same_as, self.events = [], {}, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        reads = [
            leaf
            for leaf in tree_leaves(args)
            if isinstance(leaf, torch.Tensor) and storage_of(leaf) not in self.weights
        ]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.alive += reads + made  # so that no identity is used twice
        if name == "new_zeros":
            reads = []  # only the shape
        if made and all(storage_of(tensor) in self.weights for tensor in made):
            return result  # a weight in another shape, or a part of one
        if name in self.IN_PLACE or func.is_view:
            self.same_as[id(made[0])] = self.root(reads[0])
        else:
            self.events.append((frozenset(map(self.root, reads)), frozenset(self.root(tensor) for tensor in made)))
        return result

    def root(self, tensor):
        return self.same_as.get(id(tensor), id(tensor))

    def peak_bytes(self):
        """Largest sum over operators of the sizes of the tensors made already and still to be read, or being made."""
        sizes = {id(tensor): tensor.numel() * 4 for tensor in self.alive}
        first, last = {}, {}
        for time, (reads, made) in enumerate(self.events):
            for tensor in reads | made:
                first.setdefault(tensor, time)
                last[tensor] = time
        return max(
            sum(sizes[tensor] for tensor in first if first[tensor] <= time <= last[tensor])
            for time in range(len(self.events))
        )


def executed_peak(network, image):
    with torch.inference_mode(), Tensors([*network.parameters(), *network.buffers()]) as tensors:
        network(image)
    return tensors.peak_bytes()


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_parameters_and_macs_are_those_that_the_profile_counts(space):
    model, work = parameters(space, num_classes=7), macs(space, image_size=60, num_classes=7)
    indices = space.sample(np.random.default_rng(0), 60)
    architectures = [space.architecture(row) for row in indices]
    assert model.estimate(indices).tolist() == [count_parameters(architecture, 7) for architecture in architectures]
    assert work.estimate(indices).tolist() == [count_macs(architecture, 7, 60) for architecture in architectures]
    assert (model.unit, work.unit) == ("parameters", "MACs")


@pytest.mark.parametrize(
    "space", [odd_space(), plain_space(), *map(tunas.get_space, SEARCH_SPACES)], ids=lambda space: space.name
)
def test_tables_equal_what_the_built_network_has_and_does(space):
    model, work = parameters(space, num_classes=5), macs(space, image_size=33, num_classes=5)
    rng = np.random.default_rng(1)
    for architecture in (space.sample(rng) for _ in range(3)):
        network = tunas.build_network(architecture, 5).eval()
        assert model.estimate(architecture) == sum(parameter.numel() for parameter in network.parameters())
        assert work.estimate(architecture) == executed_macs(network, torch.zeros(1, 3, 33, 33))


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_peak_memory_is_what_the_liveness_of_the_executed_network_gives(space):
    model = peak_memory(space, image_size=40, num_classes=9)
    rng = np.random.default_rng(2)
    for architecture in (space.sample(rng) for _ in range(8 if space.num_choices < 30 else 2)):
        network = tunas.build_network(architecture, 9).eval()
        assert model.estimate(architecture) == executed_peak(network, torch.zeros(1, 3, 40, 40))


def test_peak_memory_of_many_is_that_of_each():
    space = plain_space()
    model = peak_memory(space, 32, 4)
    everything = np.array(list(itertools.product(*map(range, space.sizes))))
    assert model.estimate(everything).tolist() == [model.estimate(space.architecture(row)) for row in everything]
    assert model.unit == "bytes"


@pytest.mark.parametrize("space", [odd_space(), plain_space()], ids=lambda space: space.name)
@pytest.mark.parametrize("count", [parameters, macs])
def test_all_choices_at_once_cost_the_mean_over_them(space, count):
    model = count(space)
    rng = np.random.default_rng(3)
    for _ in range(10):
        indices = list(space.sample(rng).indices)
        for position in rng.choice(space.num_choices, 3, replace=False):
            if space.points[position].oneof.tag == OP:
                indices[position] = ALL
        options = [range(size) if index == ALL else [index] for index, size in zip(indices, space.sizes, strict=True)]
        mean = np.mean([model.estimate(space.architecture(each)) for each in itertools.product(*options)])
        assert model.estimate(np.array([indices]))[0] == pytest.approx(mean, rel=1e-12)


def test_costs_are_found_by_name_and_carry_their_settings():
    space = plain_space()
    architecture = space.sample(np.random.default_rng(0))
    assert named_cost("params", space, 64, 3).estimate(architecture) == count_parameters(architecture, 3)
    assert named_cost("macs", space, 64, 3).estimate(architecture) == count_macs(architecture, 3, 64)
    assert named_cost("peak_memory", space, 64, 3).provenance["image_size"] == 64
    assert load_cost_model("macs", space, image_size=64, num_classes=3).estimate(architecture) == count_macs(
        architecture, 3, 64
    )
    assert tuple(NAMED) == DEVICE_FREE
    with pytest.raises(InputError, match="unknown cost 'flops'"):
        named_cost("flops", space)


def test_flash_is_what_the_weights_take_once_batch_norms_are_folded():
    from tunas.runtime import Conversion
    from tunas.runtime.onnx_file import onnx_bytes

    onnx = pytest.importorskip("onnx")
    space = tunas.get_space("mobilenet_v3_like_search")
    for number in range(3):
        architecture = space.sample(np.random.default_rng(number))
        network = tunas.build_network(architecture, 5).eval()
        folded = onnx.load_from_string(onnx_bytes(network, (torch.zeros(1, 3, 32, 32),), Conversion()))
        shipped = {i.name: i for i in folded.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
        numbers = {name: int(np.prod(i.dims)) for name, i in shipped.items()}
        convolutions = [node for node in folded.graph.node if node.op_type == "Conv"]
        assert flash(space, 5).estimate(architecture) == 4 * sum(
            numbers[name] if name in numbers else shared_size(folded, name, numbers)
            for node in convolutions
            for name in node.input[1:]
        )
        weights = sum(parameter.numel() for parameter in network.parameters() if parameter.dim() == 4)
        channels = sum(module.out_channels for module in network.modules() if isinstance(module, torch.nn.Conv2d))
        assert flash_int8(space, 5).estimate(architecture) == weights + 8 * channels


def shared_size(model, name, numbers):
    """Of a tensor that the file holds once and names twice."""
    (source,) = [node.input[0] for node in model.graph.node if node.op_type == "Identity" and node.output[0] == name]
    return numbers[source] if source in numbers else shared_size(model, source, numbers)


def test_int8_activations_take_a_quarter():
    space = odd_space()
    indices = space.sample(np.random.default_rng(0), 20)
    quarter = load_cost_model("peak_memory-int8", space, image_size=64)
    np.testing.assert_allclose(4 * quarter.estimate(indices), peak_memory(space, 64).estimate(indices))
    assert quarter.unit == "bytes" and load_cost_model("flash-int8", space).unit == "bytes"


def test_a_cost_table_is_read_back_as_it_was_written(tmp_path):
    space = odd_space()
    model = macs(space)
    model.save(tmp_path / "macs.json")
    indices = space.sample(np.random.default_rng(0), 50)
    assert load_cost_model(tmp_path / "macs.json", space).estimate(indices).tolist() == model.estimate(indices).tolist()


def test_only_axes_along_which_something_changes_are_kept():
    values = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    positions, kept = without_constant_axes((7, 4), values)
    assert positions == (4,) and kept.tolist() == [1.0, 2.0]
    assert without_constant_axes((7, 4), np.ones((3, 2)))[0] == ()
