"""What may change between the sessions of a run."""

import dataclasses

from tunas import SearchConfig, TrainConfig
from tunas.recipe.choose import Recipe
from tunas.run.settings import FROM_NOW_ON, HARMLESS, IDENTITY, SETTINGS, Kind, changes
from tunas.search.plan import SearchPlan
from tunas.train.plan import TrainPlan

FACTS = """
    accuracy_model_sha256 class_names cost_device cost_digest cost_unit dataset dataset_fingerprint dataset_images
    mirror_probe num_classes processes relative_to version
"""
"""Entries of `params.json` beside the configuration and what follows from it."""


def test_every_setting_of_search_and_training_is_listed_once_and_nothing_else():
    said = {field.name for owner in (SearchConfig, TrainConfig) for field in dataclasses.fields(owner)}
    follows = {field.name for owner in (SearchPlan, TrainPlan) for field in dataclasses.fields(owner)} - {"used_recipe"}
    recipe = {f"recipe.{field.name}" for field in dataclasses.fields(Recipe)}
    names = sorted(f"{IDENTITY} {FROM_NOW_ON} {HARMLESS}".split())
    assert names == sorted(said | follows | recipe | set(FACTS.split()))


def test_what_decides_what_is_computed_is_identity():
    decides = ("seed", "hflip", "teacher", "recipe.augmentation", "accuracy_model_sha256", "bn_momentum", "epochs")
    assert {SETTINGS[name] for name in decides} == {Kind.IDENTITY}
    assert {SETTINGS[name] for name in ("accuracy_model", "dataset_dir", "recipe.reason")} == {Kind.HARMLESS}


def test_what_a_run_does_not_know_yet_was_nothing_there():
    old = {"seed": 1, "recipe.augmentation": {"hflip": 0.5, "shift": None}}
    views = {**old["recipe.augmentation"], "elastic": 0.0}
    new = {**old, "elastic": None, "head_steps": 0, "recipe.augmentation": views}
    assert changes(old, new, Kind.IDENTITY) == changes(new, old, Kind.IDENTITY) == {}
    views = {**views, "elastic": 0.1}
    found = changes(old, {**new, "elastic": 0.1, "recipe.augmentation": views}, Kind.IDENTITY)
    assert found["elastic"] == (None, 0.1) and found["recipe.augmentation"] == (old["recipe.augmentation"], views)
    centred = {**old, "recipe.augmentation": {"hflip": 0.5, "shift": 0.0}}  # which is not the same as anywhere
    assert "recipe.augmentation" in changes(old, centred, Kind.IDENTITY)
