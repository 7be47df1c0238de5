"""One step of a search, and the state that it changes (docs/algorithm.md#controller)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunas.errors import DivergedError, InputError
from tunas.nn.cuda_depthwise import is_long
from tunas.nn.supernet import SuperNet
from tunas.nn.used_kernels import UsedKernels
from tunas.recipe.lesson import Lesson
from tunas.recipe.optimizer import RMSPROP, PiecewiseRMSprop, clip_gradients, optimizer_named
from tunas.recipe.precision import autocast
from tunas.recipe.schedule import scheduled_learning_rate
from tunas.run.device import World
from tunas.run.session import generator, seed_global_generators
from tunas.run.transfer import arriving
from tunas.search.aims import Aims
from tunas.search.config import SearchConfig
from tunas.search.distribution import Samples
from tunas.search.objective import Objective
from tunas.search.plan import SearchPlan
from tunas.search.replicas import InOrder, decay_weights, gradients_of, lanes_for
from tunas.search.schedule import rl_learning_rate, warmup_probability
from tunas.space import Space
from tunas.space.layers import IMAGE_CHANNELS
from tunas.task.batches import as_float, piece
from tunas.task.datasets import Batch
from tunas.task.task import Task


class Search:
    """The state of a search in one process, and its step.

    All processes sample all replicas' architectures and hold the same controller; each runs its own part of the
    replicas.
    """

    def __init__(
        self,
        space: Space,
        task: Task,
        plan: SearchPlan,
        config: SearchConfig,
        objectives: Sequence[Objective],
        world: World,
        lesson: Lesson | None = None,
    ):
        self.lesson = lesson or Lesson(task, plan.used_recipe)
        self.task, self.plan, self.config, self.world = task, plan, config, world
        seed_global_generators(config.seed)
        self.supernet = SuperNet(
            space,
            **task.network_arguments,
            rematerialize=config.rematerialize,
            same_padding=config.padding == "same",
            aggressive_sharing=config.aggressive_sharing,
        )
        self.supernet.to(world.device)
        size = task.cost_arguments.get("image_size")
        if world.device.type == "cuda" and size and not is_long(plan.steps * plan.batch, size):
            self.supernet.compile_no_kernels()
        self.weights = self.supernet.flatten()
        recipe = plan.used_recipe
        groups = [{"params": [self.weights], "weight_decay": 0.0}]  # L2 is in the gradient: `decay_weights`
        self.optimizer = optimizer_named(recipe.optimizer, groups, recipe.momentum)
        self.aims = Aims(space, plan, config, objectives)
        local = plan.replicas // world.size
        self.seconds = [0.0] * local
        self.local_replicas = range(world.rank * local, (world.rank + 1) * local)
        alike = task.draws_nothing and not self.supernet.is_own and plan.precision == "fp32"
        numbers = plan.share * IMAGE_CHANNELS * task.cost_arguments["image_size"] ** 2 if alike else 0
        self.lanes = lanes_for(local, world.device, wanted=config.parallel_replicas, alike=alike, numbers=numbers)
        if isinstance(self.optimizer, PiecewiseRMSprop):
            self.optimizer.lanes = self.lanes

    def step(self, step: int, train: list[Batch], valid: list[Batch] | None) -> dict[str, float]:
        """One weight step and one controller step; the scalars to log.

        Args:
            step: from 0.
            train: inputs and targets for each of this process's replicas, of the training batch.
            valid: the same of the validation batch; None where the step measures nothing, and the controller's
                averages stay.

        Raises:
            DivergedError: where a loss is not finite, naming the step and the architecture.
        """
        plan = self.plan
        warmups = (
            warmup_probability(step, plan.increase_ops_steps),
            warmup_probability(step, plan.increase_filters_steps),
        )
        samples = self.aims.sample(step, warmups)
        learning_rate = scheduled_learning_rate(
            plan.used_recipe.scheduler, plan.learning_rate, step, plan.steps, plan.warmup_steps
        )
        losses = self._train(step, samples, train, learning_rate)
        if valid is not None:
            used = plan.delay_valid_share if step < plan.rl_delay_steps else plan.valid_share
            qualities = self.qualities(samples.indices, valid, used)
            losses = torch.cat([losses, qualities[:, None]], 1)
        measured = self.world.gather(losses).cpu().double().numpy()
        self._check_finite(step, samples, measured)
        rate = rl_learning_rate(plan.rl_learning_rate, step, plan.steps, plan.rl_delay_steps, plan.rl_growth)
        scalars = {
            "model/loss": float(measured[:, :2].sum(axis=1).mean()),
            "model/empirical_loss": float(measured[:, 0].mean()),
            "model/regularization_loss": float(measured[:, 1].mean()),
            "model/learning_rate": learning_rate,
            **self.aims.told(rate, warmups),
        }
        if valid is None:
            return {**scalars, **self.aims.undecided(samples)}
        return {**scalars, **self.aims.learn(step, samples, measured[:, 2], rate, warmups)}

    def measures(self, step: int) -> bool:
        """Whether step `step` measures the quality of its architectures."""
        return step >= self.plan.unmeasured_steps

    def control(self, step: int, valid: list[Batch]) -> None:
        """One controller step on the weights as they are, after the last step of the search.

        Args:
            step: from the number of steps of the search.
            valid: as for `step`.
        """
        plan = self.plan
        samples = self.aims.sample(step, (0.0, 0.0))
        quality = self.world.gather(self.qualities(samples.indices, valid, plan.valid_share)).cpu().double().numpy()
        self.aims.learn(step, samples, quality, plan.rl_learning_rate * plan.rl_growth, (0.0, 0.0))

    def _train(self, step: int, samples: Samples, batch: list[Batch], learning_rate: float) -> Tensor:
        """One optimiser step on all replicas; `[local replicas, 2]`: each one's empirical and regularisation loss."""
        plan = self.plan
        gradient = self.weights.grad
        assert gradient is not None
        gradient.zero_()
        total = InOrder()
        self._set_training(True)

        def one(share: tuple[int, Any, Any]) -> tuple[Tensor, UsedKernels]:
            replica, inputs, targets = share
            begun = time.perf_counter()
            if self.lanes.count == 1:  # several work on what draws nothing
                random = generator(self.config.seed, "dropout", step * plan.replicas + replica)
                torch.manual_seed(int(random.integers(2**62)))
            loss = self.lesson.loss(self._outputs(inputs, samples.indices[replica], plan.precision), targets)
            gradients = gradients_of(loss / plan.replicas, in_turn=self.lanes.count == 1)
            total.add(replica - self.local_replicas.start, gradients)
            self.seconds[replica - self.local_replicas.start] = time.perf_counter() - begun
            return loss.detach(), self.supernet.used

        losses, used = zip(*self.lanes.map(one, self._lessons(step, batch)), strict=True)
        regularization = self.lanes.in_one(lambda: decay_weights(used, plan.weight_decay, plan.replicas))
        self.world.sum_(gradient)
        clip_gradients([self.weights], plan.used_recipe.clip_grad)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return torch.stack([torch.stack(losses), regularization], 1)

    def qualities(self, indices: np.ndarray, batch: list[Batch], used: int) -> Tensor:
        """`[local replicas]`: quality of each replica's row of `indices` on the first `used` examples of its share of
        the validation batch."""

        @torch.no_grad()
        def one(share: tuple[int, Any, Any]) -> Tensor:
            replica, inputs, targets = share
            seen = self.task.prepare(piece(inputs, 0, used))
            outputs = self._outputs(seen, indices[replica], self.plan.valid_precision)
            return self.task.quality(outputs, piece(targets, 0, used))

        self._set_training(False)
        qualities = torch.stack(self.lanes.map(one, self._shares(batch), self.seconds))
        return qualities.to(self.world.device, torch.float32)

    def _set_training(self, on: bool) -> None:
        """Lets the dropout of a model of one's own know; a tower has none here, and batch norm has no state."""
        if self.supernet.is_own:
            self.supernet.train(on)

    def _outputs(self, inputs: Any, indices: np.ndarray, precision: str) -> Any:
        with autocast(self.world.device, precision):
            outputs = self.supernet(inputs, indices)
        return as_float(outputs)

    def _shares(self, batch: list[Batch]) -> Iterator[tuple[int, Any, Any]]:
        for replica, share in zip(self.local_replicas, arriving(batch, self.world.device), strict=True):
            yield replica, *share

    def _lessons(self, step: int, batch: list[Batch]) -> Iterator[tuple[int, Any, Any]]:
        """The training shares as the network takes them."""
        seed = int(generator(self.config.seed, "mixing", step).integers(2**62))
        for replica, inputs, targets in self._shares(batch):
            yield replica, *self.lesson.prepared(inputs, targets, seed + replica)

    def _check_finite(self, step: int, samples: Samples, measured: np.ndarray) -> None:
        finite = np.isfinite(measured).all(axis=1)
        if not finite.all():
            replica = int(finite.argmin())
            text = ":".join(map(str, samples.indices[replica].tolist()))
            named = zip(("loss", "loss", self.task.quality_name), measured[replica].tolist(), strict=True)
            name, value = next((name, value) for name, value in named if not math.isfinite(value))
            raise DivergedError(
                f"the {name} is {value} at step {step}, architecture {text} (-1 stands for all choices at once); "
                "the last checkpoint is kept: lower --model_learning_rate and start a new run"
            )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, beside the step."""
        state = self.optimizer.state[self.weights]
        found = {"weights": self.weights, **self.aims.tensors()}
        if self.plan.used_recipe.optimizer != RMSPROP:
            kept = {name: torch.as_tensor(value) for name, value in state.items() if value is not None}
            return {**found, **{f"optimizer/{name}": value for name, value in kept.items()}}
        return {
            **found,
            "square_avg": state.get("square_avg", torch.ones_like(self.weights)),
            "momentum_buffer": state.get("momentum_buffer", torch.zeros_like(self.weights)),
        }

    def numbers(self) -> dict[str, Any]:
        """The plain numbers of a checkpoint."""
        return self.aims.numbers()

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Goes on where `tensors` and `numbers` were taken.

        Raises:
            InputError: where they do not fit this search.
        """
        is_published = self.plan.used_recipe.optimizer == RMSPROP
        for name in ("weights", "square_avg", "momentum_buffer") if is_published else ("weights",):
            if name not in tensors or tensors[name].shape != self.weights.shape:
                raise InputError(f"the checkpoint's {name} do not fit this search space")
        self.weights.copy_(tensors["weights"])
        state = self.optimizer.state_dict()
        if is_published:
            kept = {
                "step": torch.tensor(float(numbers["step"])),
                "square_avg": tensors["square_avg"].clone(),
                "momentum_buffer": tensors["momentum_buffer"].clone(),
            }
        else:
            prefix = "optimizer/"
            kept = {name.removeprefix(prefix): tensors[name].clone() for name in tensors if name.startswith(prefix)}
        state["state"] = {0: kept} if kept else {}
        self.optimizer.load_state_dict(state)
        self.aims.load(tensors, numbers)
