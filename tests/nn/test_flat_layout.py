"""`SuperNet.flatten`: one vector of weights and one of gradients that computes the same as separate parameters."""

import copy

import numpy as np
import pytest
import torch
from timm.optim.rmsprop_tf import RMSpropTF
from torch import nn

from support.published import SEARCH_SPACES
from support.supernets import (
    CLASSES,
    images,
    outputs_and_gradients,
    random_indices,
    scattered,
    shared_weights,
)
from tunas import SuperNet

PUBLISHED = {"alpha": 0.9, "momentum": 0.9, "eps": 1.0}


def flat_copy(name):
    supernet = copy.deepcopy(shared_weights(name))
    flat = supernet.flatten()
    return supernet, flat


def loss_of(supernet, indices, x):
    return supernet(x, indices).square().sum() + 1e-2 * supernet.l2()


@pytest.mark.parametrize("name", [*SEARCH_SPACES, "tiny"])
def test_outputs_and_accumulated_gradients_are_those_of_separate_parameters(name):
    plain = shared_weights(name)
    supernet, _ = flat_copy(name)
    x = images()
    sampled = [random_indices(plain.space, seed, mixture=seed == 2) for seed in range(3 if name == "tiny" else 2)]
    sampled.append(sampled[0])  # the same slices again, as replicas and steps meet them
    expected = outputs_and_gradients(plain, lambda: sum(plain(x, indices) for indices in sampled))
    losses = [supernet(x, indices) for indices in sampled]
    probe = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for loss in losses:  # one backward each: gradients add up in place
        (loss * probe).sum().backward()
    torch.testing.assert_close(sum(losses).detach(), expected[0], atol=1e-12, rtol=1e-12)
    for parameter_name, parameter in supernet.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[1][parameter_name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", [*SEARCH_SPACES, "tiny"])
def test_unused_slices_keep_a_gradient_of_exactly_zero(name):
    supernet, flat = flat_copy(name)
    architecture = supernet.space.sample(np.random.default_rng(5))
    supernet(images(), architecture).square().sum().backward()
    numbers = copy.deepcopy(supernet)
    with torch.no_grad():  # weights that are their own places in the vector, so that extraction says which are used
        numbers.flatten().copy_(torch.arange(flat.numel()))
    used = torch.cat([parameter.flatten() for parameter in numbers.extract(architecture).parameters()]).long()
    unused = torch.ones(flat.numel(), dtype=torch.bool)
    unused[used] = False
    assert 0 < unused.sum() < flat.numel()
    assert flat.grad[unused].eq(0).all()
    assert flat.grad[~unused].count_nonzero() > 0.5 * len(used)


def test_l2_reaches_the_flat_gradient():
    supernet, flat = flat_copy("tiny")
    indices = random_indices(supernet.space, 0)
    supernet(images(), indices)
    supernet.l2().backward()
    torch.testing.assert_close(flat.grad[flat.grad != 0], flat.detach()[flat.grad != 0], atol=1e-7, rtol=1e-6)
    assert flat.grad.count_nonzero() == sum(kernel.numel() for kernel in supernet.used.kernels)


def test_the_vector_holds_every_weight_once_and_the_parameters_are_views_of_it():
    supernet, flat = flat_copy("tiny")
    assert flat.numel() == sum(parameter.numel() for parameter in supernet.parameters())
    assert "flat" not in dict(supernet.named_parameters())
    with torch.no_grad():
        flat.fill_(2.0)
        flat.grad.fill_(3.0)
    assert all(parameter.eq(2).all() and parameter.grad.eq(3).all() for parameter in supernet.parameters())


def test_flattening_and_loading_leave_the_weights_as_they_are():
    plain = shared_weights("tiny")
    supernet, flat = flat_copy("tiny")
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in supernet.state_dict().items())
    with torch.no_grad():
        flat.zero_()
    supernet.load_state_dict(plain.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(supernet.parameters(), plain.parameters(), strict=True))
    assert flat.count_nonzero() > 0


