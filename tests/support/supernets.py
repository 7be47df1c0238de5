"""A space with everything in it, supernets with weights that hide no mistake, and what they compute."""

import functools

import numpy as np
import torch

import tunas
from tunas import OneOf, Space, SuperNet
from tunas.space import (
    ALL,
    FILTERS,
    OP,
    RELU,
    SWISH6,
    Activation,
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

CLASSES = 5


def bneck(kernel=3, expansion=8, **fields):
    return InvertedBottleneck(kernel, expansion, **fields)


def tiny_space():
    """Every layer type and every kind of choice, some nested, in a few thousand weights."""
    inner = bneck(
        OneOf((3, 5), OP), OneOf((Times(1.0), 24, Times(4.0)), FILTERS), se=OneOf((False, True), OP), activation=SWISH6
    )
    separable = SeparableConv(OneOf((3, 5), OP), activation=Activation("relu6"))
    layers = [
        [Conv(OneOf((3, 5), OP), stride=2), SWISH6, Residual(OneOf((separable, Zero()), OP)), DetectionEndpoint()],
        [
            inner.with_stride(2),
            Residual(OneOf((inner, Zero(), OneOf((separable, Conv(3), Zero()), OP)), OP)),
            DetectionEndpoint(),
        ],
        [
            OneOf((Conv(1), separable), OP),
            OneOf((RELU, Activation("sigmoid")), OP),
            GlobalAveragePool(),
            Conv(1, batch_norm=False),
        ],
    ]
    widths = [(8, 16), (24, 8, 16), (16, 40)]
    return Space(
        "tiny", Tower([Block(block, OneOf(width, FILTERS)) for block, width in zip(layers, widths, strict=True)])
    )


def scattered(network):
    """`network` with no parameter left at an initial value that hides a mistake (zero biases, unit scales)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter += (
                    torch.rand(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.dtype) - 0.3
                )
    return network


@functools.cache
def shared_weights(name):
    """One supernet per space in float64, for every test that leaves it as it was."""
    torch.manual_seed(0)
    space = tiny_space() if name.startswith("tiny") else tunas.get_space(name)
    return scattered(SuperNet(space, CLASSES, aggressive_sharing=name != "tiny apart").double())


def images(batch=4, size=32, dtype=torch.float64):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def outputs_and_gradients(network, run):
    """Logits, and the gradient of a random projection of them by parameter name; zeros where there is none."""
    network.zero_grad()
    logits = run()
    probe = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(logits.dtype)
    (logits * probe).sum().backward()
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in network.named_parameters()}
    network.zero_grad()
    return logits.detach(), gradients


def random_indices(space, seed, mixture=False):
    """Random indices; with `mixture` a random half of the operations at once, and the widest filters in half of the
    rest."""
    rng = np.random.default_rng(seed)
    indices = list(space.sample(rng).indices)
    if mixture:
        for position, point in enumerate(space.points):
            if rng.random() < 0.5:
                indices[position] = ALL if point.oneof.tag == OP else space.widest_indices[position]
    return indices
