"""Batch norm's statistics of averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tunas.recipe.precision import autocast

MOST_EXAMPLES = 2**14
"""Training examples that the statistics are taken from, at most: the error of a mean over so many is below 1 % of the
spread."""


def batches_for_statistics(examples: int, batch: int) -> int:
    """How many batches hold all training examples, or `MOST_EXAMPLES` of them."""
    return math.ceil(min(examples, MOST_EXAMPLES) / batch)


@torch.no_grad()
def renew_statistics(network: nn.Module, batches: Iterable[Any], device: torch.device, precision: str) -> None:
    """Takes the statistics of every batch norm anew, each the mean over the batches.

    Averaged weights have outputs of their own, of which an average of the statistics that other weights had knows
    little (Izmailov et al. 2018). Nothing is dropped meanwhile; the network is left in eval mode.

    Args:
        batches: what the network takes, on its device.
        precision: that it computes in, fp32 or bf16.
    """
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all
        norm.train()
    for batch in batches:
        with autocast(device, precision):
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
