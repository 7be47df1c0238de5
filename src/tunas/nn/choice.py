"""Choices inside modules, for towers and for models of one's own alike."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from tunas.errors import InputError
from tunas.nn.used_kernels import mixture
from tunas.space.choice import ALL, OneOf

INDICES = "indices"


class Choice(nn.Module):
    """A OneOf: the chosen module's output, or with `ALL` the mean over every choice (docs/algorithm.md#warmups).

    `forward` hands everything on to the module that it calls. The last argument, or the one named `indices`, is the
    architecture's indices.
    """

    def __init__(self, position: int, choices: Sequence[nn.Module]):
        super().__init__()
        self.position = position
        self.choices = nn.ModuleList(choices)

    def forward(self, *inputs: Any, **named: Any) -> Tensor | None:
        indices = named[INDICES] if INDICES in named else inputs[-1]
        index = indices[self.position]
        if index != ALL:
            return self.choices[index](*inputs, **named)
        with mixture(len(self.choices)):
            outputs = [choice(*inputs, **named) for choice in self.choices]
        return _mean([output for output in outputs if output is not None], len(outputs))


def _mean(present: list[Tensor], count: int) -> Tensor | None:
    """The mean of `count` outputs, of which all but those `present` are zeros; None where no output is present."""
    if len(present) < 2:
        return present[0] * (1 / count) if present else None
    first, second, *others = present
    if any(output.shape != first.shape for output in present):
        raise InputError(f"choices that run at once differ in shape: {', '.join(str(list(o.shape)) for o in present)}")
    total = first + second
    for output in others:
        total = total.add_(output) if output.dtype == total.dtype else total + output  # no stack to write and read
    return total.div_(count)


class Nothing(nn.Module):
    """A choice that computes nothing: its output is `None`, which stands for zeros and costs nothing."""

    def forward(self, *inputs: Any, **named: Any) -> None:
        return None


class Plain(nn.Module):
    """A module that knows nothing of choices, where the indices are handed on: it is called without them."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if INDICES in named:
            return self.module(*inputs, **{name: value for name, value in named.items() if name != INDICES})
        return self.module(*inputs[:-1], **named)


def for_each_choice(value: Any, build: Callable[[Any], nn.Module | None]) -> nn.Module:
    """The module for a value of a structure: what `build` makes of it, or where it is a OneOf, of each of its choices.

    The result is called with the inputs and, last, the indices, whether there is a choice or not.

    Args:
        value: a value, or a numbered OneOf between such.
        build: makes the module for one value. A module whose `forward` has no argument `indices` is called without
            them, so that any torch module can stand here. None stands for nothing: the output is then `None`, which
            means zeros, and costs nothing.
    """
    return choices_of(value, lambda one: _called_with_indices(build(one)))


def choices_of(value: Any, build: Callable[[Any], nn.Module]) -> nn.Module:
    """`build(value)`, or where `value` is a OneOf, the `Choice` between what it builds for each of them."""
    if isinstance(value, OneOf):
        assert value.position is not None
        return Choice(value.position, [choices_of(choice, build) for choice in value.choices])
    return build(value)


def _called_with_indices(module: nn.Module | None) -> nn.Module:
    if module is None:
        return Nothing()
    kind: Any = type(module)
    return module if _takes_indices(kind) else Plain(module)


@functools.cache
def _takes_indices(kind: Any) -> bool:
    parameters = inspect.signature(kind.forward).parameters.values()
    return any(p.name == INDICES or p.kind is p.VAR_POSITIONAL for p in parameters)
