"""timm's own models are the oracle: the same weights must give the same outputs."""

import pytest
import timm
import torch

import tunas
from tunas import InputError
from tunas.nn.timm_weights import REFERENCES, from_timm, timm_options, timm_reference, to_timm
from tunas.space import (
    RELU,
    SWISH6,
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
from tunas.space.layers import scale_filters

CLASSES = 7
IMAGE_SIZE = 32
THREE = ("mobilenetv2_100", "mnasnet_100", "mobilenetv3_large_100")


def timm_model(name, seed=0):
    """A timm model whose weights, biases and batch-norm statistics are all random, none at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
            elif getattr(module, "bias", None) is not None:
                module.bias.uniform_(-0.5, 0.5, generator=generator)
    return model


def reference(name):
    return tunas.get_space(timm_reference(name)).architecture("")


def images(batch=4, size=IMAGE_SIZE):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same_outputs(ours, theirs, *, train, size=IMAGE_SIZE):
    ours.train(train), theirs.train(train)
    with torch.no_grad():
        expected, found = theirs(images(size=size)), ours(images(size=size))
    assert expected.std() > 1e-3  # the comparison would mean nothing between constants
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", [*THREE, "tf_mobilenetv3_large_100"])
def test_our_network_computes_what_timms_does_with_its_weights(name, train):
    theirs = timm_model(name)
    ours = tunas.build_network(reference(name), CLASSES, options=timm_options(name))
    ours.load_state_dict(from_timm(theirs.state_dict(), reference(name)))
    assert_same_outputs(ours, theirs, train=train, size=64 if train else IMAGE_SIZE)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", THREE)
def test_timms_model_computes_what_our_network_does_with_its_weights(name, train):
    ours = tunas.build_network(reference(name), CLASSES, options=timm_options(name))
    ours.load_state_dict(from_timm(timm_model(name, seed=3).state_dict(), reference(name)))
    theirs = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    theirs.load_state_dict(to_timm(ours))
    assert_same_outputs(ours, theirs, train=train, size=64 if train else IMAGE_SIZE)


@pytest.mark.parametrize("name", THREE)
def test_running_statistics_move_alike_in_training(name):
    theirs = timm_model(name)
    ours = tunas.build_network(reference(name), CLASSES, options=timm_options(name))
    ours.load_state_dict(from_timm(theirs.state_dict(), reference(name)))
    with torch.no_grad():
        ours.train()(images(size=64)), theirs.train()(images(size=64))
    expected, found = theirs.state_dict(), to_timm(ours)
    for key in expected:
        torch.testing.assert_close(
            found[key], expected[key], atol=1e-3, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_there_and_back_changes_nothing(name):
    before = timm_model(name).state_dict()
    network = tunas.build_network(reference(name), CLASSES, options=timm_options(name))
    network.load_state_dict(from_timm(before, reference(name)))
    after = to_timm(network)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def minimal(layer):
    """A layer of MobileNetV3-Large as its "minimalistic" variant has it: kernel 3, relu, no squeeze-and-excite."""
    if isinstance(layer, Residual):
        return Residual(minimal(layer.layer))
    if isinstance(layer, InvertedBottleneck):
        return InvertedBottleneck(3, layer.expansion, False, layer.stride, RELU)
    return RELU if layer == SWISH6 else layer


def variant(name):
    if name == "mobilenetv2_140":
        return scale_filters(tunas.get_space("mobilenet_v2").tower, 1.4)
    v3 = tunas.get_space("mobilenet_v3_large").tower
    return Tower([Block([minimal(layer) for layer in block.layers], block.filters) for block in v3.blocks])


@pytest.mark.parametrize("name", ["mobilenetv2_140", "tf_mobilenetv3_large_minimal_100"])
def test_variants_of_the_references_fit_the_tower_changed_alike(name):
    tower = variant(name)
    theirs = timm_model(name)
    ours = tunas.build_network(tower, CLASSES, options=timm_options(name))
    ours.load_state_dict(from_timm(theirs.state_dict(), tower))
    assert_same_outputs(ours, theirs, train=False)


def test_another_model_of_the_builder_fits_a_tower_written_for_it():
    def bneck(kernel, times, stride=1):
        return InvertedBottleneck(kernel, Times(times), stride=stride)

    def again(kernel, times):
        return Residual(bneck(kernel, times))

    single_path_nas = Tower(
        [
            Block([Conv(3, stride=2), RELU], 32),
            Block([SeparableConv(3)], 16),
            Block([bneck(3, 3, 2), again(3, 3), again(3, 3)], 24),
            Block([bneck(5, 6, 2), again(3, 3), again(3, 3), again(3, 3)], 40),
            Block([bneck(5, 6, 2), again(3, 3), again(3, 3), again(3, 3)], 80),
            Block([bneck(5, 6), again(5, 3), again(5, 3), again(5, 3)], 96),
            Block([bneck(5, 6, 2), again(5, 6), again(5, 6), again(5, 6)], 192),
            Block([bneck(3, 6)], 320),
            Block([Conv(1), RELU, GlobalAveragePool()], 1280),
        ]
    )
    theirs = timm_model("spnasnet_100")
    ours = tunas.build_network(single_path_nas, CLASSES, options=timm_options("spnasnet_100"))
    ours.load_state_dict(from_timm(theirs.state_dict(), single_path_nas))
    assert_same_outputs(ours, theirs, train=False)


@pytest.mark.parametrize("size", [31, 32, 33])
def test_same_padding_is_tensorflows_at_even_and_odd_sizes(size):
    name = "tf_mobilenetv3_large_100"
    theirs = timm_model(name)
    ours = tunas.build_network(reference(name), CLASSES, options=timm_options(name))
    ours.load_state_dict(from_timm(theirs.state_dict(), reference(name)))
    assert_same_outputs(ours, theirs, train=False, size=size)


@pytest.mark.parametrize("name", THREE)
def test_endpoints_are_the_maps_of_features_only_where_both_mark_one(name):
    theirs = timm_model(name).eval()
    ours = tunas.build_network(reference(name), CLASSES, options=timm_options(name)).eval()
    ours.load_state_dict(from_timm(theirs.state_dict(), reference(name)))
    extractor = timm.create_model(name, pretrained=False, features_only=True).eval()
    extractor.load_state_dict(
        {key: value for key, value in theirs.state_dict().items() if key in extractor.state_dict()}
    )
    with torch.no_grad():
        found, expected = ours.endpoints(images()), extractor(images())
    strides = [IMAGE_SIZE // feature.shape[2] for feature in found]
    assert strides[:5] == [2, 4, 8, 16, 32] == extractor.feature_info.reduction()
    by_shape = {tuple(feature.shape): feature for feature in found}
    shared = [feature for feature in expected if tuple(feature.shape) in by_shape]
    assert len(shared) == (
        4 if name == "mobilenetv3_large_100" else 5
    )  # timm's fifth of V3 is the 960-wide convolution after ours
    for feature in shared:
        torch.testing.assert_close(by_shape[tuple(feature.shape)], feature, atol=1e-4, rtol=1e-4)


def test_skipped_layers_have_no_number_in_timm():
    tower = Tower(
        [
            Block([Conv(3, stride=2), RELU, DetectionEndpoint()], 8),
            Block(
                [InvertedBottleneck(3, Times(2)), Residual(Zero()), Residual(InvertedBottleneck(5, 16, se=True))], 16
            ),
            Block([Conv(1), SWISH6], 24),
            Block([GlobalAveragePool(), Conv(1, batch_norm=False)], 32),
        ]
    )
    names = set(to_timm(tunas.build_network(tower, CLASSES)))
    assert {name.rpartition(".")[0] for name in names} == {
        "conv_stem",
        "bn1",
        "blocks.0.0.conv_pw",
        "blocks.0.0.bn1",
        "blocks.0.0.conv_dw",
        "blocks.0.0.bn2",
        "blocks.0.0.conv_pwl",
        "blocks.0.0.bn3",
        "blocks.0.1.conv_pw",
        "blocks.0.1.bn1",
        "blocks.0.1.conv_dw",
        "blocks.0.1.bn2",
        "blocks.0.1.conv_pwl",
        "blocks.0.1.bn3",
        "blocks.0.1.se.conv_reduce",
        "blocks.0.1.se.conv_expand",
        "blocks.1.0.conv",
        "blocks.1.0.bn1",
        "conv_head",
        "classifier",
    }
    assert "conv_head.bias" in names


def test_old_checkpoints_without_batch_counters_are_read():
    state = {
        key: value
        for key, value in timm_model("mnasnet_100").state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    network = tunas.build_network(reference("mnasnet_100"), CLASSES)
    network.load_state_dict(from_timm(state, reference("mnasnet_100")))
    assert to_timm(network)["bn1.num_batches_tracked"] == 0


class TestWhatDoesNotFit:
    def refusal(self, change, name="mobilenetv2_100", architecture=None):
        state = timm_model(name).state_dict()
        change(state)
        with pytest.raises(InputError) as error:
            from_timm(state, architecture or reference(name))
        return str(error.value)

    def test_a_missing_entry_is_named_with_its_shape(self):
        message = self.refusal(lambda state: state.pop("blocks.1.0.bn2.weight"))
        assert message == "'blocks.1.0.bn2.weight', of shape (96,), is missing in the timm state dict"

    def test_an_entry_of_another_shape_is_named_with_both_shapes(self):
        message = self.refusal(lambda state: state.update({"conv_stem.weight": torch.zeros(24, 3, 3, 3)}))
        assert (
            message
            == "'conv_stem.weight' of the timm state dict has shape (24, 3, 3, 3); the architecture has (32, 3, 3, "
            "3) there"
        )

    def test_the_first_of_several_is_named(self):
        def change(state):
            del state["blocks.6.0.conv_pw.weight"], state["blocks.2.1.conv_pw.weight"]

        assert "'blocks.2.1.conv_pw.weight'" in self.refusal(change)

    def test_an_entry_without_a_place_is_named(self):
        message = self.refusal(lambda state: state.update({"blocks.1.2.conv_pw.weight": torch.zeros(1)}))
        assert message == "'blocks.1.2.conv_pw.weight' of the timm state dict has no place in the architecture"

    def test_another_architectures_weights_are_refused(self):
        assert "blocks.1.0.conv_pw.weight" in self.refusal(lambda state: None, architecture=reference("mnasnet_100"))

    def test_a_missing_classifier_is_named(self):
        assert "'classifier.weight'" in self.refusal(lambda state: state.pop("classifier.weight"))

    def test_what_is_no_tensor_is_named(self):
        assert "'bn1.bias' of the timm state dict is no tensor but str" in self.refusal(
            lambda state: state.update({"bn1.bias": "x"})
        )

    def test_a_network_that_timm_cannot_build_is_refused(self):
        inner = Tower([Block([Conv(3)], 8), Block([Conv(1, batch_norm=False)], 8), Block([Conv(1)], 8)])
        with pytest.raises(InputError, match=r"no convolution without batch norm at blocks\.0\.0"):
            to_timm(tunas.build_network(inner, 2))
        with pytest.raises(InputError, match="start with a convolution"):
            to_timm(tunas.build_network(Tower([Block([SeparableConv(3)], 8)]), 2))


def test_model_names_are_understood_with_tags_and_refused_when_unknown():
    assert timm_reference("mobilenetv3_large_100.ra_in1k") == "mobilenet_v3_large"
    with pytest.raises(
        InputError, match="'resnet50' is none of the reference architectures; known are mobilenetv2_100"
    ):
        timm_reference("resnet50")
    with pytest.raises(InputError, match="'efficientnet_b0' are not known; known families are mobilenetv2"):
        timm_options("efficientnet_b0")


def test_options_are_those_of_the_timm_models():
    v2, v3, tf = (
        timm_options(name) for name in ("mobilenetv2_100", "mobilenetv3_large_100", "tf_mobilenetv3_large_100.in1k")
    )
    assert (v2.relu6, v2.gate, v2.bn_epsilon, v2.bn_momentum, v2.same_padding) == (True, "sigmoid", 1e-5, 0.1, False)
    assert (v3.relu6, v3.gate, v3.bn_epsilon, v3.same_padding) == (False, "hard_sigmoid", 1e-5, False)
    assert (tf.relu6, tf.gate, tf.bn_epsilon, tf.same_padding) == (False, "hard_sigmoid", 1e-3, True)
