"""Weights from a file, for a network of one's own."""

import pytest
import torch
from safetensors.torch import save_file

from support import own_program
from tunas import InputError, build_network
from tunas.train.weights import load_weights


@pytest.fixture
def architecture():
    return own_program.space.architecture("1:0")


def test_a_training_s_checkpoint_gives_a_model_of_one_s_own_its_averaged_weights(architecture, tmp_path):
    raw, averaged, network = (build_network(architecture) for _ in range(3))
    kept = {f"model/{name}": value for name, value in raw.state_dict().items()}
    save_file(
        kept | {f"ema/{name}": value for name, value in averaged.state_dict().items()}, tmp_path / "kept.safetensors"
    )
    load_weights(network, tmp_path / "kept.safetensors", architecture, None)
    assert all(torch.equal(value, averaged.state_dict()[name]) for name, value in network.state_dict().items())


def test_a_file_of_something_else_is_refused_in_a_sentence(architecture, tmp_path):
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no weights of perceptron"):
        load_weights(build_network(architecture), tmp_path / "other.safetensors", architecture, None)
