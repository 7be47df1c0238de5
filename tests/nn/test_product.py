"""A 1×1 convolution that adds its kernel's gradient where it belongs is the convolution of torch."""

import pytest
import torch
import torch.nn.functional as F

from tunas.nn.ops import Conv2d
from tunas.nn.product import kept_factors

CASES = {"whole": (12, 10, 5), "narrow": (5, 4, 5), "one place": (5, 4, 1)}


def shared_conv(*, bias):
    conv = Conv2d(12, 10, 1, bias=bias)
    for parameter in conv.parameters():
        torch.nn.init.uniform_(parameter)
        parameter.grad = torch.ones_like(parameter)
    conv.share_gradients()
    return conv


@pytest.fixture(params=CASES)
def case(request):
    """(input, output width)"""
    inputs, width, size = CASES[request.param]
    x = torch.randn(3, inputs, size, size).to(memory_format=torch.channels_last).requires_grad_()
    return x, width


def expected(conv, x, width, probe):
    """Output, gradients of the input and of the leading parts of the parameters, by torch's convolution."""
    kernel = conv.weight.detach()[:width, : x.shape[1]].clone().requires_grad_()
    bias = None if conv.bias is None else conv.bias.detach()[:width].clone().requires_grad_()
    output = F.conv2d(x, kernel, bias)
    wanted = [x, kernel] if bias is None else [x, kernel, bias]
    return output, torch.autograd.grad((output * probe).sum(), wanted)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "with a bias"])
def test_it_computes_and_adds_what_torch_does(case, bias):
    x, width = case
    conv = shared_conv(bias=bias)
    probe = torch.randn(3, width, *x.shape[2:])
    output, (of_x, *of_parameters) = expected(conv, x, width, probe)
    found = conv(x, width)
    torch.testing.assert_close(found, output)
    (found * probe).sum().backward()
    torch.testing.assert_close(x.grad, of_x)
    for parameter, gradient in zip(conv.parameters(), of_parameters, strict=True):
        whole = torch.ones_like(parameter)
        whole[tuple(map(slice, gradient.shape))] += gradient
        torch.testing.assert_close(parameter.grad, whole)


def test_factors_that_are_kept_are_added_when_asked(case):
    x, width = case
    conv = shared_conv(bias=False)
    (conv(x, width).square().sum()).backward()
    at_once = conv.weight.grad.clone()
    conv.weight.grad.fill_(1.0)
    with kept_factors() as factors:
        conv(x, width).square().sum().backward()
    assert torch.equal(conv.weight.grad, torch.ones_like(conv.weight))
    with torch.no_grad():
        for each in factors:
            each.add()
    assert torch.equal(conv.weight.grad, at_once)


def test_an_activation_may_overwrite_what_it_gives(case):
    x, width = case
    conv = shared_conv(bias=False)
    torch.testing.assert_close(
        F.relu(conv(x, width), inplace=True), F.conv2d(x, conv.weight[:width, : x.shape[1]]).relu()
    )


def test_a_layer_with_gradients_of_its_own_is_torch_s(case):
    """Hooks on parameters, as distributed training sets them, see every gradient."""
    x, width = case
    conv = Conv2d(12, 10, 1)
    conv.weight.grad = torch.zeros_like(conv.weight)
    (gradient,) = torch.autograd.grad(conv(x, width).sum(), [conv.weight])
    assert gradient is not None and not conv.weight.grad.any()
