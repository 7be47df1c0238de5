"""Depthwise convolutions without cuDNN's compiler compute what the others do."""

from __future__ import annotations

import pytest
import torch

from support.tiny_space import tiny
from tunas import Space, SuperNet
from tunas.nn.cuda_depthwise import is_long

cuda = pytest.param(
    "cuda",
    marks=(pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", cuda])
def test_a_supernet_that_compiles_no_kernels_computes_the_same(device, precision):
    space = Space("tiny", tiny())
    usual = SuperNet(space, 10).to(device)
    at_once = SuperNet(space, 10).to(device)
    at_once.load_state_dict(usual.state_dict())
    at_once.compile_no_kernels()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    exact = precision == "fp32"
    for choice in (0, -1):  # the first of every choice; all of them at once
        gradients = []
        for network in (usual, at_once):
            weights = network.flatten()
            with torch.autocast(device, torch.bfloat16, enabled=not exact):
                logits = network(images, [choice] * space.num_choices)
            logits.float().square().mean().backward()
            gradients.append((logits.detach().float(), weights.grad.clone()))
            weights.grad.zero_()
        for found, expected in zip(*gradients, strict=True):
            assert expected.norm() > 0
            assert (found - expected).norm() <= (1e-5 if exact else 0.05) * expected.norm()


def test_long_searches_are_told_from_short_ones():
    assert is_long(90 * 1_231_121, 224)  # the published one
    assert not is_long(24 * 1_077, 32)  # the embedded digits
