"""What follows from what a search is told. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tunas.data.config import IMAGENET_SIZE
from tunas.errors import InputError, check_not_negative, check_positive
from tunas.recipe.choose import Mirrors, Recipe, batch_size, chosen_recipe, params_of
from tunas.recipe.defaults import BATCH, EPOCHS, EVAL_EVERY
from tunas.recipe.schedule import scaled_learning_rate, steps_of
from tunas.recipe.steps import steps_in
from tunas.search import schedule
from tunas.search.config import SearchConfig
from tunas.search.controller import ADAM_BETA2, BASELINE_MOMENTUM
from tunas.search.reward import EXPONENT

DIGITS_EPOCHS = 24
"""Of a search on the embedded digits: a few minutes on two processors."""
REPLICA_BATCH = 128
"""Examples that one sampled architecture sees in a step: 4096 over 32 (docs/algorithm.md#controller)."""
SMALLEST_REPLICA_BATCH = 16
"""The same in batches that are too small for four times `REPLICA_BATCH`."""
PUBLISHED_STEPS = 27_050
"""90 epochs of 1,231,121 examples in whole batches of 4096."""
SHORT_RUN_EXAMPLES = 5_000 * BATCH
"""Runs that learn from fewer, in however many steps, also measure on few: they estimate the gradient of the cost term
from extra architectures, and weigh cost more, where nothing else is said."""
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
        return params_of(config, self) | facts


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
    """Architectures of a step where their number is left out."""
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
) -> Recipe:
    """How this search learns the shared weights; arguments and errors as of `chosen_recipe`.

    Layers are not dropped, and L2 is the published one with any optimiser.
    """
    given = {
        "learning_rate": config.model_learning_rate,
        "warmup_fraction": config.model_warmup_steps_fraction,
        "momentum": config.model_momentum,
        "weight_decay": config.model_weight_decay,
        "path_dropout_rate": 0.0,
        "path_dropout_by_depth": False,
        "ema_horizon": 0.0,
        "plain_fraction": 0.0,
    }
    bf16 = search_precision(config, on_cuda) == "bf16"
    return chosen_recipe(config, train_size, image_size, bf16=bf16, given=given, mirrors=mirrors, coupled=True)


def _valid_precision(config: SearchConfig, precision: str, validates_in_bf16: bool) -> str:
    if config.valid_precision != "auto":
        return config.valid_precision
    return "bf16" if validates_in_bf16 else precision


