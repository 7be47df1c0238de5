"""Every architecture of the packaged spaces is a timm model: same logits, without this package, and back again."""

import importlib.util
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import tunas
from support.jobs import Program
from tunas import InputError
from tunas.export.timm_model import read_timm, timm_files
from tunas.nn import NetworkOptions
from tunas.nn.timm_network import timm_config
from tunas.space import RELU, SIGMOID, Block, Conv, GlobalAveragePool, Tower
from tunas.space.catalog import PACKAGED


def written(network, directory):
    directory.mkdir()
    for name, content in timm_files(network).items():
        (directory / name).write_bytes(content)
    spec = importlib.util.spec_from_file_location("load", directory / "load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader


def assert_close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


def lively(network):
    """Statistics of images, small variances and shifts, with which a wrong epsilon, skip or activation shows."""
    generator = torch.Generator().manual_seed(5)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for module in norms:
            module.momentum = 1.0
            module.bias.copy_(0.3 * torch.randn(module.num_features, generator=generator))
        network.train()(torch.randn(4, 3, 64, 64, generator=generator))
        network.head.classifier.weight.mul_(30)
        for module in norms[:-1:3]:
            module.running_var.mul_(0.02)
            module.weight.mul_(0.15)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("ssd", PACKAGED)
def test_every_architecture_is_a_timm_model_and_comes_back(ssd, tmp_path):
    space = tunas.get_space(ssd)
    rng = np.random.default_rng(2)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for number in range(2 if space.num_choices else 1):
        architecture = space.sample(rng)
        network = lively(tunas.build_network(architecture, 7))
        loader = written(network, tmp_path / str(number))
        expected = network(images)
        model = loader.model()
        assert type(model).__module__.startswith("timm.")
        with torch.no_grad():
            assert_close(model(images), expected, 1e-4)
            maps = loader.model(features_only=True)(images)
        assert [tuple(found.shape[2:]) for found in maps] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
        assert_close(read_timm(tmp_path / str(number))(images), expected, 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        NetworkOptions(same_padding=True),
        NetworkOptions(gate="hard_sigmoid", bn_epsilon=1e-5),
        NetworkOptions(relu6=True),
    ],
    ids=["same", "hard gate", "relu6"],
)
def test_options_are_kept(options, tmp_path):
    network = lively(
        tunas.build_network(
            tunas.get_space("mobilenet_v2" if options.relu6 else "mobilenet_v3_large").architecture(""),
            7,
            options=options,
        )
    )
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    loader, expected = written(network, tmp_path / "one"), network(images)
    with torch.no_grad():
        assert_close(loader.model()(images), expected, 1e-4)
    assert_close(read_timm(tmp_path / "one")(images), expected, 1e-5)


def test_it_opens_without_this_package(tmp_path):
    network = lively(tunas.build_network(tunas.get_space("mnasnet_b1").architecture(""), 7))
    written(network, tmp_path / "one")
    program = tmp_path / "one" / "count.py"
    program.write_text(
        "import sys; sys.modules['tunas'] = None; sys.path.insert(0, '.')\n"
        "import load; print(sum(p.numel() for p in load.model().parameters()))\n"
    )
    printed = Program(program, directory=program.parent).result()
    assert int(printed) == sum(parameter.numel() for parameter in network.parameters())
    assert json.loads((tmp_path / "one" / "config.json").read_text())["family"] == "efficientnet"
    assert set(load_file(tmp_path / "one" / "model.safetensors")) >= {"conv_stem.weight", "classifier.weight"}
    with pytest.raises(RuntimeError, match=r"Unknown model \(what load.py beside it opens\)"):
        timm.create_model(f"local-dir:{tmp_path / 'one'}")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Block([Conv(3, 2), SIGMOID], 16), Block([Conv(1), RELU, GlobalAveragePool()], 32)], "activation sigmoid"),
        (
            [Block([Conv(3, 2), RELU], 16), Block([Conv(3), RELU, GlobalAveragePool()], 32)],
            "end with a 1×1 convolution",
        ),
        ([Block([Conv(3), RELU], 16), Block([Conv(1), RELU, GlobalAveragePool()], 32)], "a convolution of stride 2"),
    ],
)
def test_what_timm_cannot_say_is_refused_by_name(blocks, message):
    with pytest.raises(InputError, match=message):
        timm_config(tunas.build_network(Tower(blocks), 7))