def step_separately(supernet, optimizer, indices):
    """A step in which unused weights have a zero gradient, not none."""
    for parameter in supernet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss_of(supernet, indices, images()).backward()
    optimizer.step()


def step_flat(supernet, flat, optimizer, indices):
    flat.grad.zero_()
    loss_of(supernet, indices, images()).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["tiny", "proxylessnas_search"])
def test_rmsprop_over_the_vector_is_rmsprop_over_parameters_with_zero_gradients(name):
    separate = copy.deepcopy(shared_weights(name))
    supernet, flat = flat_copy(name)
    one_by_one = RMSpropTF(separate.parameters(), lr=1e-3, **PUBLISHED)
    at_once = RMSpropTF([flat], lr=1e-3, **PUBLISHED)
    for seed in range(3):
        indices = random_indices(separate.space, seed)
        step_separately(separate, one_by_one, indices)
        step_flat(supernet, flat, at_once, indices)
    for (key, found), expected in zip(supernet.named_parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7, msg=lambda text, key=key: f"{key}: {text}")


def test_rmsprop_is_tensorflows_written_out():
    """Decay 0.9, momentum 0.9, epsilon 1.0 inside the root, averages starting at one, learning rate inside the
    momentum."""
    supernet, flat = flat_copy("tiny")
    optimizer = RMSpropTF([flat], lr=0.0, **PUBLISHED)
    weights = flat.detach().numpy().copy()
    mean_square, momentum = np.ones_like(weights), np.zeros_like(weights)
    for step, learning_rate in enumerate([0.1, 0.05, 0.01, 0.0]):
        optimizer.param_groups[0]["lr"] = learning_rate
        step_flat(supernet, flat, optimizer, random_indices(supernet.space, step))
        gradient = flat.grad.numpy()
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        momentum = 0.9 * momentum + learning_rate * gradient / np.sqrt(mean_square + 1.0)
        weights = weights - momentum
        np.testing.assert_allclose(flat.detach().numpy(), weights, atol=1e-12, rtol=1e-12)


def test_momentum_still_moves_weights_that_no_architecture_of_the_step_used():
    supernet, flat = flat_copy("tiny")
    optimizer = RMSpropTF([flat], lr=0.1, **PUBLISHED)
    kernel = next(
        position
        for position, point in enumerate(supernet.space.points)
        if point.path == "blocks/0/layers/0/kernel_size"
    )
    indices = [0] * supernet.space.num_choices
    unused = supernet.get_parameter("tower.blocks.0.0.conv.choices.0.conv.weight")
    step_flat(supernet, flat, optimizer, indices)
    first_move = -optimizer.state[flat]["momentum_buffer"].clone()
    before = unused.detach().clone()
    indices[kernel] = 1
    step_flat(supernet, flat, optimizer, indices)
    assert unused.grad.count_nonzero() == 0
    moved = unused.detach() - before
    assert moved.abs().max() > 0
    # the second move is exactly 0.9 of the first
    supernet_of_moves = copy.deepcopy(supernet)
    with torch.no_grad():
        supernet_of_moves.flatten().copy_(first_move)
    expected = 0.9 * supernet_of_moves.get_parameter("tower.blocks.0.0.conv.choices.0.conv.weight")
    torch.testing.assert_close(moved, expected.detach(), atol=1e-14, rtol=1e-9)


def test_none_instead_of_zero_gradients_would_have_left_them_still():
    """Why the zero matters: the same two steps with the gradient of the unused kernel removed."""
    supernet = copy.deepcopy(shared_weights("tiny"))
    optimizer = RMSpropTF(supernet.parameters(), lr=0.1, **PUBLISHED)
    indices = [0] * supernet.space.num_choices
    unused = supernet.get_parameter("tower.blocks.0.0.conv.choices.0.conv.weight")
    step_separately(supernet, optimizer, indices)
    before = unused.detach().clone()
    supernet.zero_grad(set_to_none=True)
    indices[0] = 1
    loss_of(supernet, indices, images()).backward()
    optimizer.step()
    assert unused.grad is None and torch.equal(unused, before)


