"""What a search is told. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tunas.flags import as_tuple
from tunas.recipe.config import RecipeConfig
from tunas.search import schedule
from tunas.task.config import TaskConfig


@dataclass(frozen=True)
class SearchConfig(TaskConfig, RecipeConfig):
    """Search an architecture that lands on the wanted cost: one weight-shared network, a learned controller (TuNAS)."""

    ssd: str = "proxylessnas_search"
    """Search space: a name that `tunas spaces` lists, or module:function or file.py:function of your own."""

    checkpoint_dir: str | None = None
    """Directory of the run: parameters, checkpoints, event files, result. A run that is there already goes on. A new
    one under runs/ where left out."""

    epochs: float | None = None
    """Passes over the training split. 90 where left out, 24 on the embedded digits."""

    minutes: float | None = None
    """How long the run may take, in place of epochs. A few steps are timed on this machine first, and the schedule is
    laid out for as many as fit; a run that goes on keeps it."""

    train_batch_size: int | None = None
    """Examples per step, over all replicas. Where left out: by the published recipe and from 100,000 examples on 4096,
    or as many as leave 16 steps per epoch; otherwise 256, or as many as leave 128 steps per epoch; 64 at least."""

    replicas: int | None = None
    """Architectures sampled per step, each on its own share of the batch. One for every 128 examples where left out
    (for every 16 in batches below 512, but at most 4). Several targets share them: as many for each."""

    eval_every: float | None = None
    """Epochs between two measurements of the most likely architecture on the held-out part, with shared weights: a
    figure to log. 1 where left out."""

    model_learning_rate: float | None = None
    """Peak learning rate of the shared weights, per 256 examples. The recipe's where left out (published: 0.165)."""

    model_warmup_steps_fraction: float | None = None
    """Part of the steps over which the weights' learning rate rises. The recipe's where left out (published: 0.025)."""

    model_momentum: float | None = None
    """Momentum of the weights' optimiser. The recipe's where left out (published: 0.9)."""

    model_weight_decay: float | None = None
    """L2 on the convolution kernels in use, whatever the optimiser. 4e-5 where left out, 3e-5 under bf16."""

    rl_learning_rate: float | None = None
    """The controller's first learning rate, per 256 examples; it grows tenfold. Where left out: the published 3e-4, and
    in runs of fewer than 27,050 steps as much more as lets logits go as far as in the published run (at most 0.1)."""

    use_exponential_rl_learning_rate_schedule: bool = True
    """Whether the controller's learning rate grows tenfold, or stays."""

    rl_entropy_regularization: float = 0.0
    """Weight, in what the controller maximises, of the entropy of the choices that the sampled branch makes active."""

    rl_baseline_momentum: float | None = None
    """Momentum of the moving average of the reward. Where left out: the published 0.95, which forgets in 20 of 27,050
    steps, and in shorter runs as much less as forgets in the same part of the run (0 below 1,353 steps)."""

    rl_adam_beta2: float | None = None
    """Momentum of the second moment of the controller's Adam. Where left out: the published 0.999, and less in shorter
    runs by the same rule (at least 0.9)."""

    rl_temperature: float = 1.0
    """Divides the controller's logits."""

    rl_batch_size_multiplier: float | None = None
    """Validation examples per training example. 4 where left out. On the embedded digits: one while the controller
    does not learn yet, then every sampled architecture is measured on 8 times as many as it trains on."""

    rl_delay_steps_fraction: float = schedule.RL_DELAY_FRACTION
    """Part of the steps before the controller learns."""

    rl_delay_validation: Literal["last", "all"] = "last"
    """Steps of this part that measure accuracies, whose only use there is to fill the controller's averages. last: as
    many as its Adam remembers, twice over; all: every one, as published."""

    increase_ops_warmup_steps_fraction: float = schedule.OP_WARMUP_FRACTION
    """Part of the steps over which the chance of running all operations of a choice at once falls from 1 to 0."""

    increase_filters_warmup_steps_fraction: float = schedule.FILTERS_WARMUP_FRACTION
    """The same for the widest filters."""

    rl_reward_function: Literal["abs", "mnas", "mnas_hard"] = "abs"
    """abs: Q + b|T/T0 - 1|. mnas: Q (T/T0)^b. mnas_hard: Q min((T/T0)^b, 1)."""

    enable_cost_model: bool = True
    """Whether cost counts; False searches for accuracy alone."""

    cost_model: str | tuple[str, ...] | None = None
    """pixel1, params, macs, peak_memory, flash, or a file that `tunas fit` wrote. Where left out: pixel1 for the
    spaces that have its tables, otherwise macs. Given as often as rl_cost_model_target, each is for its own target."""

    rl_cost_model_target: float | tuple[float, ...] | None = None
    """The cost to land on, in the cost model's unit; given several times, one search finds an architecture for each.
    Where left out: 84 ms (proxyless spaces), 57 ms (V3-like), otherwise the median of random architectures."""

    at_most: float | None = None
    """In place of rl_cost_model_target: a cost that must not be exceeded; less is fine. The search aims below it by as
    much as the cost model's held-out predictions are exceeded in 5 of 100 cases (by nothing where costs are exact), and
    the result is predicted below that."""

    verify: bool = False
    """With at_most and a cost model that `tunas fit` made on this device: measure the winner, in turn with the model's
    reference networks, and where it is over, search on with a lower target."""

    rl_cost_model_exponent: float | None = None
    """b in the reward: the more negative, the more a cost off target counts. Where left out: the published -0.10; -1 in
    runs shorter than 5,000 steps of 4096 examples, whose noisy accuracies would outweigh a cost a few percent off
    target."""

    rl_cost_model_tolerance: float | None = None
    """What may be left between the result's cost and the target, relative to the target, such as 0.01. Where the most
    likely architecture is farther off, the result is the likeliest that is not, of those that differ from it in at most
    two choices. Where left out, the result is the most likely architecture, as published."""

    choose_from: int = 1
    """With rl_cost_model_tolerance: measure so many of the likeliest architectures within it at the end, with the
    shared weights on the same held-out examples, and take the best. 1 takes the likeliest, as published."""

    constraint: tuple[str, ...] = ()
    """Costs, each as name=limit (only exceeding counts) or name~target (both sides count), such as params=5e6; may be
    given several times. The name is params, macs, peak_memory, flash (the last two also as peak_memory-int8 and
    flash-int8), a file that `tunas fit` wrote, or latency for the cost of --cost_model, in place of
    --rl_cost_model_target. Each adds its own term to the abs reward."""

    num_cost_samples: int | None = None
    """Architectures priced, never run, per step, to estimate the gradient of the cost's part of the reward: less
    variance, same expectation; abs reward only. 0 where left out (the published method), 512 in runs shorter than
    5,000 steps of 4096 examples."""

    accuracy_model: str | None = None
    """A simulated search: accuracies come from this file, which `tunas released --out` wrote, with the noise of as many
    images as would be measured, and no network is trained. As long as published where epochs are left out."""

    padding: Literal["symmetric", "same"] = "symmetric"
    """How convolutions pad: symmetric, as PyTorch networks do; same, as TensorFlow and the published runs do (at stride
    2 on even sizes nothing at the top and left). Train the result with the same."""

    aggressive_sharing: bool = True
    """Whether all kernel sizes, expansions and squeeze-and-excite choices of a bottleneck share its 1x1 convolutions,
    as published. False gives each combination weights of its own: an ablation, with many times the weights."""

    valid_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """In which the validation batches run. auto: as precision says, but for towers on processors that multiply bfloat16
    numbers by themselves bf16, which is 1.2 to 1.8 times as fast there and moves accuracies by a small part of what
    another batch would."""

    parallel_replicas: int | None = None
    """Replicas that run at the same time, on a processor: each takes memory for its activations, and the result is the
    same for any number. Where left out, as many as the processor has threads, but one where a replica's images are many
    or large."""

    rematerialize: bool = False
    """Recompute each layer in the backward pass: less memory, more time, same result."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 computes under autocast. auto: bf16 for mobilenet_v3_like_search on CUDA, otherwise fp32."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. Under torchrun each process takes its own."""

    seed: int = 0
    """Of everything random in the run."""

    log_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Trackers that are given the same scalars as the event files; may be given several times. Each follows its own
    environment variables."""

    log_every: int | None = None
    """Steps between two entries in the event files. 100 where left out, less in short runs."""

    checkpoint_every: int | None = None
    """Steps between two checkpoints. A tenth of the run or 500 where left out, whichever is less."""

    keep_checkpoints: int = 3
    """How many checkpoints stay, the newest ones. More of them let `tunas rank` look back over the search."""

    def __post_init__(self) -> None:
        for name in ("cost_model", "rl_cost_model_target"):
            object.__setattr__(self, name, _one_or_several(getattr(self, name)))

    @property
    def targets(self) -> tuple[float, ...]:
        """The costs to land on; none where the default is to be taken."""
        return as_tuple(self.rl_cost_model_target)

    @property
    def cost_models(self) -> tuple[str, ...]:
        """None where the default is to be taken, one for all targets, or one for each."""
        return as_tuple(self.cost_model)

    def by_target(self) -> tuple[SearchConfig, ...]:
        """For each target the search for it alone."""
        models: tuple[str | None, ...] = self.cost_models or (None,)
        targets: tuple[float | None, ...] = self.targets or (None,)
        if len(models) == 1:
            models *= len(targets)
        return tuple(
            dataclasses.replace(self, rl_cost_model_target=target, cost_model=model)
            for target, model in zip(targets, models, strict=True)
        )


def _one_or_several(value: Any) -> Any:
    """None for an empty tuple, the value of a tuple of one: a flag that may be repeated, given once, is as it was."""
    values = as_tuple(value)
    return values if len(values) > 1 else values[0] if values else None
