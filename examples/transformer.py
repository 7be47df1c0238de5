"""A small vision transformer on the embedded digits: its depth, heads and hidden widths are searched."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import tunas
from tunas.nn import for_each_choice, ops
from tunas.space import FILTERS, OP, OneOf, chosen, widest

WIDTH, PATCH, PLACES = 48, 8, 16


@dataclass(frozen=True)
class Layer:
    heads: int | OneOf
    hidden: int | OneOf


class LayerNetwork(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, hidden = layer, widest(layer.hidden)
        self.norms = nn.ModuleList([ops.LayerNorm(WIDTH), ops.LayerNorm(WIDTH)])
        self.attention = ops.MultiheadAttention(WIDTH, widest(layer.heads), 16)
        self.up, self.down = ops.Linear(WIDTH, hidden), ops.Linear(hidden, WIDTH)

    def forward(self, x, indices=None):
        attended = self.attention(self.norms[0](x), chosen(self.layer.heads, indices))
        hidden = self.up(self.norms[1](x + attended), chosen(self.layer.hidden, indices))
        return attended + self.down(F.gelu(hidden))


class Network(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Parameter(0.02 * torch.randn(PLACES, WIDTH))
        self.layers = nn.ModuleList(for_each_choice(layer, lambda one: one and LayerNetwork(one)) for layer in layers)
        self.norm, self.head = ops.LayerNorm(WIDTH), ops.Linear(WIDTH, 10)

    def forward(self, images, indices=None):
        x = self.patches(images).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            change = layer(x, indices)
            x = x if change is None else x + change
        return self.head(self.norm(x).mean(1))


def transformer():
    layer = Layer(OneOf((1, 2, 3, 4), FILTERS), OneOf((16, 64, 128, 256, 384), FILTERS))
    return (layer, *(OneOf((layer, None), OP),) * 5)


space = tunas.register_space("transformer", transformer, network=Network)
if __name__ == "__main__":
    wanted = {"cost_model": "macs", "latency": (1.2e6,), "random": 8, "out": "runs/transformer"}
    length = {"search": ("epochs=40",), "train": ("epochs=12",)}
    tunas.design(tunas.DesignConfig(ssd="transformer", **wanted, **length))
