"""Optimisers of shared and of stand-alone weights: RMSProp in TensorFlow's form (docs/algorithm.md#weight-training),
and timm's."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from timm.optim.rmsprop_tf import RMSpropTF
from torch import Tensor

from tunas.errors import InputError

RMSPROP = "rmsprop"

DECAY = 0.9
EPSILON = 1.0
"""Inside the square root."""


class Lanes(Protocol):
    """Threads that work side by side (`search/replicas.py`)."""

    count: int

    def map(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]: ...


PIECE = 2**16
"""Numbers per thread that are worked on at a time: a quarter of a megabyte, so that the five vectors of a step stay in
the processor's cache from one operation to the next."""


class PiecewiseRMSprop(RMSpropTF):
    """timm's RMSpropTF with the same arithmetic in pieces and in place, for plain float parameters on a processor.

    Over a vector of many millions of numbers every temporary of that size comes from memory and goes back to it. State
    and results are the same bit for bit. On other devices it is timm's own multi-tensor form.

    Attributes:
        lanes: that the pieces of a vector are dealt out to, each worked on in one thread; where None, one piece after
            the other in all of torch's. These meet after every operation: with other work on the machine, whoever has
            to wait for its turn on a processor holds them all up, a hundred times a step.
    """

    lanes: Lanes | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if closure is not None or not all(self._is_plain(p) for p in parameters):
            return super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return None

    @staticmethod
    def _is_plain(parameter: Tensor) -> bool:
        gradient = parameter.grad
        assert gradient is not None
        return parameter.device.type == "cpu" and gradient.layout == torch.strided

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["square_avg"] = torch.ones_like(parameter)
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["step"] += 1
        vectors = [parameter, parameter.grad, state["square_avg"], state["momentum_buffer"]]
        count = 1 if self.lanes is None else self.lanes.count
        size = PIECE * (torch.get_num_threads() if count == 1 else 1)
        pieces = list(zip(*(_pieces(vector, size) for vector in vectors), strict=True))

        @torch.no_grad()
        def work(some: list[tuple[Tensor, ...]]) -> None:
            for each in some:
                _step_piece(*each, group=group)

        if self.lanes is None:
            work(pieces)
        else:
            self.lanes.map(work, [pieces[lane::count] for lane in range(count)])


def _pieces(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    """A long vector in pieces; any other tensor, which is a layer's and no longer than a few, as it is."""
    return tensor.split(size) if tensor.dim() == 1 else (tensor,)


def _step_piece(weights: Tensor, gradient: Tensor, square: Tensor, momentum: Tensor, *, group: dict[str, Any]) -> None:
    if group["weight_decay"]:
        gradient = gradient.add(weights, alpha=group["weight_decay"])
    elif gradient.dim() == 1 and not any(torch.aminmax(gradient)):
        # No sampled architecture used these weights (of a step's, two thirds of a space with many widths).
        square.add_(square, alpha=group["alpha"] - 1.0)
        weights.sub_(momentum.mul_(group["momentum"]))
        return
    scratch = gradient * gradient
    square.add_(scratch.sub_(square), alpha=1.0 - group["alpha"])
    torch.add(square, group["eps"], out=scratch).sqrt_()
    momentum.mul_(group["momentum"]).addcdiv_(gradient, scratch, value=group["lr"])
    weights.sub_(momentum)


def rmsprop(parameters: Iterable[Any], momentum: float) -> RMSpropTF:
    """The optimiser of parameters or parameter groups: squared average from one, learning rate inside the momentum and
    0 until set."""
    kind = PiecewiseRMSprop if momentum > 0 else RMSpropTF
    return kind(parameters, lr=0.0, alpha=DECAY, eps=EPSILON, momentum=momentum)


def optimizer_named(name: str, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """`rmsprop`, or the optimiser that timm's `create_optimizer_v2` knows by this name; its learning rate is set by
    whoever steps it.

    Args:
        name: rmsprop, sgd, adamw, …
        groups: parameter groups, each with its own `weight_decay`.
        momentum: of optimisers that have one.

    Raises:
        InputError: where there is no such optimiser, or it cannot be stepped like the others.
    """
    check_optimizer(name)
    if name == RMSPROP:
        return rmsprop(groups, momentum)
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(groups, opt=name, lr=1e-3, momentum=momentum)
    except Exception as error:
        raise _unusable(name, error) from None


def check_optimizer(name: str | None) -> None:
    """Lets None pass, and the name of an optimiser that can be used.

    Raises:
        InputError: as of `optimizer_named`.
    """
    if name is None or name == RMSPROP:
        return
    from timm.optim import create_optimizer_v2, list_optimizers

    if name not in list_optimizers():
        near = difflib.get_close_matches(name, [RMSPROP, *list_optimizers()], n=1)
        raise InputError(
            f"timm has no optimiser {name!r}"
            + (f"; did you mean {near[0]!r}?" if near else "; rmsprop, sgd, adamw and others are there")
        )
    try:
        _step_once(create_optimizer_v2([{"params": [_example()], "weight_decay": 0.0}], opt=name, lr=1e-3))
    except Exception as error:
        raise _unusable(name, error) from None


def _unusable(name: str, error: Exception) -> InputError:
    """Each optimiser refuses in a way of its own."""
    return InputError(f"the optimiser {name} cannot be used here: {str(error).splitlines()[0]}")


def _example() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(8, 4))


def _step_once(optimizer: torch.optim.Optimizer) -> None:
    """Steps on an example; what it keeps between steps must be tensors and numbers, which checkpoints hold."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for kept in optimizer.state_dict()["state"].values():
        for name, value in kept.items():
            if not isinstance(value, torch.Tensor | int | float):
                raise TypeError(f"it keeps {name} between steps, which is no tensor")


def clip_gradients(parameters: Iterable[torch.Tensor], greatest: float) -> None:
    """Scales the gradients so that the norm of all of them together is at most `greatest`; 0 lets them be."""
    if greatest > 0:
        torch.nn.utils.clip_grad_norm_(list(parameters), greatest)
