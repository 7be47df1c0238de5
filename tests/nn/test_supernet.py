"""The weight-shared network against a masked computation written by another hand, and against extracted networks."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import tunas
from support.masked_oracle import masked_logits
from support.published import SEARCH_SPACES
from support.supernets import (
    CLASSES,
    bneck,
    images,
    outputs_and_gradients,
    random_indices,
    scattered,
    shared_weights,
    tiny_space,
)
from tunas import InputError, OneOf, Space, SuperNet
from tunas.nn.ops import BatchNorm2d, Conv2d, DepthwiseConv2d
from tunas.space import (
    ALL,
    FILTERS,
    OP,
    RELU,
    SWISH6,
    Block,
    Conv,
    GlobalAveragePool,
    Residual,
    SeparableConv,
    Times,
    Tower,
    Zero,
)


def assert_alike(found, expected, tolerance):
    torch.testing.assert_close(found[0], expected[0], atol=tolerance, rtol=tolerance)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][name], gradient, atol=tolerance, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


CASES = [(name, seed, mixture) for name in SEARCH_SPACES for seed, mixture in [(0, False), (1, False), (2, True)]]
CASES += [("tiny", seed, seed >= 6) for seed in range(12)]


@pytest.mark.parametrize(("name", "seed", "mixture"), CASES)
def test_outputs_and_gradients_are_those_of_the_masked_computation(name, seed, mixture):
    supernet, x = shared_weights(name), images()
    indices = random_indices(supernet.space, seed, mixture)
    found = outputs_and_gradients(supernet, lambda: supernet(x, indices))
    expected = outputs_and_gradients(
        supernet, lambda: masked_logits(supernet.space, dict(supernet.named_parameters()), x, indices)
    )
    assert found[0].std() > 1e-4
    assert_alike(found, expected, tolerance=1e-8)


@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name in (*SEARCH_SPACES, "tiny", "tiny apart") for seed in (10, 11)]
)
def test_the_extracted_network_is_the_same_network(name, seed):
    """Outputs in train mode and gradients; every gradient outside the slices in use is exactly zero."""
    supernet, x = shared_weights(name), images()
    architecture = supernet.space.sample(np.random.default_rng(seed))
    network = supernet.extract(architecture).train()
    found = outputs_and_gradients(supernet, lambda: supernet(x, architecture))
    expected = outputs_and_gradients(network, lambda: network(x))
    torch.testing.assert_close(found[0], expected[0], atol=1e-10, rtol=1e-10)

    gradients = copy.deepcopy(supernet)  # with gradients for weights, so that extraction cuts the slices out of them
    with torch.no_grad():
        for parameter, gradient in zip(gradients.parameters(), found[1].values(), strict=True):
            parameter.copy_(gradient)
    for (name, sliced), gradient in zip(
        gradients.extract(architecture).named_parameters(), expected[1].values(), strict=True
    ):
        torch.testing.assert_close(
            sliced.detach(), gradient, atol=1e-9, rtol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    total = sum(gradient.abs().sum() for gradient in found[1].values())
    used = sum(parameter.abs().sum() for parameter in gradients.extract(architecture).parameters())
    torch.testing.assert_close(total, used.detach(), rtol=1e-12, atol=0)


def bottleneck_alone(**options):
    """A supernet of one bottleneck: kernel, expansion, squeeze-and-excite; then a width."""
    choice = bneck(OneOf((3, 5), OP), OneOf((8, 16), FILTERS), se=OneOf((False, True), OP))
    space = Space("one", Tower([Block([choice, GlobalAveragePool()], OneOf((8, 16), FILTERS))]))
    torch.manual_seed(0)
    return scattered(SuperNet(space, CLASSES, **options).double())


def test_without_aggressive_sharing_each_combination_in_a_bottleneck_has_weights_of_its_own():
    apart, together, x = bottleneck_alone(aggressive_sharing=False), bottleneck_alone(), images(size=8)

    def used(supernet, indices):
        _, gradients = outputs_and_gradients(supernet, lambda: supernet(x, indices))
        return {name for name, gradient in gradients.items() if gradient.any() and not name.startswith("head")}

    combinations = list(itertools.product(range(2), repeat=3))
    inside = [used(apart, [*combination, 1]) for combination in combinations]
    assert sum(map(len, inside)) == len(set().union(*inside)) and min(map(len, inside)) >= 9
    assert all(used(apart, [*combination, 0]) == own for combination, own in zip(combinations, inside, strict=True))
    assert used(together, [0, 0, 0, 1]) & used(together, [1, 1, 1, 1])
    with torch.no_grad():  # everything on: the mean over kernels and squeeze-and-excite, of the widest expansion
        each = [apart.tower(x, [kernel, 1, se, 1])[0] for kernel in (0, 1) for se in (0, 1)]
        torch.testing.assert_close(apart.tower(x, [ALL, 1, ALL, 1])[0], torch.stack(each).mean(0))


@pytest.mark.parametrize("name", [*SEARCH_SPACES, "tiny"])
def test_outputs_and_gradients_are_those_of_the_masked_computation_in_float32_too(name):
    """To 1e-5; the masked computation's own rounding through some fifty batch norms of eight values comes to twice
    that."""
    supernet = copy.deepcopy(shared_weights(name)).float()
    x = images(batch=8, dtype=torch.float32)
    architecture = supernet.space.sample(np.random.default_rng(20))
    network = supernet.extract(architecture).train()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    with torch.no_grad():
        found = supernet(x, architecture)
        torch.testing.assert_close(network(x), found, atol=1e-5, rtol=1e-5)
        masked = masked_logits(supernet.space, dict(supernet.named_parameters()), x, architecture.indices)
        torch.testing.assert_close(masked, found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "mixture"),
    [("tiny", False), ("tiny", True), ("proxylessnas_search", False), ("mobilenet_v3_like_search", True)],
)
def test_recomputation_changes_neither_outputs_nor_gradients_nor_l2(name, mixture):
    plain = shared_weights(name)
    frugal = SuperNet(plain.space, CLASSES, rematerialize=True).double()
    frugal.load_state_dict(plain.state_dict())
    indices, x = random_indices(plain.space, 30, mixture), images()

    def with_l2(network):
        return outputs_and_gradients(network, lambda: network(x, indices) + 1e-3 * network.l2())

    expected, found = with_l2(plain), with_l2(frugal)
    assert torch.equal(found[0], expected[0])
    for key in expected[1]:
        torch.testing.assert_close(found[1][key], expected[1][key], atol=1e-12, rtol=1e-12)


class TestEveryOperationAtOnce:
    """docs/algorithm.md#warmups, op warmup: the mean of the choices' outputs."""

    def supernet(self, *layers, width=16):
        space = Space("mixture", Tower([Block([Conv(3, stride=2)], 16), Block(layers, width)]))
        return scattered(SuperNet(space, CLASSES).double())

    def features(self, supernet, *indices):
        with torch.no_grad():
            return supernet.tower(images(), list(indices))[0]

    def assert_mean(self, supernet, everything, *each):
        parts = [self.features(supernet, *indices) for indices in each]
        assert not torch.equal(parts[0], parts[-1])
        torch.testing.assert_close(self.features(supernet, *everything), sum(parts) / len(parts))

    def test_is_the_mean_of_layers(self):
        supernet = self.supernet(OneOf((Conv(3), SeparableConv(5), bneck()), OP))
        self.assert_mean(supernet, [ALL], [0], [1], [2])

    def test_counts_zero_as_zeros(self):
        supernet = self.supernet(OneOf((Conv(3), Zero()), OP))
        assert self.features(supernet, 1).eq(0).all()
        self.assert_mean(supernet, [ALL], [0], [1])

    def test_adds_half_of_a_skippable_layer(self):
        supernet = self.supernet(Conv(1), Residual(OneOf((bneck(), Zero()), OP)))
        skipped, taken = self.features(supernet, 1), self.features(supernet, 0)
        torch.testing.assert_close(self.features(supernet, ALL), skipped + (taken - skipped) / 2)

    def test_weights_nested_choices_by_their_place(self):
        nested = OneOf((Conv(3), OneOf((Conv(1), SeparableConv(3), Zero()), OP)), OP)
        supernet = self.supernet(nested)
        conv, *inner = (self.features(supernet, *indices) for indices in ((0, 0), (0, 1), (1, 1), (2, 1)))
        torch.testing.assert_close(self.features(supernet, ALL, ALL), conv / 2 + sum(inner) / 6)
        torch.testing.assert_close(self.features(supernet, 1, ALL), (conv + inner[1]) / 2)
        torch.testing.assert_close(self.features(supernet, ALL, 1), sum(inner) / 3)

    def test_of_nothing_but_zero_is_zero(self):
        supernet = self.supernet(OneOf((Zero(), Zero()), OP), width=24)
        for index in (0, 1, ALL):
            found = self.features(supernet, index)
            assert found.shape == (4, 24, 16, 16) and found.eq(0).all()

    def test_takes_a_kernel_size_after_its_own_norm_and_activation(self):
        supernet = self.supernet(SeparableConv(OneOf((3, 5, 7), OP), activation=SWISH6))
        layer = supernet.tower.blocks[1][0]
        with torch.no_grad():
            stem = supernet.tower.blocks[0][0](images(), None, [ALL])
            each = [choice(stem) for choice in layer.depthwise.choices]
            assert len({id(choice.norm) for choice in layer.depthwise.choices}) == 3
            expected = layer.pointwise(sum(each) / 3)
        torch.testing.assert_close(self.features(supernet, ALL), expected)

    def test_takes_the_mean_of_with_and_without_squeeze_and_excite(self):
        supernet = self.supernet(bneck(se=OneOf((False, True), OP)))
        layer = supernet.tower.blocks[1][0]
        with torch.no_grad():
            x = layer.depthwise(layer.expand(supernet.tower.blocks[0][0](images(), None, [ALL])))
            squeeze = layer.se.choices[1]
            gate = torch.sigmoid(squeeze.expand(torch.relu(squeeze.reduce(x.mean((2, 3), keepdim=True)))))
            expected = layer.project((x + x * gate) / 2)
        torch.testing.assert_close(self.features(supernet, ALL), expected)


