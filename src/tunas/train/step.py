"""One step of a training, and the state that it changes (docs/algorithm.md#stand-alone-training)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tunas.errors import DivergedError, InputError
from tunas.nn import Network
from tunas.recipe.finetune import parameter_groups, set_learning_rates
from tunas.recipe.lesson import Lesson
from tunas.recipe.optimizer import clip_gradients, optimizer_named
from tunas.recipe.precision import autocast
from tunas.run.device import World
from tunas.run.session import generator
from tunas.task.batches import as_float, length, on_device, parts
from tunas.task.datasets import Batch
from tunas.train.config import TrainConfig
from tunas.train.plan import TrainPlan
from tunas.train.statistics import batches_for_statistics, renew_statistics
from tunas.train.weights import AVERAGED, PLAIN, load_tensors


class Training:
    """The state of a training in one process, and its step."""

    def __init__(self, network: Network, lesson: Lesson, plan: TrainPlan, config: TrainConfig, world: World):
        self.network, self.lesson, self.plan, self.config, self.world = network, lesson, plan, config, world
        recipe = plan.used_recipe
        if plan.head_steps and not hasattr(network, "tower"):
            raise InputError("head_epochs lets the classifier learn alone, and this network has none of its own")
        groups = parameter_groups(network, plan.weight_decay, config.layer_decay)
        self.optimizer = optimizer_named(recipe.optimizer, groups, recipe.momentum)
        self.ema: ModelEmaV3 | None = None
        if plan.ema_decay is not None:
            self.ema = ModelEmaV3(network, decay=plan.ema_decay, use_warmup=config.ema_warmup)
        self.kernels = [
            parameter for group in self.optimizer.param_groups if group["weight_decay"] for parameter in group["params"]
        ]
        self.forward: nn.Module = network
        self.parallel: DistributedDataParallel | None = None
        if world.size > 1:
            self.forward = self.parallel = DistributedDataParallel(
                network,
                device_ids=[world.device.index] if world.device.type == "cuda" else None,
                broadcast_buffers=False,  # see `share_statistics`
                find_unused_parameters=plan.path_dropout_rate > 0,
            )
        if config.compile:
            self.forward = torch.compile(self.forward)  # type: ignore[assignment]

    @property
    def evaluated(self) -> nn.Module:
        """The network whose quality counts: the averaged one where there is one."""
        return self.ema.module if self.ema is not None else self.network

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """One optimiser step on this process's part of the batch; the scalars to log.

        Raises:
            DivergedError: where the loss is not finite, naming the step.
        """
        config, plan, world = self.config, self.plan, self.world
        torch.manual_seed(int(generator(config.seed, "dropout", step * world.size + world.rank).integers(2**62)))
        mixing = int(generator(config.seed, "mixing", step * world.size + world.rank).integers(2**62))
        learning_rate = plan.learning_rate_at(step)
        head_only = step < plan.head_steps
        self.network.train()
        if head_only:
            self.network.tower.eval()
        self.optimizer.zero_grad(set_to_none=True)
        total = self._gathered_gradients(on_device(batch, world.device), mixing, plan.mixes_at(step))
        set_learning_rates(self.optimizer.param_groups, learning_rate, head_only=head_only)
        with torch.no_grad():
            regularization = 0.5 * plan.weight_decay * torch.stack(torch._foreach_norm(self.kernels)).square().sum()
        clip_gradients(self.network.parameters(), plan.used_recipe.clip_grad)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.network, step=step)
        empirical = float(world.gather(total.reshape(1)).mean())
        if not torch.isfinite(torch.tensor(empirical)):
            raise DivergedError(
                f"the loss is {empirical} at step {step}; the last checkpoint is kept: lower --base_learning_rate "
                f"and start a new run"
            )
        return {
            "model/loss": empirical + float(regularization),
            "model/empirical_loss": empirical,
            "model/regularization_loss": float(regularization),
            "model/learning_rate": learning_rate,
        }

    def _gathered_gradients(self, batch: Batch, mixing: int, mixes: bool) -> Tensor:
        """The mean loss of a batch, whose gradients are gathered part by part.

        Args:
            mixing: seed of what mixes the examples of the first part; that of each further one is one more.
            mixes: whether they are mixed at all.
        """
        config, device, whole = self.config, self.world.device, length(batch)
        total = torch.zeros((), device=device)
        pieces = parts(batch, config.gradient_accumulation)
        for number, (inputs, targets) in enumerate(pieces):
            last = number + 1 == len(pieces)
            share_of_batch = length(targets) / whole
            inputs, targets = self.lesson.prepared(inputs, targets, mixing + number, mixes=mixes)
            with self._no_exchange(not last), autocast(device, config.precision):
                outputs = self.forward(inputs)
                share = self.lesson.loss(as_float(outputs), targets) * share_of_batch
                share.backward()
            total += share.detach()
        return total

    def _no_exchange(self, quiet: bool) -> contextlib.AbstractContextManager[Any]:
        """The context of a backward pass after which the processes do not exchange gradients, where `quiet`."""
        return self.parallel.no_sync() if quiet and self.parallel is not None else contextlib.nullcontext()

    def renew_statistics(self, following: Iterator[Batch]) -> None:
        """Takes the averaged network's batch-norm statistics from batches that follow the last step's, not mixed."""
        if self.ema is None:
            return
        count = batches_for_statistics(self.lesson.task.size(self.plan.train_split), self.plan.batch)
        inputs = (
            self.lesson.task.prepare(part)
            for batch in itertools.islice(following, count)
            for part, _ in parts(on_device(batch, self.world.device), self.config.gradient_accumulation)
        )
        renew_statistics(self.ema.module, inputs, self.world.device, self.config.precision)

    def share_statistics(self) -> None:
        """Gives every process the mean of all processes' running batch-norm statistics.

        They are moving averages of what each process sees in its part of the batch, and averages of averages commute.
        """
        self.world.average_(self.network.buffers())
        if self.ema is not None:
            self.world.average_(self.ema.module.buffers())

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, beside the step."""
        state = self.optimizer.state_dict()["state"]
        found = {f"{PLAIN}{name}": value for name, value in self.network.state_dict().items()}
        found |= {
            f"optimizer/{index}/{name}": torch.as_tensor(value)
            for index, values in state.items()
            for name, value in values.items()
        }
        if self.ema is not None:
            found |= {f"{AVERAGED}{name}": value for name, value in self.ema.module.state_dict().items()}
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Goes on where `tensors` was taken.

        Raises:
            InputError: where the weights do not fit the network.
        """
        load_tensors(self.network, tensors, PLAIN)
        if self.ema is not None:
            load_tensors(self.ema.module, tensors, AVERAGED)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
