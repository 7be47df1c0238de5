"""Two faults of a bearing, heard in its vibrations: 1-D convolutions; their kernels, widths and number are searched."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tunas
from tunas.nn import for_each_choice, ops
from tunas.space import FILTERS, OP, OneOf, chosen, widest


class Layer(nn.Module):
    def __init__(self, kernel, width):
        super().__init__()
        self.conv, self.norm = ops.Conv1d(width, width, kernel), ops.BatchNorm1d(width)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x, x.shape[1])))


class Network(nn.Module):
    def __init__(self, stages):
        super().__init__()
        self.stages, self.parts, inputs = stages, nn.ModuleList(), 1
        for width, kernels in stages:
            wide = widest(width)
            layers = [for_each_choice(k, lambda k, wide=wide: k and Layer(k, wide)) for k in kernels]
            self.parts.append(nn.ModuleList([ops.Conv1d(inputs, wide, 5, stride=4), ops.BatchNorm1d(wide), *layers]))
            inputs = wide
        self.head = ops.Linear(inputs, 4)

    def forward(self, x, indices=None):
        for (width, _), (conv, norm, *layers) in zip(self.stages, self.parts, strict=True):
            x = torch.relu(norm(conv(x, chosen(width, indices))))
            for layer in layers:
                change = layer(x, indices)
                x = x if change is None else x + change
        return self.head(x.mean(-1))


def vibrations(count, seed):  # signals [count, 1, 512], and which of the two faults each has: 0 to 3
    random, time = np.random.default_rng(seed), np.arange(512)
    labels = random.integers(4, size=(count, 1))
    turn, phase, swell = (random.uniform(*span, (count, 1)) for span in ((40, 60), (0, 60), (100, 160)))
    ring = np.exp(-((time + phase) % turn) / 6) * np.sin((time + phase) % turn)
    noise = random.normal(size=(count, 512)) * (1 + 0.7 * (labels // 2) * np.sin(6.28 * time / swell))
    signals = torch.tensor(noise + 1.5 * (labels % 2) * ring, dtype=torch.float32)[:, None]
    return TensorDataset(signals, torch.tensor(labels[:, 0]))


widths, layers = OneOf((8, 12, 16, 20, 24), FILTERS), (OneOf((3, 7, 15, None), OP),) * 3
space = tunas.register_space(
    "signals", lambda: ((widths, layers),) * 3, network=Network, example=lambda: torch.zeros(1, 1, 512)
)
splits = (vibrations(count, seed) for seed, count in enumerate((4096, 1024, 2048)))
task = tunas.Task(*splits, loss=nn.functional.cross_entropy, quality=tunas.task.accuracy, quality_name="accuracy")
if __name__ == "__main__":
    wanted = {"cost_model": "macs", "latency": (4e5,), "random": 8, "out": "runs/signals"}
    tunas.design(tunas.DesignConfig(ssd="signals", **wanted, search=("epochs=12",), train=("epochs=8",)), task)