def test_the_widest_filters_run_the_whole_weights():
    supernet = shared_weights("mobilenet_v3_like_search")
    space = supernet.space
    indices = [space.widest_indices.get(position, 0) for position in range(space.num_choices)]
    with torch.no_grad():
        supernet(images(), indices)
    shapes = {tuple(kernel.shape) for kernel in supernet.used.kernels}
    whole = {
        tuple(module.weight.shape) for name, module in supernet.tower.named_modules() if isinstance(module, nn.Conv2d)
    }
    assert (2048, 1024, 1, 1) in shapes  # the last width times the one before it
    assert shapes <= whole


def test_an_expansion_is_a_multiple_of_the_width_that_was_sampled():
    space = Space(
        "s",
        Tower(
            [Block([Conv(3)], OneOf((8, 24), FILTERS)), Block([bneck(3, OneOf((Times(2.0), Times(3.0)), FILTERS))], 8)]
        ),
    )
    supernet = SuperNet(space, CLASSES)
    seen = []
    supernet.tower.blocks[1][0].expand.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    for indices in ((0, 0), (0, 1), (1, 0), (1, 1)):
        supernet(images(dtype=torch.float32), indices)
    assert seen == [16, 24, 48, 72]


def test_l2_counts_the_kernels_in_use_and_of_them_only_the_slices():
    """Closed form: no batch norm, no bias, not the last layer; squeeze-and-excite kernels count."""
    supernet = scattered(SuperNet(tiny_space(), CLASSES).double())
    space = supernet.space
    paths = {point.path: position for position, point in enumerate(space.points)}
    indices = [0] * space.num_choices
    indices[paths["blocks/0/layers/2/layer"]] = 1  # skipped
    indices[paths["blocks/1/layers/1/layer"]] = 1  # skipped
    indices[paths["blocks/1/layers/0/kernel_size"]] = 1
    indices[paths["blocks/1/layers/0/expansion_filters"]] = 1  # 24
    indices[paths["blocks/1/layers/0/use_squeeze_and_excite"]] = 1
    indices[paths["blocks/1/filters"]] = 2  # 16
    supernet(images(), indices)
    weights = dict(supernet.named_parameters())
    slices = [
        weights["tower.blocks.0.0.conv.choices.0.conv.weight"][:8],
        weights["tower.blocks.1.0.expand.conv.weight"][:24, :8],
        weights["tower.blocks.1.0.depthwise.choices.1.conv.weight"][:24],
        weights["tower.blocks.1.0.se.choices.1.reduce.weight"][:8, :24],
        weights["tower.blocks.1.0.se.choices.1.expand.weight"][:24, :8],
        weights["tower.blocks.1.0.project.conv.weight"][:16, :24],
        weights["tower.blocks.2.0.choices.0.conv.conv.weight"][:16, :16],
        weights["tower.blocks.2.3.conv.conv.weight"][:16, :16],
    ]
    assert [kernel.shape for kernel in supernet.used.kernels] == [kernel.shape for kernel in slices]
    expected = sum(kernel.square().sum() for kernel in slices) / 2
    torch.testing.assert_close(supernet.l2(), expected.float(), atol=0, rtol=1e-6)

    supernet.l2().backward()
    touched = {name for name, parameter in weights.items() if parameter.grad is not None}
    assert touched == {
        "tower.blocks.0.0.conv.choices.0.conv.weight",
        "tower.blocks.1.0.expand.conv.weight",
        "tower.blocks.1.0.depthwise.choices.1.conv.weight",
        "tower.blocks.1.0.se.choices.1.reduce.weight",
        "tower.blocks.1.0.se.choices.1.expand.weight",
        "tower.blocks.1.0.project.conv.weight",
        "tower.blocks.2.0.choices.0.conv.conv.weight",
        "tower.blocks.2.3.conv.conv.weight",
    }
    expand = weights["tower.blocks.1.0.expand.conv.weight"]
    torch.testing.assert_close(expand.grad[:24, :8], expand.detach()[:24, :8])
    assert expand.grad[24:].eq(0).all() and expand.grad[:, 8:].eq(0).all()


