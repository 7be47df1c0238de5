"""Every sliceable primitive against a masked computation with the whole weight: outputs, gradients, and gradients that
are accumulated in place."""

import pytest
import torch
import torch.nn.functional as F

from tunas import InputError
from tunas.nn import ops

WIDE, OUT, HEADS, SIZE = 12, 10, 3, 4


def padded(x, size, dim):
    """`x` with zeros behind it along one dimension."""
    shape = list(x.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([x, x.new_zeros(shape)], dim)


def masked_attention(op, x, heads, width):
    """Every head computed with the whole weights, those beyond the first `heads` multiplied by zero."""
    x = padded(x, WIDE, -1)
    projected = F.linear(x, op.in_weight, op.in_bias).view(*x.shape[:2], HEADS, 3, SIZE)
    mixed = []
    for head in range(HEADS):
        q, k, v = (projected[:, :, head, part] for part in range(3))
        mixed.append(torch.softmax(q @ k.transpose(1, 2) / SIZE**0.5, -1) @ v * float(head < heads))
    return F.linear(torch.cat(mixed, -1), op.out_weight, op.out_bias)[..., :width]


def masked_group_norm(op, x):
    groups = x.unflatten(1, (-1, WIDE // 4))
    mean = groups.mean((2, 3), keepdim=True)
    variance = ((groups - mean) ** 2).mean((2, 3), keepdim=True)
    normal = ((groups - mean) / torch.sqrt(variance + op.eps)).flatten(1, 2)
    return normal * op.weight[: x.shape[1], None] + op.bias[: x.shape[1], None]


def masked_layer_norm(op, x):
    mean = x.mean(-1, keepdim=True)
    normal = (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + op.eps)
    return normal * op.weight[: x.shape[-1]] + op.bias[: x.shape[-1]]


def masked_batch_norm(op, x):
    mean = x.mean((0, 2), keepdim=True)
    normal = (x - mean) / torch.sqrt(((x - mean) ** 2).mean((0, 2), keepdim=True) + op.eps)
    return normal * op.weight[: x.shape[1], None] + op.bias[: x.shape[1], None]


CASES = {
    "linear": (
        lambda: ops.Linear(WIDE, OUT),
        (2, 5, 8),
        lambda op, x: op(x, 6),
        lambda op, x: F.linear(padded(x, WIDE, -1), op.weight, op.bias)[..., :6],
    ),
    "linear without a bias": (
        lambda: ops.Linear(WIDE, OUT, bias=False),
        (3, 8),
        lambda op, x: op(x, 6),
        lambda op, x: F.linear(padded(x, WIDE, -1), op.weight)[..., :6],
    ),
    "conv1d": (
        lambda: ops.Conv1d(WIDE, OUT, 5, 2, bias=True),
        (2, 8, 9),
        lambda op, x: op(x, 6),
        lambda op, x: F.conv1d(padded(x, WIDE, 1), op.weight, op.bias, 2, 2)[:, :6],
    ),
    "layer norm": (lambda: ops.LayerNorm(WIDE), (2, 5, 8), lambda op, x: op(x), masked_layer_norm),
    "group norm": (lambda: ops.GroupNorm(4, WIDE), (2, 6, 5), lambda op, x: op(x), masked_group_norm),
    "batch norm": (lambda: ops.BatchNorm1d(WIDE, stateless=True), (4, 8, 5), lambda op, x: op(x), masked_batch_norm),
    "embedding": (
        lambda: ops.Embedding(7, WIDE),
        None,
        lambda op, ids: op(ids, 8),
        lambda op, ids: F.one_hot(ids, 7).to(op.weight.dtype) @ op.weight[:, :8],
    ),
    "attention": (
        lambda: ops.MultiheadAttention(WIDE, HEADS, SIZE),
        (2, 5, 8),
        lambda op, x: op(x, 2, 8),
        lambda op, x: masked_attention(op, x, 2, 8),
    ),
    "attention without biases": (
        lambda: ops.MultiheadAttention(WIDE, HEADS, SIZE, bias=False),
        (2, 5, 12),
        lambda op, x: op(x, 1, 5),
        lambda op, x: masked_attention(op, x, 1, 5),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    """(the primitive in float64 with nothing left at zero or one, an input, sliced and masked computation)"""
    build, shape, sliced, masked = CASES[request.param]
    op = build().double()
    with torch.no_grad():
        for parameter in op.parameters():
            parameter += torch.rand_like(parameter) - 0.3
    if shape is None:
        return op, torch.tensor([[0, 3, 6], [3, 3, 1]]), sliced, masked
    return op, torch.randn(shape, dtype=torch.float64, requires_grad=True), sliced, masked


def gradients(op, x, compute):
    """Output, and the gradients of a random projection of it: of the input and of every parameter."""
    op.zero_grad(set_to_none=True)
    output = compute(op, x)
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=output.dtype)
    wanted = [*op.parameters(), *([x] if x.is_floating_point() else [])]
    found = torch.autograd.grad((output * probe).sum(), wanted, allow_unused=True)
    return output.detach(), [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def test_a_slice_computes_what_masking_computes(case):
    op, x, sliced, masked = case
    output, found = gradients(op, x, sliced)
    expected, wanted = gradients(op, x, masked)
    assert output.std() > 1e-3
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=1e-10)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_gradients_of_slices_are_accumulated_in_place(case):
    op, x, sliced, _ = case
    _, expected = gradients(op, x, sliced)
    x = x.detach()
    for parameter in op.parameters():
        parameter.grad = torch.ones_like(parameter)
    buffers = [parameter.grad for parameter in op.parameters()]
    op.share_gradients()
    for _ in range(2):
        output = sliced(op, x)
        probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=output.dtype)
        (output * probe).sum().backward()
    for parameter, buffer, gradient in zip(op.parameters(), buffers, expected, strict=False):
        assert parameter.grad is buffer
        torch.testing.assert_close(buffer, 1 + 2 * gradient, atol=1e-10, rtol=1e-10)


def test_heads_that_are_left_out_have_no_part_in_the_others():
    attention = ops.MultiheadAttention(8, 4, 2)
    x = torch.randn(2, 3, 8)
    before = attention(x, 2)
    with torch.no_grad():
        attention.in_weight[2 * 3 * 2 :] += 1
        attention.out_weight[:, 2 * 2 :] += 1
    assert torch.equal(attention(x, 2), before) and not torch.allclose(attention(x, 3), before)


@pytest.mark.parametrize("how", ["causal", "mask"])
def test_a_place_sees_only_what_the_mask_lets_it(how):
    attention = ops.MultiheadAttention(8, 2, 4)
    x = torch.randn(1, 4, 8)
    more = {"causal": True} if how == "causal" else {"mask": torch.ones(4, 4, dtype=torch.bool).tril()}
    full = attention(x, **more)
    torch.testing.assert_close(attention(x[:, :2])[:, 1], full[:, 1])


def test_attention_is_that_of_torch():
    attention = ops.MultiheadAttention(8, 2, 4)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    rows = torch.arange(24).view(2, 3, 4).transpose(0, 1).flatten()  # torch has all queries first, then keys, values
    with torch.no_grad():
        attention.in_bias.uniform_()
        reference.in_proj_weight.copy_(attention.in_weight[rows])
        reference.in_proj_bias.copy_(attention.in_bias[rows])
        reference.out_proj.weight.copy_(attention.out_weight)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(x), reference(x, x, x, need_weights=False)[0])


def test_sizes_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="built for at most 10 outputs cannot take 11"):
        ops.Linear(WIDE, OUT)(torch.zeros(1, WIDE), 11)
    with pytest.raises(InputError, match="built for at most 12 inputs cannot take 13"):
        ops.LayerNorm(WIDE)(torch.zeros(1, 13))
    with pytest.raises(InputError, match="at most 3 heads cannot take 0"):
        ops.MultiheadAttention(WIDE, HEADS, SIZE)(torch.zeros(1, 2, WIDE), 0)
    with pytest.raises(InputError, match="groups of 3 channels cannot take 4"):
        ops.GroupNorm(4, WIDE)(torch.zeros(1, 4, 2))
