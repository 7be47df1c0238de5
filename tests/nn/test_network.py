"""Stand-alone networks: sizes, initial weights, endpoints, path dropout, odd towers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import tunas
from support.published import SEARCH_SPACES
from tunas import InputError, OneOf, Space
from tunas.nn import NetworkOptions
from tunas.nn.layers import ResidualLayer
from tunas.nn.ops import DepthwiseConv2d
from tunas.nn.profile import count_macs, count_parameters, layers_with_operations, operations_of
from tunas.space import (
    OP,
    RELU,
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

REFERENCES = (
    "mobilenet_v2",
    "mnasnet_b1",
    "proxylessnas_mobile",
    "mobilenet_v3_large",
    "mobilenet_multi_avg",
    "mobilenet_multi_max",
)


def reference(name):
    return tunas.get_space(name).architecture("")


def one_layer(*layers, width=16):
    """An architecture of a 16-wide stem and `layers`."""
    return Space("one", Tower([Block([Conv(3)], 16), Block(layers, width)])).architecture("")


def trainable(network):
    return sum(parameter.numel() for parameter in network.parameters())


def macs_by_hooks(network, image_size):
    """Multiply-accumulates counted where the convolutions run, from the shapes that really pass."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        k = module.kernel_size[0] * module.kernel_size[1]
        total += output.shape[1] * output.shape[2] * output.shape[3] * k * inputs[0].shape[1] // module.groups

    handles = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, image_size, image_size))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    ("name", "millions_of_parameters", "millions_of_macs"),
    [
        ("mobilenet_v2", 3.50, 300),
        ("mnasnet_b1", 4.38, 314),
        ("proxylessnas_mobile", 4.08, 320),
        ("mobilenet_v3_large", 5.48, 217),
    ],
)
def test_known_networks_have_their_known_sizes(name, millions_of_parameters, millions_of_macs):
    architecture = reference(name)
    assert count_parameters(architecture) / 1e6 == pytest.approx(millions_of_parameters, abs=0.005)
    macs = count_macs(architecture)
    network = tunas.build_network(architecture)
    assert trainable(network) == count_parameters(architecture)
    assert macs_by_hooks(network, 224) == macs
    assert macs / 1e6 == pytest.approx(millions_of_macs, abs=1.0)


@pytest.mark.parametrize("name", SEARCH_SPACES)
def test_sizes_counted_without_building_are_those_of_the_built_network(name):
    rng = np.random.default_rng(0)
    for size in (32, 65):
        architecture = tunas.get_space(name).sample(rng)
        network = tunas.build_network(architecture, num_classes=7)
        assert trainable(network) == count_parameters(architecture, num_classes=7)
        assert macs_by_hooks(network, size) == count_macs(architecture, num_classes=7, image_size=size)


def test_operations_are_listed_by_layer():
    architecture = one_layer(
        InvertedBottleneck(5, Times(3.0), se=True, stride=2), Residual(Zero()), GlobalAveragePool()
    )
    (_, stem), (path, bottleneck), (_, skipped), (_, pool) = layers_with_operations(architecture, image_size=9)
    assert path == "blocks/1/layers/0"
    assert [
        (op.kind, op.inputs, op.outputs, op.kernel, op.output_size) for op in [*stem, *bottleneck, *skipped, *pool]
    ] == [
        ("conv", 3, 16, 3, 9),
        ("expand", 16, 48, 1, 9),
        ("depthwise", 48, 48, 5, 5),
        ("se_reduce", 48, 16, 1, 1),
        ("se_expand", 16, 48, 1, 1),
        ("project", 48, 16, 1, 5),
        ("pool", 16, 16, 0, 1),
    ]
    assert operations_of(architecture, 10, 9)[-1].macs == 160