def everything(space):
    """Indices with every operation at once and the widest filters."""
    return [space.widest_indices.get(position, ALL) for position in range(space.num_choices)]


def test_l2_counts_a_kernel_of_a_mixture_with_its_share():
    """docs/algorithm.md#warmups: the product of the 1/n of every enabled OneOf around it."""
    supernet = scattered(SuperNet(tiny_space(), CLASSES).double())
    supernet(images(), everything(supernet.space))
    weights = {name: weight for name, weight in supernet.named_parameters() if weight.dim() == 4 and "head" not in name}
    assert {kernel.data_ptr() for kernel in supernet.used.kernels} == {w.data_ptr() for w in weights.values()}
    shares = dict.fromkeys(weights, 0.0)
    for kernel, share in zip(supernet.used.kernels, supernet.used.shares, strict=True):
        shares[next(n for n, w in weights.items() if w.data_ptr() == kernel.data_ptr())] += share
    assert shares["tower.blocks.0.0.conv.choices.1.conv.weight"] == 1 / 2
    assert shares["tower.blocks.0.2.layer.choices.0.depthwise.choices.0.conv.weight"] == 1 / 2 * 1 / 2
    assert shares["tower.blocks.0.2.layer.choices.0.pointwise.conv.weight"] == 1 / 2
    assert shares["tower.blocks.1.0.expand.conv.weight"] == 1
    assert shares["tower.blocks.1.0.se.choices.1.reduce.weight"] == 1 / 2
    assert shares["tower.blocks.1.1.layer.choices.0.se.choices.1.expand.weight"] == pytest.approx(1 / 3 * 1 / 2)
    nested = "tower.blocks.1.1.layer.choices.2.choices.0.depthwise.choices.1.conv.weight"
    assert shares[nested] == pytest.approx(1 / 3 * 1 / 3 * 1 / 2)
    expected = sum(share * weights[name].square().sum() for name, share in shares.items()) / 2
    torch.testing.assert_close(supernet.l2(), expected.float(), atol=0, rtol=1e-6)
    supernet.l2().backward()
    for name, share in shares.items():
        torch.testing.assert_close(weights[name].grad, share * weights[name].detach())


