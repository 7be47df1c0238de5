"""RMSProp in pieces is timm's, bit for bit."""

import pytest
import torch
from timm.optim.rmsprop_tf import RMSpropTF

from tunas.recipe.optimizer import PIECE, PiecewiseRMSprop, rmsprop
from tunas.search.replicas import Lanes

SETTINGS = {"lr": 0.0, "alpha": 0.9, "eps": 1.0, "momentum": 0.9}


@pytest.mark.parametrize("decay", [0.0, 4e-5])
@pytest.mark.parametrize(
    ("shape", "lanes"), [((3 * PIECE * 4 + 77,), 1), ((13 * PIECE + 77,), 3), ((5,), 2), ((8, 3, 3, 3), 2)]
)
def test_steps_and_state_are_timms_bit_for_bit(shape, lanes, decay):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, timms = (torch.nn.Parameter(start.clone()) for _ in range(2))
    pieces, whole = PiecewiseRMSprop([ours], **SETTINGS), RMSpropTF([timms], foreach=False, **SETTINGS)
    pieces.lanes = Lanes(lanes) if lanes > 1 else None
    for unused, rate in enumerate((0.1, 0.3, 0.0)):
        gradient = torch.randn(shape) * torch.randn(shape).exp()
        gradient.flatten()[unused * PIECE * 4 :][: PIECE * 5] = 0  # weights of which a step used none
        ours.grad, timms.grad = gradient.clone(), gradient.clone()
        for optimizer in (pieces, whole):
            optimizer.param_groups[0].update(lr=rate, weight_decay=decay)
            optimizer.step()
        assert torch.equal(ours, timms) and torch.equal(ours.grad, gradient)
    (state,), (expected,) = pieces.state_dict()["state"].values(), whole.state_dict()["state"].values()
    assert state.keys() == expected.keys()
    assert all(torch.equal(torch.as_tensor(state[name]), torch.as_tensor(expected[name])) for name in state)


def test_a_state_saved_by_one_goes_on_in_the_other():
    parameter = torch.nn.Parameter(torch.ones(9))
    parameter.grad = torch.full((9,), 2.0)
    saved = rmsprop([parameter], 0.9)
    saved.param_groups[0]["lr"] = 0.1
    saved.step()
    other = RMSpropTF([parameter], **SETTINGS)
    other.load_state_dict(saved.state_dict())
    assert float(other.state[parameter]["step"]) == 1
    assert torch.equal(other.state[parameter]["momentum_buffer"], saved.state[parameter]["momentum_buffer"])


def test_no_momentum_is_left_to_timm():
    assert type(rmsprop([torch.nn.Parameter(torch.ones(1))], 0.0)) is RMSpropTF