def assert_right_after(change, tolerance):
    """After `change` the supernet is flat no longer, computes the same, and learns by ordinary gradients."""
    supernet, flat = flat_copy("tiny")
    indices, x = random_indices(supernet.space, 0), images()
    expected = outputs_and_gradients(shared_weights("tiny"), lambda: shared_weights("tiny")(x, indices))
    supernet(x, indices).sum().backward()  # slices into the vector exist by now
    changed = change(supernet)
    assert changed.flat is None
    with torch.no_grad():
        flat.fill_(100.0)  # nothing may look at the old vector any more, unless it is the same memory
    changed.load_state_dict(shared_weights("tiny").state_dict())
    dtype = next(changed.parameters()).dtype
    found = outputs_and_gradients(changed, lambda: changed(x.to(dtype), indices))
    torch.testing.assert_close(found[0].double(), expected[0], atol=tolerance, rtol=tolerance)
    for key, gradient in expected[1].items():
        torch.testing.assert_close(found[1][key].double(), gradient, atol=10 * tolerance, rtol=1e-3)
    again = changed.flatten()
    again.grad.zero_()
    flat_again = copy.deepcopy(found)
    logits = changed(x.to(dtype), indices)
    torch.testing.assert_close(logits.detach(), flat_again[0], atol=tolerance, rtol=tolerance)
    logits.sum().backward()
    assert again.grad.count_nonzero() > 0


def test_converting_the_weights_ends_the_flat_layout():
    assert_right_after(lambda supernet: supernet.to(torch.float32), tolerance=1e-4)


def test_moving_the_weights_ends_the_flat_layout():
    assert_right_after(lambda supernet: supernet.to("cpu"), tolerance=1e-12)
    assert_right_after(lambda supernet: supernet.to(memory_format=torch.channels_last), tolerance=1e-12)


def test_a_copy_is_not_flat_and_shares_nothing():
    assert_right_after(copy.deepcopy, tolerance=1e-12)
    supernet, flat = flat_copy("tiny")
    indices = random_indices(supernet.space, 0)
    loss_of(supernet, indices, images()).backward()
    before = flat.grad.clone()
    loss_of(copy.deepcopy(supernet), indices, images()).backward()
    assert torch.equal(flat.grad, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_moving_to_a_gpu_ends_the_flat_layout_and_flattening_there_computes_the_same():
    supernet, _ = flat_copy("tiny")
    indices, x = random_indices(supernet.space, 0), images()
    expected = outputs_and_gradients(shared_weights("tiny"), lambda: shared_weights("tiny")(x, indices))
    supernet = supernet.to("cuda")
    assert supernet.flat is None
    supernet.flatten()
    logits = supernet(x.cuda(), indices)
    torch.testing.assert_close(logits.detach().cpu(), expected[0], atol=1e-9, rtol=1e-9)
    probe = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (logits * probe.cuda()).sum().backward()
    for key, parameter in supernet.named_parameters():
        torch.testing.assert_close(parameter.grad.cpu(), expected[1][key], atol=1e-8, rtol=1e-6)


def test_recomputation_works_on_the_flat_layout():
    plain, flat = flat_copy("tiny")
    frugal = SuperNet(plain.space, CLASSES, rematerialize=True).double()
    frugal.load_state_dict(plain.state_dict())
    frugal_flat = frugal.flatten()
    indices = random_indices(plain.space, 1)
    for supernet in (plain, frugal):
        loss_of(supernet, indices, images()).backward()
    torch.testing.assert_close(frugal_flat.grad, flat.grad, atol=1e-12, rtol=1e-12)


def test_convolutions_in_a_flat_supernet_are_still_modules_with_their_weights():
    supernet, _ = flat_copy("tiny")
    for module in supernet.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last) or module.weight.numel() == 0
    scattered(supernet)  # in-place changes of parameters are changes of the vector
    assert supernet.flat.data_ptr() == next(supernet.parameters()).data_ptr()