def test_l2_with_everything_on_is_the_originals_part_of_the_sum_over_all_kernels():
    """The original was measured at 1/2.9 to 1/3.2 of it, by initialisation."""
    torch.manual_seed(0)
    supernet = SuperNet(tunas.get_space("mobilenet_v3_like_search"), 1000)
    with torch.no_grad():
        supernet(images(2, dtype=torch.float32), everything(supernet.space))
        whole = 0.5 * sum(weight.square().sum() for weight in supernet.tower.parameters() if weight.dim() == 4)
        assert 2.9 < float(whole / supernet.l2()) < 3.2


def test_same_padding_reaches_every_convolution_and_the_extracted_network():
    torch.manual_seed(0)
    space = tunas.get_space("mobilenet_v3_like_search")
    supernet = SuperNet(space, CLASSES, same_padding=True).double()
    convolutions = [module for module in supernet.modules() if isinstance(module, (Conv2d, DepthwiseConv2d))]
    assert all(module.same for module in convolutions if module.kernel_size != (1, 1))
    architecture = space.sample(np.random.default_rng(0))
    x = images()  # at odd sizes, such as 33, both are the same
    torch.testing.assert_close(supernet(x, architecture), supernet.extract(architecture).train()(x))
    plain = SuperNet(space, CLASSES).double()
    plain.load_state_dict(supernet.state_dict())
    assert not torch.allclose(plain(x, architecture), supernet(x, architecture), atol=1e-3)


