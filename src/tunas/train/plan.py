"""What follows from what a stand-alone training is told. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tunas.data.config import IMAGENET_SIZE
from tunas.errors import InputError, check_not_negative, check_positive
from tunas.recipe.choose import (
    Mirrors,
    Recipe,
    batch_size,
    bn_momentum_of,
    chosen_recipe,
    ema_decay_of,
    params_of,
    varies_images,
)
from tunas.recipe.defaults import EPOCHS, EVAL_EVERY, FINE_TUNING
from tunas.recipe.schedule import scaled_learning_rate, scheduled_learning_rate, steps_of
from tunas.recipe.steps import steps_in
from tunas.space.catalog import V3_FAMILY
from tunas.train.config import TrainConfig

TEST_EPOCHS = 360
"""Of a training on all training examples that is evaluated on the test set (docs/algorithm.md#stand-alone-training)."""
DROPOUT_FROM_EPOCHS = 150
"""Shorter trainings have no dropout before the classifier (docs/algorithm.md#stand-alone-training)."""
DROPOUT_RATE, V3_DROPOUT_RATE = 0.15, 0.25
"""What the others have: most spaces, and the V3 family (docs/algorithm.md#stand-alone-training)."""

_BELOW_1 = (
    "momentum",
    "label_smoothing",
    "dropout_rate",
    "path_dropout_rate",
    "plain_fraction",
    "ema_decay",
    "bn_momentum",
)
"""Flags from 0 to less than 1."""


@dataclass(frozen=True)
class TrainPlan:
    """Everything that decides what a training computes, with no default left open; rates are for this batch."""

    train_split: str
    eval_split: str
    epochs: float
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    dropout_rate: float
    path_dropout_rate: float
    bn_momentum: float
    ema_decay: float | None
    used_recipe: Recipe
    head_steps: int
    log_every: int
    checkpoint_every: int
    eval_steps: float | None

    def learning_rate_at(self, step: int) -> float:
        """The weights' learning rate in a step.

        While the classifier learns alone it is constant; then the whole course begins, warmup included.
        """
        shape, done = self.used_recipe.scheduler, step - self.head_steps
        if done < 0:
            return scheduled_learning_rate("constant", self.learning_rate, step, self.head_steps)
        steps = self.steps - self.head_steps
        return scheduled_learning_rate(shape, self.learning_rate, done, steps, min(self.warmup_steps, steps))

    def mixes_at(self, step: int) -> bool:
        """Whether the recipe's mixing of images takes place in a step."""
        plain_from = self.used_recipe.plain_from
        return plain_from is None or step * self.epochs < plain_from * self.steps

    def params(self, config: TrainConfig, **facts: Any) -> dict[str, Any]:
        """What `params.json` says."""
        return params_of(config, self) | facts


def splits(config: TrainConfig) -> tuple[str, str]:
    """(what to train on, what to evaluate on)."""
    return ("full_train", "test") if config.use_held_out_test_set else ("train", "valid")


def epochs_of(config: TrainConfig) -> float:
    """Passes over the training examples."""
    return config.epochs or (TEST_EPOCHS if config.use_held_out_test_set else EPOCHS)


def training_recipe(
    config: TrainConfig, train_size: int, image_size: int | None, mirrors: Mirrors | None = None
) -> Recipe:
    """How this training learns its weights; arguments and errors as of `chosen_recipe`."""
    given = {
        "learning_rate": config.base_learning_rate,
        "warmup_fraction": config.warmup_steps_fraction,
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
        "path_dropout_rate": config.path_dropout_rate,
        "path_dropout_by_depth": config.path_dropout_by_depth,
        "plain_fraction": config.plain_fraction,
    }
    recipe = chosen_recipe(
        config,
        train_size,
        image_size,
        bf16=config.precision == "bf16",
        given=given,
        mirrors=mirrors,
        epochs=epochs_of(config),
    )
    if config.plain_fraction and recipe.plain_from is None:
        why = f"epochs={epochs_of(config):g} leave no whole epoch of plain images"
        if image_size is None:
            why = "the examples of this task are no images"
        elif not varies_images(recipe):
            why = "nothing else happens to images here, such as --rotate or --mixup"
        raise InputError(f"plain_fraction={config.plain_fraction:g} means nothing: {why}; leave it out")
    if config.init_from is None or config.base_learning_rate is not None:
        return recipe
    reason = f"{recipe.reason}; {FINE_TUNING:g} of its learning rate, for weights that have learned before"
    return dataclasses.replace(recipe, learning_rate=FINE_TUNING * recipe.learning_rate, reason=reason)


def plan_training(config: TrainConfig, train_size: int, recipe: Recipe | None = None) -> TrainPlan:
    """What follows from the configuration for `train_size` training examples.

    Args:
        recipe: how weights are learned; where left out, what the rules give for a dataset of ImageNet's size.

    Raises:
        InputError: where a value is out of range or values do not fit each other.
    """
    _check_values(config)
    train_split, eval_split = splits(config)
    epochs = epochs_of(config)
    recipe = recipe or training_recipe(config, train_size, config.image_size or IMAGENET_SIZE)
    batch = config.train_batch_size or batch_size(config, train_size)
    steps = steps_in(epochs, train_size, batch)
    if config.head_epochs >= epochs:
        raise InputError(f"head_epochs must leave epochs to the other weights: {config.head_epochs} of {epochs} do not")
    eval_every = config.eval_every or (None if config.use_held_out_test_set else EVAL_EVERY)
    return TrainPlan(
        train_split=train_split,
        eval_split=eval_split,
        epochs=epochs,
        steps=steps,
        batch=batch,
        learning_rate=scaled_learning_rate(recipe.learning_rate, batch),
        warmup_steps=steps_of(recipe.warmup_fraction, steps),
        weight_decay=recipe.weight_decay,
        dropout_rate=_dropout_rate(config, epochs),
        path_dropout_rate=recipe.path_dropout_rate,
        bn_momentum=config.bn_momentum or bn_momentum_of(steps),
        ema_decay=ema_decay_of(recipe, steps) if config.ema_decay is None else config.ema_decay or None,
        used_recipe=recipe,
        head_steps=int(train_size * config.head_epochs // batch),
        log_every=config.log_every or max(1, min(100, steps // 200)),
        checkpoint_every=config.checkpoint_every or max(1, min(1000, steps // 10)),
        eval_steps=None if eval_every is None else eval_every * train_size / batch,
    )


def _check_values(config: TrainConfig) -> None:
    """Refuses what is out of range, whatever the dataset."""
    for name in (
        "epochs",
        "train_batch_size",
        "gradient_accumulation",
        "eval_batch_size",
        "eval_every",
        "base_learning_rate",
        "filters_multiplier",
        "log_every",
        "checkpoint_every",
    ):
        check_positive(name, getattr(config, name))
    check_not_negative("weight_decay", config.weight_decay)
    check_not_negative("head_epochs", config.head_epochs)
    if not 0 < config.layer_decay <= 1:
        raise InputError(f"layer_decay is above 0 and at most 1, not {config.layer_decay}")
    for name in _BELOW_1:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise InputError(f"{name} must be at least 0 and below 1, not {value}")


def _dropout_rate(config: TrainConfig, epochs: float) -> float:
    """Before the classifier."""
    if config.dropout_rate is not None:
        return config.dropout_rate
    if epochs < DROPOUT_FROM_EPOCHS:
        return 0.0
    return V3_DROPOUT_RATE if config.ssd in V3_FAMILY else DROPOUT_RATE
