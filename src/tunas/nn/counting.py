"""What a module amounts to, leaf by leaf, found by running it on the meta device: no memory, no arithmetic.

For models of one's own, whose costs no description tells. Counted are parameters and the multiply-accumulates of matrix
products and convolutions, as `torch.utils.flop_counter` has them (two operations each); each belongs to the innermost
module that holds it or calls it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import flop_registry

from tunas.errors import InputError
from tunas.nn.network import build_network
from tunas.space.architecture import Architecture

WEIGHTS = "weights"
"""Quantity: parameters."""
MACS = "macs "
"""What the quantities start with that are multiply-accumulates."""
Counts = dict[str, float]
"""Quantity -> amount, by the names of `tunas.cost.features.physical_quantities`."""


def leaf_counts(architecture: Architecture, example: Any) -> dict[str, Counts]:
    """Leaf module -> what it amounts to, for the stand-alone network of a model of one's own.

    Args:
        example: the inputs of one example: a tensor, or a tuple, list or dict of such, first dimension 1.

    Raises:
        InputError: where the network cannot run on the meta device, with what torch said.
    """
    network = meta_network(architecture)
    counter = _Counter(network)
    with torch.no_grad(), counter.naming(), counter:
        try:
            network(on_meta(example))
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, KeyError) as error:
            raise InputError(
                f"{type(network).__name__} cannot be counted: it does not run on torch's meta device with inputs "
                f"{shapes(example)} ({_first_line(error)})"
            ) from error
    return counter.found


def operation_macs(module: nn.Module, *inputs: Any) -> tuple[int, Any]:
    """(multiply-accumulates of a module that is on the meta device, what it gives) for inputs there."""
    counter = _Counter(module)
    with torch.no_grad(), counter.naming(), counter:
        output = module(*inputs)
    return total_macs(counter.found), output


def meta_network(architecture: Architecture) -> nn.Module:
    """The stand-alone network in eval mode, on the meta device: built there, or moved there where it cannot be."""
    try:
        with torch.device("meta"):
            return build_network(architecture).eval()
    except (RuntimeError, NotImplementedError):
        return build_network(architecture).eval().to("meta")


def on_meta(example: Any) -> Any:
    """An example of the same shapes and types without numbers in it."""
    return tree_map(lambda part: part.to("meta") if isinstance(part, Tensor) else part, example)


def shapes(example: Any) -> str:
    """The shapes of an example, for messages."""
    found = [str(list(part.shape)) for part in tree_iter(example) if isinstance(part, Tensor)]
    return ", ".join(found) or "of no tensors"


def macs_of(counts: Counts) -> float:
    """The multiply-accumulates of one leaf."""
    return sum(amount for name, amount in counts.items() if name.startswith(MACS))


def total_macs(counts: dict[str, Counts]) -> int:
    """The multiply-accumulates of all leaves."""
    return int(sum(macs_of(leaf) for leaf in counts.values()))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Counter(TorchDispatchMode):
    """Counts what runs, under the name of the innermost module that runs it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.found: dict[str, Counts] = {}
        self._running: list[str] = []
        self._names = {module: name or type(network).__name__ for name, module in network.named_modules()}
        self._childless = {name for module, name in self._names.items() if not any(True for _ in module.children())}
        for path, parameter in network.named_parameters():
            owner = path.rpartition(".")[0] or type(network).__name__
            self._add(owner, WEIGHTS, parameter.numel())

    def _add(self, leaf: str, quantity: str, amount: float) -> None:
        counts = self.found.setdefault(leaf, {})
        counts[quantity] = counts.get(quantity, 0) + amount

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Within the context the counter knows which module runs."""
        handles = []
        for module, name in self._names.items():
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(lambda *_: self._running.pop() and None, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self._running.append(name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _call(func, args, kwargs or {})
        if self._running:
            leaf = self._running[-1]
            for quantity, amount in call.counts:
                self._add(leaf, quantity, amount)
            if leaf in self._childless and call.elementwise:
                self._add(leaf, "moved elementwise", call.elementwise)
        return call.result()


@dataclass(frozen=True)
class _Call:
    """What one call of an operation gives and amounts to.

    Args:
        result: makes what it returns.
        counts: quantities and amounts, of a matrix product or convolution.
        elementwise: numbers that anything else moves.
    """

    result: Callable[[], Any]
    counts: tuple[tuple[str, float], ...]
    elementwise: int


_calls: dict[Any, _Call] = {}
"""Calls with operands of the same shapes give the same, and the meta device takes long for some operations."""


def _call(func: Any, args: Any, kwargs: Any) -> _Call:
    """Carries out an operation, or remembers what it gave for operands of these shapes."""
    remembers = not (func.is_view or func._schema.is_mutable)
    key: Any = None
    if remembers:
        parts = tree_leaves((args, kwargs))
        key = (func, *((p.shape, p.stride(), p.dtype) if isinstance(p, Tensor) else (type(p), p) for p in parts))
        try:
            if (known := _calls.get(key)) is not None:
                return known
        except TypeError:  # an argument that cannot be hashed
            remembers = False
    result = func(*args, **kwargs)
    made = tree_leaves(result)
    remembers = remembers and all(isinstance(part, Tensor) and part.is_meta for part in made)
    call = _Call(_copies(result) if remembers else lambda: result, *_amounts(func, args, kwargs, result))
    if remembers:
        _calls[key] = call
    return call


def _copies(result: Any) -> Callable[[], Any]:
    """Makes new tensors that look like those of a result."""
    looks = tree_map(lambda part: _Look(part.shape, part.stride(), part.dtype), result)
    return lambda: tree_map_only(_Look, _Look.tensor, looks)


@dataclass(frozen=True)
class _Look:
    """What there is to a tensor on the meta device."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


def _amounts(func: Any, args: Any, kwargs: Any, result: Any) -> tuple[tuple[tuple[str, float], ...], int]:
    """(quantities of a matrix product or convolution, numbers that anything else moves)."""
    operation, moved = func._overloadpacket, _numbers(args) + _numbers(result)
    if operation not in flop_registry:
        return (), 0 if func.is_view else moved
    kind = _kind(operation, args)
    macs = flop_registry[operation](*args, **kwargs, out_val=result) // 2
    return ((MACS + kind, macs), (f"moved {kind}", moved), ("calls", 1), (f"calls {kind}", 1)), 0


def _numbers(values: Any) -> int:
    return sum(value.numel() for value in tree_iter(values) if isinstance(value, Tensor))


def _kind(operation: Any, args: Any) -> str:
    """conv, depthwise, linear or attention, by what is multiplied with what."""
    if "conv" in str(operation):
        groups = args[-1] if isinstance(args[-1], int) else 1
        return "depthwise" if groups > 1 else "conv"
    return "linear" if str(operation).endswith(("mm", "linear")) and not str(operation).endswith("bmm") else "products"