def plan_search(
    config: SearchConfig,
    train_size: int,
    *,
    digits: bool,
    on_cuda: bool,
    recipe: Recipe | None = None,
    validates_in_bf16: bool = False,
) -> SearchPlan:
    """What follows from the configuration for a training split of `train_size` examples.

    Args:
        recipe: how weights are learned; where left out, what the rules give for a dataset of ImageNet's size.
        validates_in_bf16: what `--valid_precision=auto` stands for.

    Raises:
        InputError: where a value is out of range or values do not fit each other.
    """
    _check_values(config)
    batch, replicas = _batch_and_replicas(config, train_size)
    share = batch // replicas
    steps = steps_in(config.epochs or (DIGITS_EPOCHS if digits else EPOCHS), train_size, batch)
    valid_share, delay_valid_share = _valid_shares(config, share, digits)
    precision = search_precision(config, on_cuda)
    recipe = recipe or search_recipe(config, train_size, config.image_size or IMAGENET_SIZE, on_cuda)
    momentum = _momentum(config.rl_baseline_momentum, BASELINE_MOMENTUM, steps, 0.0)
    beta2 = _momentum(config.rl_adam_beta2, ADAM_BETA2, steps, SHORTEST_BETA2)
    is_short = steps * batch < SHORT_RUN_EXAMPLES
    delay, measures_last = steps_of(config.rl_delay_steps_fraction, steps), config.rl_delay_validation == "last"
    return SearchPlan(
        rl_cost_model_exponent=_exponent(config, is_short),
        rl_baseline_momentum=momentum,
        rl_adam_beta2=beta2,
        unmeasured_steps=schedule.unmeasured_steps(delay, momentum, beta2) if measures_last else 0,
        valid_precision=_valid_precision(config, precision, validates_in_bf16),
        steps=steps,
        batch=batch,
        replicas=replicas,
        share=share,
        valid_share=valid_share,
        delay_valid_share=delay_valid_share,
        learning_rate=scaled_learning_rate(recipe.learning_rate, batch),
        warmup_steps=steps_of(recipe.warmup_fraction, steps),
        weight_decay=recipe.weight_decay,
        used_recipe=recipe,
        rl_learning_rate=_rl_learning_rate(config, batch, steps),
        rl_growth=schedule.RL_LEARNING_RATE_GROWTH if config.use_exponential_rl_learning_rate_schedule else 1.0,
        rl_delay_steps=delay,
        increase_ops_steps=steps_of(config.increase_ops_warmup_steps_fraction, steps),
        increase_filters_steps=steps_of(config.increase_filters_warmup_steps_fraction, steps),
        num_cost_samples=_cost_samples(config, is_short),
        precision=precision,
        log_every=config.log_every or max(1, min(100, steps // 200)),
        checkpoint_every=config.checkpoint_every or max(1, min(500, steps // 10)),
        eval_steps=(config.eval_every or EVAL_EVERY) * train_size / batch,
    )


def _check_values(config: SearchConfig) -> None:
    """Refuses what is out of range or does not fit together, whatever the dataset."""
    for name in (
        "epochs",
        "train_batch_size",
        "replicas",
        "eval_every",
        "model_learning_rate",
        "rl_learning_rate",
        "rl_cost_model_tolerance",
        "choose_from",
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
    if config.rl_cost_model_tolerance is not None and (config.constraint or not config.enable_cost_model):
        raise InputError(
            "rl_cost_model_tolerance is about one cost with one target; leave it out with constraints, or without "
            "a cost model"
        )
    if config.choose_from > 1 and config.rl_cost_model_tolerance is None:
        raise InputError(
            "choose_from chooses among architectures within rl_cost_model_tolerance of the target; give that too, such "
            "as 0.01"
        )


def _batch_and_replicas(config: SearchConfig, train_size: int) -> tuple[int, int]:
    """Examples of a step, and architectures among which they are divided."""
    count = max(1, len(config.targets))
    batch = config.train_batch_size or batch_size(config, train_size)
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


def divisible(config: SearchConfig, plan: SearchPlan, processes: int) -> str:
    """Flags with which so many processes can share the search, none of them with a tiny part of a batch."""
    multiple = math.lcm(processes, max(1, len(config.targets)))
    replicas = math.ceil(plan.replicas / multiple) * multiple
    share = max(SMALLEST_REPLICA_BATCH, plan.batch // replicas)
    return f"--replicas={replicas} --train_batch_size={replicas * share}"


def _valid_shares(config: SearchConfig, share: int, digits: bool) -> tuple[int, int]:
    """Validation examples for each architecture: once the controller learns, and before."""
    multiplier = config.rl_batch_size_multiplier
    valid_share = max(1, round(share * (multiplier or (DIGITS_MULTIPLIER if digits else VALIDATION_MULTIPLIER))))
    return valid_share, share if digits and multiplier is None else valid_share


def _cost_samples(config: SearchConfig, is_short: bool) -> int:
    """Architectures that are priced, never run, in a controller step."""
    samples = config.num_cost_samples
    separable = config.enable_cost_model and config.rl_reward_function == "abs"
    if samples is None:
        samples = COST_SAMPLES if separable and is_short else 0
    if samples == 1:
        raise InputError("num_cost_samples must be 0 or at least 2, not 1")
    if samples and not separable:
        raise InputError(
            "num_cost_samples works with the abs reward only, where the cost's part stands on its own; set it to 0"
        )
    return samples


def _exponent(config: SearchConfig, is_short: bool) -> float:
    """β of the reward: the given one, or by the length of the run."""
    if config.rl_cost_model_exponent is not None:
        return config.rl_cost_model_exponent
    return SHORT_RUN_EXPONENT if is_short else EXPONENT


def _rl_learning_rate(config: SearchConfig, batch: int, steps: int) -> float:
    """The controller's first learning rate, by which logits go as far as in the published run where none is given."""
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
