"""A model of one's own as runtimes take networks: one tensor per input."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from tunas.errors import InputError

INPUT = "input"


class FlatNetwork(nn.Module):
    """A network that takes a tuple, list or dict of tensors, called with these one after the other."""

    def __init__(self, network: nn.Module, structure: Any):
        super().__init__()
        self.network = network
        self.structure = structure

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(tree_unflatten(list(inputs), self.structure))


def flat_network(network: nn.Module, example: Any) -> tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...]]:
    """(the network with one argument per tensor of the example; these tensors; names for them).

    Raises:
        InputError: where the example holds something other than tensors.
    """
    if isinstance(example, Tensor):
        return network, (example,), (INPUT,)
    found, structure = tree_flatten_with_path(example)
    for path, part in found:
        if not isinstance(part, Tensor):
            raise InputError(f"an example consists of tensors; {_name(path)} of this one is {type(part).__name__}")
    names = tuple(_name(path) for path, _ in found)
    return FlatNetwork(network, structure), tuple(part for _, part in found), names


def _name(path: Any) -> str:
    """The keys of a dict as they are, places in a tuple with `input` before them: what ONNX can call an input."""
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    return "_".join(f"{INPUT}{key}" if key.isdigit() else key for key in keys)