def test_what_follows_a_lone_zero_is_counted_at_the_blocks_width():
    architecture = one_layer(Zero(), width=24)
    network = tunas.build_network(architecture, num_classes=3)
    assert trainable(network) == count_parameters(architecture, num_classes=3)
    assert macs_by_hooks(network, 8) == count_macs(architecture, num_classes=3, image_size=8)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_runs_and_hands_out_ever_coarser_endpoints(name):
    network = tunas.build_network(reference(name), num_classes=4).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, 4)
        maps = network.endpoints(torch.randn(2, 3, 64, 64))
    assert isinstance(maps, list)
    strides = [64 // feature.shape[2] for feature in maps]
    assert strides == sorted(strides) and set(strides) == {2, 4, 8, 16, 32}


def test_an_endpoint_changes_nothing_and_hands_out_the_map_at_its_place():
    layers = [Conv(3, stride=2), RELU, Conv(1)]
    marked = [layers[0], DetectionEndpoint(), layers[1], DetectionEndpoint(), layers[2]]
    plain, network = (tunas.build_network(Tower([Block(some, 8)]), 2).eval() for some in (layers, marked))
    network.load_state_dict(dict(zip(network.state_dict(), plain.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))
        before, after = network.endpoints(x)
    assert before.min() < 0  # an activation that runs later must not have changed it in place
    assert torch.equal(after, before.relu())


def test_initial_weights_have_the_published_deviations():
    torch.manual_seed(0)
    network = tunas.build_network(reference("mobilenet_v3_large"))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            if name == "head.classifier":
                expected, beyond = 0.01, None
            elif isinstance(module, DepthwiseConv2d):
                expected, beyond = math.sqrt(2 / weight[0].numel()), None
            else:
                expected = math.sqrt(2 / weight[0].numel())
                beyond = 2 * expected / 0.8796  # where the normal is cut off
            error = 5 / math.sqrt(2 * weight.numel())
            assert weight.std().item() == pytest.approx(expected, rel=error), name
            assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel()), name
            if beyond is not None:
                assert weight.abs().max() <= beyond * 1.001, name
            if module.bias is not None:
                assert module.bias.eq(0).all(), name
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all() and module.bias.eq(0).all()
            assert (module.eps, module.momentum) == (1e-3, pytest.approx(0.01))


def test_path_dropout_drops_a_layer_for_the_whole_batch_and_keeps_its_expectation():
    architecture = one_layer(Conv(1), Residual(Conv(3)))
    network = tunas.build_network(architecture, 2, options=NetworkOptions(path_dropout_rate=0.25))
    layer = network.tower.blocks[1][1]
    x = torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        change = layer.layer(x)
        outputs = [layer(x) for _ in range(2000)]
        dropped = [torch.equal(output, x) for output in outputs]
        assert sum(dropped) / 2000 == pytest.approx(0.25, abs=0.05)
        kept = outputs[dropped.index(False)]
        torch.testing.assert_close(kept, x + change / 0.75)
        torch.testing.assert_close(sum(outputs) / 2000, x + change, atol=0.2, rtol=0)
        layer.eval()
        torch.testing.assert_close(layer(x), x + layer.layer(x))


def test_path_dropout_touches_only_skippable_layers():
    network = tunas.build_network(reference("mobilenet_v2"), 2, options=NetworkOptions(path_dropout_rate=1.0))
    rates = [module.path_dropout_rate for module in network.modules() if isinstance(module, ResidualLayer)]
    assert len(rates) == 15 and set(rates) == {1.0}
    assert network.train()(torch.randn(4, 3, 32, 32)).isfinite().all()


def test_dropout_is_before_the_classifier_and_only_in_training():
    network = tunas.build_network(one_layer(Conv(1)), 3, dropout_rate=1.0)
    x = torch.randn(2, 3, 8, 8)
    assert network.train()(x).eq(0).all()
    assert not network.eval()(x).eq(0).any()


@pytest.mark.parametrize("size", [7, 8, 9, 15, 16])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_pads_as_tensorflow_does(size, kernel, stride):
    """Output ceil(size/stride); the total padding is what is needed, its odd pixel at the bottom and right."""
    tower = Tower([Block([Conv(kernel, stride, batch_norm=False)], 8)])
    conv = tunas.build_network(tower, 2, options=NetworkOptions(same_padding=True)).tower.blocks[0][0].conv.conv
    x = torch.randn(1, 3, size, size)
    steps = -(-size // stride)
    needed = max((steps - 1) * stride + kernel - size, 0)
    padded = torch.zeros(1, 3, size + needed, size + needed)
    start = needed // 2
    padded[:, :, start : start + size, start : start + size] = x
    expected = nn.functional.conv2d(padded, conv.weight, conv.bias, stride)
    assert expected.shape[2] == steps
    torch.testing.assert_close(conv(x), expected)


def test_a_lone_zero_hands_on_zeros_of_the_blocks_width():
    network = tunas.build_network(one_layer(Zero(), width=24), 2)
    features, _ = network.tower(torch.randn(2, 3, 8, 8))
    assert features.shape == (2, 24, 8, 8) and features.eq(0).all()


def test_a_residual_zero_is_the_identity():
    network = tunas.build_network(one_layer(Conv(1), Residual(Zero())), 2)
    x = torch.randn(2, 16, 4, 4)
    assert network.tower.blocks[1][1](x) is x


@pytest.mark.parametrize(
    "layer", [Conv(1), SeparableConv(5, 2), InvertedBottleneck(3, Times(2.0)), OneOf((Conv(3), Zero()), OP)]
)
def test_an_open_choice_is_refused_with_its_path(layer):
    tower = Tower([Block([Conv(OneOf((3, 5), OP)), layer], 8)])
    with pytest.raises(InputError, match=r"still has \d choices?, the first at blocks/0/layers/0/kernel_size"):
        tunas.build_network(tower, 2)


def test_options_and_classes_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="num_classes must be at least 1, not 0"):
        tunas.build_network(reference("mobilenet_v2"), 0)
    with pytest.raises(InputError, match="gate is one of sigmoid, hard_sigmoid, not 'tanh'"):
        NetworkOptions(gate="tanh")


def test_relu6_option_clips_every_relu():
    tower = Tower([Block([Conv(1), RELU], 8)])
    network = tunas.build_network(tower, 2, options=NetworkOptions(relu6=True))
    assert network.tower.blocks[0][1](torch.tensor([-1.0, 3.0, 9.0])).tolist() == [0.0, 3.0, 6.0]


def test_building_does_not_depend_on_what_was_built_before():
    """Two networks never share parameters, even of equal layers."""
    layer = InvertedBottleneck(3, 16)
    network = tunas.build_network(one_layer(layer, Residual(layer), Residual(layer)), 2)
    weights = [parameter.data_ptr() for parameter in network.parameters()]
    assert len(set(weights)) == len(weights)
