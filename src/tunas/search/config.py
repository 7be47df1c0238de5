"""What a search is told, and what follows from it. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from tunas.data.config import IMAGENET_SIZE
from tunas.errors import InputError, check_not_negative, check_positive
from tunas.flags import as_tuple
from tunas.recipe.choose import VIEW_FLAGS, Mirrors, Recipe, as_params, chosen_recipe
from tunas.recipe.config import RecipeConfig
from tunas.recipe.defaults import BATCH, EPOCHS, EVAL_EVERY, auto_batch_size
from tunas.recipe.schedule import LEARNING_RATE_WARMUP_FRACTION, PEAK_LEARNING_RATE, scaled_learning_rate, steps_of
from tunas.search import schedule
from tunas.search.controller import ADAM_BETA2, BASELINE_MOMENTUM
from tunas.search.reward import EXPONENT
from tunas.task.config import TaskConfig

DIGITS_EPOCHS = 24
"""Of a search on the embedded digits: a few minutes on two processors."""
REPLICA_BATCH = 128
"""Examples that one sampled architecture sees in a step: 4096 over 32 (docs/algorithm.md#controller)."""
SMALLEST_REPLICA_BATCH = 16
PUBLISHED_STEPS = 27_050
"""90 epochs of 1,231,121 examples in whole batches of 4096."""
SHORT_RUN_STEPS = 5_000
"""Runs shorter than this estimate the gradient of the cost term from extra architectures, and weigh cost more, where
nothing else is said."""
SHORT_RUN_EXPONENT = -1.0
COST_SAMPLES = 512
VALIDATION_MULTIPLIER = 4.0
"""Validation examples per training example (docs/algorithm.md#controller)."""
DIGITS_MULTIPLIER = 8.0
RL_LEARNING_RATE_CAP = 0.1
"""Largest first learning rate that the rule for short runs gives."""
SHORTEST_BETA2 = 0.9
"""Least momentum of Adam's second moment that the rule for short runs gives."""


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
    """Examples per step, over all replicas. 4096 where left out, or fewer where the dataset is small (a power of two
    that leaves at least 16 steps per epoch)."""

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
    runs of fewer than 5,000 steps, whose noisy accuracies would outweigh a cost a few percent off target."""

    rl_cost_model_tolerance: float | None = None
    """What may be left between the result's cost and the target, relative to the target, such as 0.01. Where the most
    likely architecture is farther off, the result is the likeliest that is not, of those that differ from it in at most
    two choices. Where left out, the result is the most likely architecture, as published."""

    constraint: tuple[str, ...] = ()
    """Costs, each as name=limit (only exceeding counts) or name~target (both sides count), such as params=5e6; may be
    given several times. The name is params, macs, peak_memory, flash (the last two also as peak_memory-int8 and
    flash-int8), a file that `tunas fit` wrote, or latency for the cost of --cost_model, in place of
    --rl_cost_model_target. Each adds its own term to the abs reward."""

    num_cost_samples: int | None = None
    """Architectures priced, never run, per step, to estimate the gradient of the cost's part of the reward: less
    variance, same expectation; abs reward only. 0 where left out (the published method), 512 in runs of fewer than
    5,000 steps."""

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
    """In which the validation batches run; bf16 is faster on processors that have it (1.3 to 1.8 times, by image size),
    and moves accuracies by its rounding. auto: as precision says."""

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


@dataclass(frozen=True)
class SearchPlan:
    """Everything that decides what a search computes, with no default left open.

    Args:
        steps: optimiser steps in all.
        batch, replicas, share: examples per step, architectures per step, examples per architecture.
        valid_share: validation examples per architecture.
        delay_valid_share: how many of these count while the controller does not learn yet.
        learning_rate, rl_learning_rate: scaled to this batch.
        warmup_steps, rl_delay_steps, increase_ops_steps, increase_filters_steps: in steps.
        rl_growth: how many times the controller's learning rate grows.
        eval_steps: steps between two measurements of the most likely architecture, not necessarily whole.
        unmeasured_steps: at the start, in which no accuracy is measured.
    """

    steps: int
    batch: int
    replicas: int
    share: int
    valid_share: int
    delay_valid_share: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    rl_learning_rate: float
    rl_growth: float
    rl_cost_model_exponent: float
    rl_baseline_momentum: float
    rl_adam_beta2: float
    rl_delay_steps: int
    unmeasured_steps: int
    increase_ops_steps: int
    increase_filters_steps: int
    num_cost_samples: int
    used_recipe: Recipe
    precision: str
    valid_precision: str
    log_every: int
    checkpoint_every: int
    eval_steps: float

    def params(self, config: SearchConfig, **facts: Any) -> dict[str, Any]:
        """What `params.json` says: the configuration, what follows from it, and `facts`."""
        decided = dataclasses.asdict(self)
        return {**dataclasses.asdict(config), **as_params(decided.pop("used_recipe")), **decided, **facts}


def _one_or_several(value: Any) -> Any:
    """None for an empty tuple, the value of a tuple of one: a flag that may be repeated, given once, is as it was."""
    values = as_tuple(value)
    return values if len(values) > 1 else values[0] if values else None


def check_targets(config: SearchConfig) -> None:
    """Refuses targets and cost models that do not fit each other.

    Raises:
        InputError: in one sentence.
    """
    targets, models = config.targets, config.cost_models
    for target in targets:
        check_positive("rl_cost_model_target", target)
    if len(models) > 1 and len(models) != len(targets):
        raise InputError(
            f"{len(models)} times --cost_model and {len(targets)} times --rl_cost_model_target: give one cost model "
            f"for all targets, or one for each"
        )
    pairs = list(zip(targets, models if len(models) > 1 else (None,) * len(targets), strict=True))
    for target, model in pairs:
        if pairs.count((target, model)) > 1:
            of = f" of {model}" if model else ""
            raise InputError(f"--rl_cost_model_target={target:g}{of} is given twice; give each cost once")


def auto_replicas(batch: int) -> int:
    return batch // REPLICA_BATCH if batch >= 4 * REPLICA_BATCH else min(4, max(1, batch // SMALLEST_REPLICA_BATCH))


def search_precision(config: SearchConfig, on_cuda: bool) -> str:
    """fp32 or bf16."""
    if config.precision != "auto":
        return config.precision
    return "bf16" if on_cuda and config.ssd == "mobilenet_v3_like_search" else "fp32"


def search_recipe(
    config: SearchConfig,
    train_size: int,
    image_size: int | None,
    on_cuda: bool,
    mirrors: Mirrors | None = None,
    digits: bool = False,
) -> Recipe:
    """How this search learns the shared weights; arguments and errors as of `chosen_recipe`. Layers are not dropped,
    and L2 is what it is as published with any optimiser. By itself a recipe changes the views alone, and not those of
    the embedded digits: how searches land was measured with the published rates.

    Args:
        digits: the images are the embedded ones.
    """
    by_itself = config.recipe == "auto" and config.optimizer is None
    if by_itself and digits and all(getattr(config, name) == getattr(RecipeConfig, name) for name in VIEW_FLAGS):
        config = dataclasses.replace(config, augment="none")
    published: dict[str, Any] = {}
    if by_itself:
        published = {"learning_rate": PEAK_LEARNING_RATE, "warmup_fraction": LEARNING_RATE_WARMUP_FRACTION}
        if config.clip_grad is None:
            published["clip_grad"] = 0.0
    flags = {
        "learning_rate": config.model_learning_rate,
        "warmup_fraction": config.model_warmup_steps_fraction,
        "momentum": config.model_momentum,
        "weight_decay": config.model_weight_decay,
        "path_dropout_rate": 0.0,
        "path_dropout_by_depth": False,
        "ema_horizon": 0.0,
    }
    given = {**published, **{name: value for name, value in flags.items() if value is not None}}
    bf16 = search_precision(config, on_cuda) == "bf16"
    return chosen_recipe(config, train_size, image_size, bf16=bf16, given=given, mirrors=mirrors, coupled=True)


def plan_search(
    config: SearchConfig, train_size: int, *, digits: bool, on_cuda: bool, recipe: Recipe | None = None
) -> SearchPlan:
    """What follows from the configuration for a training split of `train_size` examples.

    Args:
        recipe: how weights are learned; where left out, what the rules give for a dataset of ImageNet's size.

    Raises:
        InputError: where a value is out of range or values do not fit each other.
    """
    _check_values(config)
    batch, replicas = _batch_and_replicas(config, train_size)
    share = batch // replicas
    steps = int(train_size * (config.epochs or (DIGITS_EPOCHS if digits else EPOCHS)) // batch)
    if steps < 1:
        raise InputError(
            f"{config.epochs} epochs of {train_size} examples are less than one batch of {batch}; use more epochs or "
            f"smaller batches"
        )
    multiplier = config.rl_batch_size_multiplier
    valid_share = max(1, round(share * (multiplier or (DIGITS_MULTIPLIER if digits else VALIDATION_MULTIPLIER))))
    samples = _cost_samples(config, steps)
    if config.rl_cost_model_tolerance is not None and (config.constraint or not config.enable_cost_model):
        raise InputError(
            "rl_cost_model_tolerance is about one cost with one target; leave it out with constraints, or without "
            "a cost model"
        )
    precision = search_precision(config, on_cuda)
    recipe = recipe or search_recipe(config, train_size, config.image_size or IMAGENET_SIZE, on_cuda, digits=digits)
    exponent = config.rl_cost_model_exponent
    if exponent is None:
        exponent = SHORT_RUN_EXPONENT if steps < SHORT_RUN_STEPS else EXPONENT
    momentum = _momentum(config.rl_baseline_momentum, BASELINE_MOMENTUM, steps, 0.0)
    beta2 = _momentum(config.rl_adam_beta2, ADAM_BETA2, steps, SHORTEST_BETA2)
    delay = steps_of(config.rl_delay_steps_fraction, steps)
    return SearchPlan(
        rl_cost_model_exponent=exponent,
        rl_baseline_momentum=momentum,
        rl_adam_beta2=beta2,
        unmeasured_steps=0
        if config.rl_delay_validation == "all"
        else schedule.unmeasured_steps(delay, momentum, beta2),
        valid_precision=search_precision(config, on_cuda)
        if config.valid_precision == "auto"
        else config.valid_precision,
        steps=steps,
        batch=batch,
        replicas=replicas,
        share=share,
        valid_share=valid_share,
        delay_valid_share=share if digits and multiplier is None else valid_share,
        learning_rate=scaled_learning_rate(recipe.learning_rate, batch),
        warmup_steps=steps_of(recipe.warmup_fraction, steps),
        weight_decay=recipe.weight_decay,
        used_recipe=recipe,
        rl_learning_rate=_rl_learning_rate(config, batch, steps),
        rl_growth=schedule.RL_LEARNING_RATE_GROWTH if config.use_exponential_rl_learning_rate_schedule else 1.0,
        rl_delay_steps=delay,
        increase_ops_steps=steps_of(config.increase_ops_warmup_steps_fraction, steps),
        increase_filters_steps=steps_of(config.increase_filters_warmup_steps_fraction, steps),
        num_cost_samples=samples,
        precision=precision,
        log_every=config.log_every or max(1, min(100, steps // 200)),
        checkpoint_every=config.checkpoint_every or max(1, min(500, steps // 10)),
        eval_steps=(config.eval_every or EVAL_EVERY) * train_size / batch,
    )


def _check_values(config: SearchConfig) -> None:
    for name in (
        "epochs",
        "train_batch_size",
        "replicas",
        "eval_every",
        "model_learning_rate",
        "rl_learning_rate",
        "rl_cost_model_tolerance",
        "at_most",
        "rl_batch_size_multiplier",
        "rl_temperature",
        "parallel_replicas",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ):
        check_positive(name, getattr(config, name))
    check_targets(config)
    for name in ("model_weight_decay", "rl_entropy_regularization", "num_cost_samples"):
        check_not_negative(name, getattr(config, name))
    if config.model_momentum is not None and not 0 <= config.model_momentum < 1:
        raise InputError(f"model_momentum must be at least 0 and below 1, not {config.model_momentum}")
    schedule.check_warmups(
        config.increase_ops_warmup_steps_fraction,
        config.increase_filters_warmup_steps_fraction,
        config.rl_delay_steps_fraction,
    )


def _batch_and_replicas(config: SearchConfig, train_size: int) -> tuple[int, int]:
    """Examples of a step, and architectures among which they are divided."""
    count = max(1, len(config.targets))
    batch = config.train_batch_size or auto_batch_size(train_size)
    replicas = config.replicas or max(count, auto_replicas(batch) // count * count)
    if replicas % count:
        raise InputError(
            f"{replicas} replicas cannot be dealt to {count} targets; choose --replicas as a multiple of {count}"
        )
    if config.train_batch_size is None and config.replicas is None:
        batch -= batch % replicas
    if batch % replicas:
        raise InputError(
            f"the batch of {batch} examples cannot be divided among {replicas} replicas; choose a multiple of "
            f"{replicas}"
        )
    return batch, replicas


def _cost_samples(config: SearchConfig, steps: int) -> int:
    """Architectures that are priced, never run, in a controller step."""
    samples = config.num_cost_samples
    separable = config.enable_cost_model and config.rl_reward_function == "abs"
    if samples is None:
        samples = COST_SAMPLES if separable and steps < SHORT_RUN_STEPS else 0
    if samples == 1:
        raise InputError("num_cost_samples must be 0 or at least 2, not 1")
    if samples and not separable:
        raise InputError(
            "num_cost_samples works with the abs reward only, where the cost's part stands on its own; set it to 0"
        )
    return samples


def _rl_learning_rate(config: SearchConfig, batch: int, steps: int) -> float:
    if config.rl_learning_rate is None:
        published = scaled_learning_rate(schedule.RL_LEARNING_RATE, BATCH)
        as_far = min(RL_LEARNING_RATE_CAP, published * PUBLISHED_STEPS / steps)
        return max(scaled_learning_rate(schedule.RL_LEARNING_RATE, batch), as_far)
    return scaled_learning_rate(config.rl_learning_rate, batch)


def _momentum(given: float | None, published: float, steps: int, smallest: float) -> float:
    """The given momentum, or the published one with its memory shortened as much as the run is."""
    if given is not None:
        return given
    return min(published, max(smallest, 1 - (1 - published) * PUBLISHED_STEPS / steps))
