"""A model and a task of one's own in one file, as the command line names them: `own_program.py:space` and `:task`."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import tunas
from tunas import OneOf
from tunas.nn import for_each_choice, ops
from tunas.space import FILTERS, OP, chosen, widest


@dataclass(frozen=True)
class Perceptron:
    width: int | OneOf
    activation: str | OneOf


class PerceptronNetwork(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.first = ops.Linear(8, widest(spec.width))
        self.activation = for_each_choice(spec.activation, lambda name: {"relu": nn.ReLU, "gelu": nn.GELU}[name]())
        self.last = ops.Linear(widest(spec.width), 1)

    def forward(self, x, indices=None):
        return self.last(self.activation(self.first(x, chosen(self.spec.width, indices)), indices))


def perceptron():
    return Perceptron(OneOf((8, 16, 24), FILTERS), OneOf(("relu", "gelu"), OP))


space = tunas.register_space("perceptron", perceptron, network=PerceptronNetwork)


def sines(count, seed):
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sin().sum(1, keepdim=True))


def task():
    return tunas.Task(
        sines(256, 0),
        sines(64, 1),
        sines(64, 2),
        loss=F.mse_loss,
        quality=lambda outputs, targets: 1 - F.mse_loss(outputs, targets) / targets.var(),
        name="sines",
        quality_name="explained",
    )
