"""Depthwise and 1×1 convolutions on a processor: the same as the plain ones, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from tunas.nn import depthwise, ops

CHANNELS, USED = 12, 8


def images(size, channels=USED, count=5):
    x = torch.randn(count, channels, size, size).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def plain(conv, x):
    """The convolution with the whole kernel, in double precision; its output, and a copy of the kernel."""
    weight = conv.weight.detach().double().requires_grad_()
    x = x.detach().double().requires_grad_()
    groups = x.shape[1] if conv.groups > 1 else 1
    used = weight[: x.shape[1]] if groups > 1 else weight[:, : x.shape[1]]
    return F.conv2d(x, used, None, conv.stride, conv.padding, 1, groups), x, weight


def check_same(conv, x):
    found, (expected, exact_x, exact_weight) = conv(x), plain(conv, x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    towards = torch.randn_like(found)
    found.backward(towards)
    expected.backward(towards.double())
    torch.testing.assert_close(x.grad.double(), exact_x.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.weight.grad.double(), exact_weight.grad, rtol=1e-4, atol=1e-4)


def in_place(conv):
    """Slices of the weight add to its gradient, as in a supernet."""
    conv.weight.grad = torch.zeros_like(conv.weight)
    conv.share_gradients()
    return conv


@pytest.mark.parametrize("prepare", [in_place, lambda conv: conv], ids=["in place", "autograd"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_depthwise_convolutions_equal_the_plain_ones_on_maps_of_any_size(kernel, stride, prepare):
    for size in (1, 2, 3, 4, 7, 16):
        check_same(prepare(ops.DepthwiseConv2d(CHANNELS, kernel, stride)), images(size))


def test_the_gradient_of_a_kernel_is_the_same_whatever_images_are_taken_together(monkeypatch):
    x, gradient = images(9, count=7).detach(), images(5, count=7).detach()
    expected = depthwise.kernel_gradient(x, gradient, 5, 2, 2)
    for together, small in ((2 * x[0].numel(), x[0].numel()), (1, 1)):
        monkeypatch.setattr(depthwise, "NUMBERS_TOGETHER", together)
        monkeypatch.setattr(depthwise, "NUMBERS_OF_A_SMALL_IMAGE", small)
        torch.testing.assert_close(depthwise.kernel_gradient(x, gradient, 5, 2, 2), expected)


def test_a_tiny_map_meets_the_middle_of_a_kernel_only():
    conv = in_place(ops.DepthwiseConv2d(CHANNELS, 7))
    conv(images(2)).sum().backward()
    outside = torch.ones(7, 7, dtype=torch.bool)
    outside[2:5, 2:5] = False
    assert not conv.weight.grad[:, :, outside].any() and conv.weight.grad[:USED, :, ~outside].all()
    assert not conv.weight.grad[USED:].any()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("prepare", [in_place, lambda conv: conv], ids=["in place", "autograd"])
def test_small_pointwise_convolutions_are_products_and_equal_the_plain_ones(size, prepare):
    conv = prepare(ops.Conv2d(CHANNELS, 10, 1))
    check_same(conv, images(size))
    assert conv(images(size)).is_contiguous(memory_format=torch.channels_last)


def test_large_maps_are_convolved_as_before(monkeypatch):
    conv, x = ops.Conv2d(CHANNELS, 10, 1), images(8)
    monkeypatch.setattr(ops, "ROWS_OF_A_PRODUCT", 5 * 8 * 8 - 1)
    monkeypatch.setattr(F, "linear", None)
    check_same(conv, x)
