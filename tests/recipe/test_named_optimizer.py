"""Optimisers by name, clipping, and the shapes of the learning rate."""

from __future__ import annotations

import pytest
import torch

from tunas import InputError
from tunas.recipe.optimizer import clip_gradients, optimizer_named
from tunas.recipe.schedule import scheduled_learning_rate


def groups(parameter):
    return [{"params": [parameter], "weight_decay": 0.1}]


def test_sgd_of_timm_steps_as_its_definition_says():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_named("momentum", groups(parameter), 0.9)
    optimizer.param_groups[0]["lr"] = 0.5
    expected, velocity = 1.0, None
    for gradient in (1.0, 2.0, -1.0):
        parameter.grad = torch.full((3,), gradient)
        optimizer.step()
        whole = gradient + 0.1 * expected
        velocity = whole if velocity is None else 0.9 * velocity + whole
        expected -= 0.5 * velocity
        assert torch.allclose(parameter, torch.full((3,), expected))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("adamv", "timm has no optimiser 'adamv'; did you mean"), ("adahessian", "the optimiser adahessian cannot be")],
)
def test_what_cannot_be_stepped_is_refused_in_one_sentence(name, sentence):
    with pytest.raises(InputError, match=sentence):
        optimizer_named(name, groups(torch.nn.Parameter(torch.ones(3))), 0.9)


@pytest.mark.parametrize(("greatest", "expected"), [(1.0, 1.0), (100.0, 5.0), (0.0, 5.0)])
def test_gradients_are_scaled_down_to_a_norm_of_all_together_and_never_up(greatest, expected):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip_gradients(parameters, greatest)
    assert torch.cat([p.grad for p in parameters]).norm().item() == pytest.approx(expected, rel=1e-5)


def test_shapes_share_their_warmup_and_differ_after_it():
    rates = {shape: [scheduled_learning_rate(shape, 2.0, step, 10, 2) for step in range(11)] for shape in SHAPES}
    assert {tuple(each[:3]) for each in rates.values()} == {(0.0, 1.0, 2.0)}
    assert rates["linear"][6] == pytest.approx(1.0) and rates["cosine"][6] == pytest.approx(1.0)
    assert rates["linear"][4] == pytest.approx(1.5)
    assert rates["cosine"][4] > 1.5
    assert rates["constant"][10] == 2.0 and rates["linear"][10] == rates["cosine"][10] == 0.0


SHAPES = ("cosine", "linear", "constant")
