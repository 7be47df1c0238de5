"""Which recipe a run uses, and what it comes to. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunas.data.augmentation import MAX_ELASTIC, MAX_MAGNITUDE, MAX_SHEAR, NOT_PLAIN, PUBLISHED, Augmentation
from tunas.errors import InputError, check_finite
from tunas.recipe.config import RecipeConfig
from tunas.recipe.defaults import MOMENTUM, WEIGHT_DECAY, WEIGHT_DECAY_BF16, auto_batch_size, small_batch_size
from tunas.recipe.schedule import LEARNING_RATE_WARMUP_FRACTION, PEAK_LEARNING_RATE

PUBLISHED_FROM = 100_000
"""Training images from which on the published recipe is the default, and a design is as long as published."""
LARGE_IMAGES = 96
"""Pixels a side from which on the small recipe crops as for photographs."""
GENTLE = Augmentation(crop_scale=(0.6, 1.0), crop_ratio=(0.9, 1.1), hflip=0.0)
"""Around the evaluation crop's 0.77 of a square image's area."""
PHOTOGRAPHS = Augmentation(crop_scale=(0.35, 1.0), hflip=0.5)
LONG_EPOCHS = 40
"""Epochs from which on views of small images vary more in a training: by then the crops alone are known by heart."""
LONG_VIEWS: dict[str, Any] = {"rotate": 15.0, "shear": 15.0, "elastic": 0.07}
LONG_WEIGHT_DECAY = 5e-4
"""Of such trainings: twelve times the published one, which is of data that nobody learns by heart."""
NOTHING = Augmentation(crop_scale=None, crop_ratio=(1.0, 1.0), shift=0.0, hflip=0.0)
"""The evaluation view."""


SHORT_RUN_STEPS = 1_000
"""In shorter runs the running batch-norm statistics follow faster, so that they have forgotten their start by the
end."""
BN_MOMENTUM = 0.01
MOST_BN_MOMENTUM = 0.1
"""Keras' 0.99 in torch's sense (docs/algorithm.md#search-spaces), and the most that the rule for short runs gives."""
Mirrors = Callable[[], tuple[bool, str]]
"""Whether mirroring does no harm, and a sentence that says why."""


@dataclass(frozen=True)
class Defaults:
    """Peak learning rate per 256 images, and weight decay, of an optimiser."""

    learning_rate: float
    weight_decay: float


OPTIMIZERS = {
    "rmsprop": Defaults(PEAK_LEARNING_RATE, WEIGHT_DECAY),
    "sgd": Defaults(0.4, WEIGHT_DECAY),
    "adamw": Defaults(4e-3, 0.05),
}
"""Those whose rates are known; others need --base_learning_rate (--model_learning_rate) and a weight decay."""


@dataclass(frozen=True)
class Recipe:
    """How weights are learned, with no default left open.

    Args:
        name: published, small or modern.
        reason: why this one, for people.
        augmentation: of the training images; None for a task without images.
        mixup, cutmix: parameters of the Beta distributions; 0 where there is none.
        optimizer: rmsprop or timm's name.
        learning_rate: its peak, per 256 examples.
        warmup_fraction: part of the steps over which it rises.
        scheduler: what it does then.
        momentum: of the optimiser.
        weight_decay: L2 on the convolution kernels.
        clip_grad: greatest norm of the gradient; 0 for no limit.
        ema_horizon: part of the run that an average of the weights remembers; 0 for no average.
        path_dropout_rate: chance of dropping a skippable layer.
        path_dropout_by_depth: the chance grows from layer to layer, and the last one has it in full.
        plain_fraction: part of the run at whose end images are plain: neither mixed nor changed by more than a crop.
    """

    name: str
    reason: str
    augmentation: Augmentation | None
    mixup: float
    cutmix: float
    optimizer: str
    learning_rate: float
    warmup_fraction: float
    scheduler: str
    momentum: float
    weight_decay: float
    clip_grad: float
    ema_horizon: float
    path_dropout_rate: float
    path_dropout_by_depth: bool
    plain_fraction: float

    @property
    def plain_from(self) -> int | None:
        """The epoch from which on images are plain; None where there is none."""
        return None if self.augmentation is None else self.augmentation.plain_from


RECIPES = {
    "published": Recipe(
        name="published",
        reason="",
        augmentation=PUBLISHED,
        mixup=0.0,
        cutmix=0.0,
        optimizer="rmsprop",
        learning_rate=PEAK_LEARNING_RATE,
        warmup_fraction=LEARNING_RATE_WARMUP_FRACTION,
        scheduler="cosine",
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        clip_grad=0.0,
        ema_horizon=0.0,
        path_dropout_rate=0.0,
        path_dropout_by_depth=False,
        plain_fraction=0.0,
    )
}
RECIPES["small"] = dataclasses.replace(
    RECIPES["published"],
    name="small",
    augmentation=GENTLE,
    learning_rate=2 * PEAK_LEARNING_RATE,
    warmup_fraction=0.1,
    clip_grad=5.0,
)
RECIPES["modern"] = dataclasses.replace(
    RECIPES["small"],
    name="modern",
    augmentation=dataclasses.replace(GENTLE, randaugment=7, random_erasing=0.1),
    mixup=0.2,
    cutmix=0.2,
    ema_horizon=0.05,
    path_dropout_rate=0.1,
    path_dropout_by_depth=True,
    plain_fraction=0.2,
)
MODERN_OF_SMALL_IMAGES: dict[str, Any] = {
    "augmentation": GENTLE,
    "mixup": 0.0,
    "cutmix": 0.0,
    "path_dropout_rate": 0.0,
}
"""What is mixed, blanked or changed by RandAugment in so few pixels tells a network little, and it learns too slowly of
it to end better than without; the same goes for dropped layers (benchmarks/README.md#small-data)."""
CHANGES = ("hflip", "crop_scale", "crop_ratio", "shift", "rotate", "shear", "elastic", "randaugment", "random_erasing")
VIEW_FLAGS = ("augment", *CHANGES)
IMAGE_FLAGS = (*VIEW_FLAGS, "mixup", "cutmix")
"""Flags that change images: fields of `Augmentation`; all that say how one image is seen; and those that mix two."""


def recipe_name(config: RecipeConfig, train_size: int) -> str:
    """The recipe that is asked for, or the one for so many training examples."""
    if config.recipe != "auto":
        return config.recipe
    return "published" if train_size >= PUBLISHED_FROM else "small"


def batch_size(config: RecipeConfig, train_size: int) -> int:
    """Examples of a step where no flag says: fewer than published where neither the recipe is the published one nor the
    dataset that large."""
    is_small = recipe_name(config, train_size) != "published" and train_size < PUBLISHED_FROM
    return (small_batch_size if is_small else auto_batch_size)(train_size)


def chosen_recipe(
    config: RecipeConfig,
    train_size: int,
    image_size: int | None,
    *,
    bf16: bool = False,
    given: dict[str, float | None] | None = None,
    mirrors: Mirrors | None = None,
    coupled: bool = False,
    epochs: float = 0.0,
) -> Recipe:
    """The recipe that the configuration asks for, or that fits the data.

    Args:
        config: what the user said.
        train_size: training examples.
        image_size: pixels a side; None for a task without images.
        bf16: the run computes in bf16, which has a weight decay of its own as published.
        given: values of `Recipe`'s fields that flags of the command's own set; None is the recipe's.
        mirrors: whether mirroring does no harm, and a sentence that says why; asked only where nothing else decides.
            None leaves images as they are.
        coupled: weight decay is part of the gradient, whatever the optimiser.
        epochs: how often one network sees every example; 0 where that is not what happens, as in a search.

    Raises:
        InputError: where a value is out of range, means nothing for this task, or has no default.
    """
    _check(config, image_size)
    name, reasons = recipe_name(config, train_size), ["as asked for"]
    if config.recipe == "auto":
        size = "at least" if name == "published" else "fewer than"
        reasons = [f"{train_size:,} training examples are {size} {PUBLISHED_FROM:,}"]
    recipe, has_small_images = RECIPES[name], image_size is not None and image_size < LARGE_IMAGES
    if name == "modern" and has_small_images:
        recipe = dataclasses.replace(recipe, **MODERN_OF_SMALL_IMAGES)
        reasons.append(
            f"images below {LARGE_IMAGES} pixels are not mixed, blanked or changed by RandAugment, nor layers dropped"
        )
    is_long = name != "published" and has_small_images and epochs >= LONG_EPOCHS
    own = {key: value for key in _OWN if (value := getattr(config, key)) is not None}
    values: dict[str, Any] = {**own, **{key: value for key, value in (given or {}).items() if value is not None}}
    optimizer = config.optimizer or recipe.optimizer
    if optimizer != recipe.optimizer:
        values = {**_rates(optimizer, values, coupled), **values}
    decays = is_long and "weight_decay" not in values
    if decays:
        values["weight_decay"] = LONG_WEIGHT_DECAY
    if bf16 and (coupled or optimizer == recipe.optimizer):
        values.setdefault("weight_decay", WEIGHT_DECAY_BF16)
    augmentation, varied = None, {}
    if image_size is None:
        values |= {"mixup": 0.0, "cutmix": 0.0}
    else:
        augmentation, why = _augmentation(config, recipe, image_size, mirrors)
        reasons += [why] if why else []
        varied = _long_views(config, augmentation) if is_long else {}
        augmentation = dataclasses.replace(augmentation, **varied)
    reasons += _long_reasons(bool(varied), decays)
    used = dataclasses.replace(recipe, augmentation=augmentation, **values)
    plain_from = _plain_from(used, epochs)
    if augmentation is not None and plain_from is not None:
        used = dataclasses.replace(used, augmentation=dataclasses.replace(augmentation, plain_from=plain_from))
        reasons.append(f"in the last {epochs - plain_from:g} epochs images are plain crops")
    return dataclasses.replace(used, reason="; ".join(reasons))


_OWN = ("mixup", "cutmix", "optimizer", "scheduler", "clip_grad")


def _rates(optimizer: str, values: dict[str, Any], coupled: bool) -> dict[str, Any]:
    """What fits another optimiser than the recipe's."""
    known = OPTIMIZERS.get(optimizer)
    if known is not None:
        rates = {"learning_rate": known.learning_rate}
        return rates if coupled else {**rates, "weight_decay": known.weight_decay}
    wanted = {"learning_rate": "--model_learning_rate" if coupled else "--base_learning_rate"}
    if not coupled:
        wanted["weight_decay"] = "--weight_decay"
    if missing := [name for name in wanted if name not in values]:
        what = " and ".join(name.replace("_", " ") for name in missing)
        raise InputError(
            f"no {what} {'is' if len(missing) == 1 else 'are'} known for the optimiser {optimizer} (for "
            f"{', '.join(OPTIMIZERS)} they are): give {' and '.join(wanted[name] for name in missing)}"
        )
    return {}


def _long_reasons(varies: bool, decays: bool) -> list[str]:
    """What is different in a long training of small images where no flag says otherwise, and why, if anything is."""
    changes = ["crops are turned, slanted and stretched"] if varies else []
    changes += [f"weights decay by {LONG_WEIGHT_DECAY:g}"] if decays else []
    why = f"as from {LONG_EPOCHS} epochs on where images are below {LARGE_IMAGES} pixels"
    return [f"{', and '.join(changes)}, {why}{' and not mirrored' if varies else ''}"] if changes else []


def _long_views(config: RecipeConfig, augmentation: Augmentation) -> dict[str, Any]:
    """How a long training of small images varies its views by itself.

    Only where they are not mirrored, as digits and letters, which are known by heart by then: on photographs, which are
    not, it cost 3.5 points in the mean of three seeds. Nor with a teacher, which need not know turned and stretched
    images: one that recognised 96 % of plain crops recognised 57 % of these (benchmarks/README.md#small-data).
    """
    if config.augment != "auto" or config.teacher is not None or augmentation.hflip:
        return {}
    return {name: value for name, value in LONG_VIEWS.items() if getattr(config, name) is None}


def _augmentation(
    config: RecipeConfig, recipe: Recipe, image_size: int, mirrors: Mirrors | None
) -> tuple[Augmentation, str]:
    """What happens to training images, and why they are mirrored or not, where that has to be said."""
    fixed = {"published": PUBLISHED, "gentle": GENTLE, "none": NOTHING}.get(config.augment)
    augmentation, reason = fixed or recipe.augmentation or PUBLISHED, ""
    if fixed is None and recipe.name != "published" and image_size >= LARGE_IMAGES:
        augmentation = dataclasses.replace(
            augmentation, crop_scale=PHOTOGRAPHS.crop_scale, crop_ratio=PHOTOGRAPHS.crop_ratio, hflip=PHOTOGRAPHS.hflip
        )
    given = {name: value for name in CHANGES if (value := getattr(config, name)) is not None}
    if "crop_scale" in given and "shift" not in given:
        given["shift"] = None
    if fixed is None and recipe.name != "published" and "hflip" not in given and mirrors is not None:
        does_no_harm, reason = mirrors()
        given["hflip"] = PUBLISHED.hflip if does_no_harm else 0.0
    return dataclasses.replace(augmentation, **given), reason


def _plain_from(recipe: Recipe, epochs: float) -> int | None:
    """The epoch, counted from 0, from which on images are plain in a training of so many; None where they always are,
    or never, as in one that is too short for a whole epoch of them."""
    if not varies_images(recipe):
        return None
    begins = math.ceil(epochs * (1 - recipe.plain_fraction))
    return begins if begins < epochs else None


def varies_images(recipe: Recipe) -> bool:
    """Whether more happens to images than crops and mirrors."""
    return bool(recipe.mixup or recipe.cutmix or any(getattr(recipe.augmentation, name, 0) for name in NOT_PLAIN))


def _check(config: RecipeConfig, image_size: int | None) -> None:
    check_finite(config)
    if image_size is None:
        default = RecipeConfig()
        for name in IMAGE_FLAGS:
            if getattr(config, name) != getattr(default, name):
                raise InputError(f"{name} changes images, and the examples of this task are none; leave it out")
    for name in ("hflip", "random_erasing", "teacher_weight"):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{name} is a chance or a share, from 0 to 1, not {value}")
    for name in ("crop_scale", "crop_ratio"):
        pair = getattr(config, name)
        if pair is not None and not 0 < pair[0] <= pair[1]:
            raise InputError(f"{name} is two positive numbers, the smaller first, not {pair[0]} {pair[1]}")
    if config.crop_scale is not None and config.crop_scale[1] > 1:
        raise InputError(f"crop_scale is a part of the image's area, at most 1, not {config.crop_scale[1]}")
    if config.shift is not None and not 0 <= config.shift <= 1:
        raise InputError(f"shift is a part of the crop's side, from 0 to 1, not {config.shift}")
    for name, most in (("rotate", 180), ("shear", MAX_SHEAR)):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= most:
            raise InputError(f"{name} is an angle in degrees, from 0 to {most}, not {value}")
    if config.elastic is not None and not 0 <= config.elastic <= MAX_ELASTIC:
        raise InputError(f"elastic is a part of the crop's side, from 0 to {MAX_ELASTIC}, not {config.elastic}")
    if config.randaugment is not None and not 0 <= config.randaugment <= MAX_MAGNITUDE:
        raise InputError(f"randaugment is a magnitude from 0 to {MAX_MAGNITUDE}, not {config.randaugment}")
    for name in ("mixup", "cutmix", "clip_grad"):
        value = getattr(config, name)
        if value is not None and value < 0:
            raise InputError(f"{name} is at least 0, not {value}")
    if config.teacher_temperature <= 0:
        raise InputError(f"teacher_temperature is above 0, not {config.teacher_temperature}")


def bn_momentum_of(steps: int) -> float:
    """What a batch's statistics count in the running ones, in a run of so many steps."""
    return max(BN_MOMENTUM, min(MOST_BN_MOMENTUM, BN_MOMENTUM * SHORT_RUN_STEPS / steps))


def ema_decay_of(recipe: Recipe, steps: int) -> float | None:
    """Decay of the average of the weights that remembers the recipe's part of so many steps; None for no average."""
    return max(0.0, 1 - 1 / (recipe.ema_horizon * steps)) if recipe.ema_horizon else None


def params_of(config: RecipeConfig, plan: Any) -> dict[str, Any]:
    """What `params.json` says of a run: the configuration, what follows from it, and the plan's `used_recipe` as
    `recipe.…`."""
    decided = dataclasses.asdict(plan)
    recipe = {f"recipe.{name}": value for name, value in decided.pop("used_recipe").items()}
    return {**dataclasses.asdict(config), **recipe, **decided}
