"""The network that a training trains or an evaluation evaluates."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from tunas.nn import Network, build_network
from tunas.nn.ops import BatchNorm1d, BatchNorm2d
from tunas.nn.timm_weights import options_of_training
from tunas.recipe.finetune import drop_paths_by_depth
from tunas.space import Architecture, Tower
from tunas.space.layers import scale_filters
from tunas.task.task import Task
from tunas.train.config import TrainConfig
from tunas.train.plan import TrainPlan


def network_as_told(
    config: TrainConfig, architecture: Architecture, task: Task, plan: TrainPlan | None = None
) -> Network:
    """The network to train by `plan`, or to evaluate where there is none."""
    if not isinstance(architecture.structure, Tower):
        network = build_network(architecture)
        for module in network.modules():
            if isinstance(module, BatchNorm1d | BatchNorm2d) and plan is not None:
                module.momentum = plan.bn_momentum  # its own one is for long trainings
        return network
    tower = scale_filters(architecture.tower, config.filters_multiplier)
    options = options_of_training(vars(config))
    if plan is None:
        return build_network(tower, **task.network_arguments, options=options)
    options = dataclasses.replace(options, path_dropout_rate=plan.path_dropout_rate, bn_momentum=plan.bn_momentum)
    network = build_network(tower, **task.network_arguments, dropout_rate=plan.dropout_rate, options=options)
    if plan.used_recipe.path_dropout_by_depth:
        drop_paths_by_depth(network, plan.path_dropout_rate)
    return network


def move_to(device: torch.device, network: nn.Module) -> None:
    """Moves the network to the device, in the layout of memory in which convolutions are fast."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
