"""Discs, squares and diamonds on noise, painted by their kinds: an encoder with endpoints, a decoder, mean IoU."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import tunas
from tunas import space as s
from tunas.nn import NetworkOptions, TowerModule, ops


class Network(nn.Module):
    def __init__(self, spec):
        super().__init__()
        encoder, self.width = spec
        self.encoder, width = TowerModule(encoder, NetworkOptions()), s.widest(self.width)
        self.sides = nn.ModuleList(ops.Conv2d(s.widest(b.filters), width, 1, bias=True) for b in encoder.blocks)
        self.head = ops.Conv2d(width, 4, 1, bias=True)

    def forward(self, images, indices=None):
        _, maps = self.encoder(images, indices)
        maps = [side(x, s.chosen(self.width, indices)) for side, x in zip(self.sides, maps, strict=True)]
        return self.head(F.relu(sum(F.interpolate(x, images.shape[2:]) for x in maps)))


def segmenter():
    kernel, widths = s.OneOf((3, 5, 7), s.OP), s.OneOf((8, 12, 16, 24), s.FILTERS)
    bneck = s.InvertedBottleneck(kernel, s.OneOf((s.Times(1), s.Times(3), s.Times(6)), s.FILTERS), stride=2)
    more = s.Residual(s.OneOf((bneck.with_stride(1), s.Zero()), s.OP))
    layers = ((s.Conv(3, stride=2), s.RELU, more), (bneck, more, more), (bneck, more, more))
    return s.Tower(tuple(s.Block((*each, s.DetectionEndpoint()), widths) for each in layers)), widths


def shapes(count, seed):  # images [count, 3, 32, 32]; at each pixel the kind of shape that lies there, 0 for none
    random, labels = torch.Generator().manual_seed(seed), torch.zeros(count, 32, 32, dtype=torch.int64)
    for kind in (1, 2, 3):
        row, column, size = torch.rand(3, count, 1, 1, generator=random) * torch.tensor([32, 32, 5]).view(3, 1, 1, 1)
        down, right = (torch.arange(32)[:, None] - row).abs(), (torch.arange(32) - column).abs()
        distance = (torch.hypot(down, right), torch.maximum(down, right), (down + right) / 1.3)[kind - 1]
        labels[distance < size + 3] = kind
    return TensorDataset(torch.randn(count, 3, 32, 32, generator=random) + 1.5 * (labels > 0)[:, None], labels)


def mean_iou(logits, labels):
    matrix = torch.bincount((4 * labels + logits.argmax(1)).flatten(), minlength=16).view(4, 4)
    both = matrix.diagonal()
    return (both / (matrix.sum(0) + matrix.sum(1) - both).clamp(min=1)).mean()


space = tunas.register_space("segmenter", segmenter, network=Network)
data = (shapes(count, seed) for seed, count in enumerate((1024, 256, 512)))
task = tunas.Task(*data, loss=F.cross_entropy, quality=mean_iou, quality_name="mean_iou")
if __name__ == "__main__":
    wanted = {"cost_model": "macs", "latency": (1e6,), "random": 8, "out": "runs/segmentation"}
    length = {"search": ("epochs=12",), "train": ("epochs=8",)}
    tunas.design(tunas.DesignConfig(ssd="segmenter", **wanted, **length), task)