def test_l2_is_that_of_the_last_forward_even_after_endpoints():
    supernet = SuperNet(tiny_space(), CLASSES)
    indices = [0] * supernet.space.num_choices
    supernet(images(dtype=torch.float32), indices)
    before = supernet.l2()
    supernet.endpoints(images(dtype=torch.float32), indices)
    assert torch.equal(supernet.l2(), before)


def test_batch_norm_has_no_state_and_uses_the_batch_at_hand_in_evaluation_too():
    supernet = copy.deepcopy(shared_weights("tiny"))
    before = copy.deepcopy(supernet.state_dict())
    norms = [module for module in supernet.modules() if isinstance(module, BatchNorm2d)]
    assert norms and all(norm.running_mean is None and norm.num_batches_tracked is None for norm in norms)
    indices, x = random_indices(supernet.space, 4), images(batch=8)
    with torch.no_grad():
        trained, evaluated, half = supernet.train()(x, indices), supernet.eval()(x, indices), supernet(x[:4], indices)
    assert torch.equal(trained, evaluated)
    assert not torch.allclose(evaluated[:4], half)
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())


@pytest.mark.parametrize("name", SEARCH_SPACES)
def test_endpoints_are_a_list_with_the_strides_and_sampled_widths(name):
    supernet = shared_weights(name)
    architecture = supernet.space.sample(np.random.default_rng(3))
    with torch.no_grad():
        found = supernet.endpoints(images(), architecture)
        alone = supernet.extract(architecture).train().endpoints(images())
    blocks = architecture.tower.blocks
    marked = [0, 1, 2, 4, 5] if name == "mobilenet_v3_like_search" else [1, 2, 3, 5, 6, 7]
    assert isinstance(found, list)
    assert [feature.shape[1] for feature in found] == [blocks[number].filters for number in marked]
    assert [32 // feature.shape[2] for feature in found] == [2, 4, 8, 16, 32, 32][: len(marked)]
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_indices_may_be_an_architecture_a_sequence_or_an_array():
    supernet = shared_weights("tiny")
    architecture = supernet.space.sample(np.random.default_rng(0))
    with torch.no_grad():
        given = [architecture, architecture.indices, np.array(architecture.indices), torch.tensor(architecture.indices)]
        first, *rest = (supernet(images(), indices) for indices in given)
    assert all(torch.equal(first, other) for other in rest)


def test_foreign_or_short_indices_are_refused():
    supernet = SuperNet(tiny_space(), CLASSES)
    with pytest.raises(InputError, match="this supernet is of space 'tiny', the architecture of 'mobilenet_v2'"):
        supernet(images(), tunas.get_space("mobilenet_v2").architecture(""))
    with pytest.raises(InputError, match=f"tiny takes {supernet.space.num_choices} indices, but 3 were given"):
        supernet(images(), [0, 0, 0])
    with pytest.raises(InputError, match="num_classes must be at least 1, not 0"):
        SuperNet(tiny_space(), 0)


def test_a_space_of_ones_own_runs_from_description_to_a_smaller_loss():
    block = [
        bneck(OneOf((3, 5), OP), OneOf((Times(1.0), Times(2.0)), FILTERS), stride=2),
        Residual(OneOf((bneck(), Zero()), OP)),
    ]
    tower = Tower(
        [
            Block([Conv(3, stride=2), RELU], 16),
            Block(block, OneOf((16, 24), FILTERS)),
            Block([Conv(1), RELU, GlobalAveragePool()], 32),
        ]
    )
    space = Space("mine", tower)
    supernet, rng = SuperNet(space, CLASSES), np.random.default_rng(0)
    optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9)
    y = torch.arange(20) % CLASSES
    pattern = torch.randn(CLASSES, 3, 16, 16)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(supernet(pattern[y] + torch.randn(20, 3, 16, 16) / 2, space.sample(rng)), y)
        optimizer.zero_grad()
        (loss + 4e-5 * supernet.l2()).backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert supernet.extract(space.sample(rng))(pattern).shape == (CLASSES, CLASSES)
