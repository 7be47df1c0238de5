"""What may change between the sessions of one run: every entry of `params.json`, once, with its class. Imports no
torch."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What it means that a setting is another one when a run goes on."""

    IDENTITY = "identity"
    """It decides what was computed: another value is another run."""
    FROM_NOW_ON = "from now on"
    """It changes what comes, not what was computed: allowed, with a note in the run's history."""
    HARMLESS = "harmless"
    """It changes nothing that is computed."""


FROM_NOW_ON = """
    compile device eval_every eval_steps gradient_accumulation on_bad_image processes train_cache_size version
"""
# Where the images lie does not matter, as their fingerprint is compared; nor does the name of a cost model's file, as a
# search keeps its `cost_digest` and a training only reports the cost.
HARMLESS = """
    accuracy_model allow_empty_classes cache_dir checkpoint checkpoint_dir checkpoint_every choose_from cost_device
    cost_model cost_unit data_format dataset_dir eval_batch_size follow keep_checkpoints log_every log_to mirror_probe
    mode num_workers parallel_replicas recipe.reason relative_to rematerialize rl_cost_model_tolerance timm_model
    valid_filenames verify which
"""
IDENTITY = """
    accuracy_model_sha256 aggressive_sharing at_most augment base_learning_rate batch bn_momentum class_names clip_grad
    constraint cost_digest crop_ratio crop_scale cutmix dataset dataset_fingerprint dataset_images delay_valid_share
    dropout_rate elastic ema_decay ema_warmup enable_cost_model epochs eval_split filters_multiplier head_epochs
    head_steps hflip image_size increase_filters_steps increase_filters_warmup_steps_fraction increase_ops_steps
    increase_ops_warmup_steps_fraction indices init_from label_smoothing layer_decay learning_rate minutes mixup
    model_learning_rate model_momentum model_warmup_steps_fraction model_weight_decay momentum num_classes
    num_cost_samples optimizer padding path_dropout_by_depth path_dropout_rate plain_fraction precision randaugment
    random_erasing recipe recipe.augmentation recipe.clip_grad recipe.cutmix recipe.ema_horizon recipe.learning_rate
    recipe.mixup recipe.momentum recipe.name recipe.optimizer recipe.path_dropout_by_depth recipe.path_dropout_rate
    recipe.plain_fraction recipe.scheduler recipe.warmup_fraction recipe.weight_decay replicas rl_adam_beta2
    rl_baseline_momentum rl_batch_size_multiplier rl_cost_model_exponent rl_cost_model_target rl_delay_steps
    rl_delay_steps_fraction rl_delay_validation rl_entropy_regularization rl_growth rl_learning_rate rl_reward_function
    rl_temperature rotate scheduler seed share shear shift ssd steps task teacher teacher_checkpoint teacher_temperature
    teacher_weight test_fraction train_batch_size train_split unmeasured_steps use_exponential_rl_learning_rate_schedule
    use_held_out_test_set valid_fraction valid_precision valid_share warmup_steps warmup_steps_fraction weight_decay
"""
SETTINGS: Mapping[str, Kind] = {
    name: kind
    for names, kind in ((IDENTITY, Kind.IDENTITY), (FROM_NOW_ON, Kind.FROM_NOW_ON), (HARMLESS, Kind.HARMLESS))
    for name in names.split()
}


def kind_of(name: str) -> Kind:
    """The class of an entry of `params.json`; one that is not listed decides what is computed."""
    return SETTINGS.get(name, Kind.IDENTITY)


def changes(old: Mapping[str, Any], new: Mapping[str, Any], kind: Kind) -> dict[str, tuple[Any, Any]]:
    """name -> (was, is now) of the settings of a class that differ, by name."""
    names = (name for name in differences(old, new) if kind_of(name) is kind)
    return {name: (old.get(name), new.get(name)) for name in names}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of what differs, sorted. What one of them does not say, because it was written before there was such a
    thing, is nothing there: None, False or 0."""
    return [name for name in sorted(old.keys() | new.keys()) if _differs(name, old, new)]


def _differs(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if name not in old or name not in new:
        return old.get(name, new.get(name)) not in (None, False, 0)
    was, now = old[name], new[name]
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        return bool(differences(was, now))
    return bool(was != now)


def without(changed: Mapping[str, tuple[Any, Any]], names: frozenset[str]) -> dict[str, tuple[Any, Any]]:
    """The changes of all other settings."""
    return {name: change for name, change in changed.items() if name not in names}


def in_words(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """The changes as part of a sentence."""
    return "; ".join(f"{name} was {was!r} and is now {now!r}" for name, (was, now) in changed.items())
