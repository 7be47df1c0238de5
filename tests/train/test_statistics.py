"""Batch norm's statistics of averaged weights."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from tunas.nn.ops import BatchNorm2d
from tunas.train.statistics import MOST_EXAMPLES, batches_for_statistics, renew_statistics


def test_renewed_statistics_are_those_of_torch_where_nothing_is_dropped():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    batches = [3 + 2 * torch.randn(6, 3, 8, 8) for _ in range(4)]
    network.train()(batches[0])
    expected = copy.deepcopy(network)
    update_bn(batches, expected)
    renew_statistics(network, batches, torch.device("cpu"), "fp32")
    for name, value in expected.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name
    assert not network.training and [network[1].momentum, network[4].momentum] == [0.01, 0.1]


def test_nothing_is_dropped_while_statistics_are_taken():
    class Halved(nn.Module):
        def forward(self, x):
            return x * 0 if self.training else x

    network = nn.Sequential(Halved(), BatchNorm2d(2)).train()
    renew_statistics(network, [torch.full((4, 2, 3, 3), 5.0)], torch.device("cpu"), "fp32")
    assert network[1].running_mean.tolist() == [5.0, 5.0]
    renew_statistics(nn.Linear(2, 2), [torch.ones(1, 3)], torch.device("cpu"), "fp32")  # has none: nothing is computed


def test_statistics_are_taken_from_all_examples_or_enough():
    assert [batches_for_statistics(examples, 64) for examples in (10, 64, 65, 10**6)] == [1, 1, 2, MOST_EXAMPLES // 64]
