"""Which recipe a run gets, and what its flags change."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tunas import InputError, SearchConfig, TrainConfig
from tunas.data.augmentation import PUBLISHED
from tunas.recipe.choose import GENTLE, PHOTOGRAPHS, bn_momentum_of, chosen_recipe
from tunas.recipe.config import RecipeConfig
from tunas.search.plan import plan_search, search_recipe
from tunas.train.plan import plan_training, training_recipe


def recipe(size=2_000, image_size: int | None = 32, mirrors=None, given=None, epochs=0.0, **flags):
    return chosen_recipe(RecipeConfig(**flags), size, image_size, mirrors=mirrors, given=given, epochs=epochs)


def test_a_hundred_thousand_examples_get_the_published_recipe_and_fewer_the_one_for_small_data():
    large, small = recipe(100_000), recipe(99_999)
    assert (large.name, small.name) == ("published", "small")
    assert large.augmentation == PUBLISHED and (large.optimizer, large.learning_rate) == ("rmsprop", 0.165)
    assert large.warmup_fraction == 0.025 < small.warmup_fraction
    assert "100,000 training examples" in large.reason and "99,999 training examples are fewer" in small.reason


def test_asking_for_a_recipe_gives_it_at_any_size():
    assert recipe(100, recipe="published").augmentation == PUBLISHED
    assert recipe(10_000_000, recipe="small").augmentation == GENTLE
    modern = recipe(10_000_000, image_size=224, recipe="modern")
    assert modern.mixup or modern.cutmix
    assert modern.ema_horizon > 0 and modern.augmentation.randaugment > 0


def test_large_images_of_a_small_dataset_are_cropped_as_photographs():
    assert recipe(image_size=224).augmentation == PHOTOGRAPHS


def test_the_probe_decides_on_mirroring_where_nothing_else_does():
    asked = []

    def mirrors():
        asked.append(True)
        return len(asked) == 1, "because"

    assert recipe(mirrors=mirrors).augmentation.hflip == 0.5
    harmful = recipe(mirrors=mirrors)
    assert harmful.augmentation.hflip == 0.0 and "because" in harmful.reason
    for flags in ({"hflip": 0.3}, {"recipe": "published"}, {"augment": "gentle"}):
        recipe(mirrors=mirrors, **flags)
    assert len(asked) == 2


def test_a_long_training_of_small_images_varies_them_more_and_decays_its_weights_faster_and_the_reason_says_so():
    short, long = (plan_training(TrainConfig(epochs=epochs, image_size=32), 2_000) for epochs in (39, 40))
    assert short.used_recipe.augmentation == GENTLE and "slanted" not in short.used_recipe.reason
    assert long.used_recipe.augmentation == dataclasses.replace(GENTLE, rotate=15.0, shear=15.0, elastic=0.07)
    assert (short.weight_decay, long.weight_decay) == (4e-5, 5e-4)
    changes = "crops are turned, slanted and stretched, and weights decay by 0.0005, as from 40 epochs on"
    assert f"{changes} where images are below 96 pixels" in long.used_recipe.reason
    turned = recipe(epochs=90, elastic=0.0, given={"weight_decay": 1e-4})
    assert turned.augmentation == dataclasses.replace(GENTLE, rotate=15.0, shear=15.0) and turned.weight_decay == 1e-4
    assert "stretched, as from" in turned.reason
    gentle = recipe(epochs=90, augment="gentle")
    assert gentle.augmentation == GENTLE and gentle.weight_decay == 5e-4 and "slanted" not in gentle.reason
    mirrored = recipe(epochs=90, mirrors=lambda: (True, "mirroring does no harm"))  # photographs are hard enough
    assert mirrored.augmentation == dataclasses.replace(GENTLE, hflip=0.5) and mirrored.weight_decay == 5e-4
    assert "slanted" not in mirrored.reason and "weights decay by 0.0005, as from" in mirrored.reason
    assert recipe(epochs=90, mirrors=lambda: (False, "it would harm")).augmentation == long.used_recipe.augmentation
    taught = recipe(epochs=90, teacher="runs/large")  # which may not know such views
    assert taught.augmentation == GENTLE and taught.weight_decay == 5e-4 and "slanted" not in taught.reason
    assert recipe(recipe="small").augmentation == GENTLE
    for other in (recipe(epochs=90, image_size=224), recipe(epochs=90, recipe="published")):
        assert other.augmentation in (PHOTOGRAPHS, PUBLISHED) and other.weight_decay == 4e-5
    assert recipe(epochs=90, optimizer="adamw").weight_decay == 0.05


def test_modern_keeps_small_images_whole_and_says_so():
    small, long = recipe(recipe="modern"), recipe(recipe="modern", epochs=60)
    assert small.augmentation == GENTLE and not (small.mixup or small.cutmix)
    assert small.ema_horizon and not small.path_dropout_rate
    assert "images below 96 pixels are not mixed" in small.reason and "nor layers dropped" in small.reason
    assert dataclasses.replace(long.augmentation, plain_from=None) == recipe(epochs=60).augmentation
    assert long.weight_decay == 5e-4
    asked = recipe(recipe="modern", mixup=0.1, randaugment=5)
    assert (asked.mixup, asked.augmentation.randaugment) == (0.1, 5)
    assert "mixed" not in recipe(recipe="modern", image_size=96).reason


def test_images_are_plain_at_the_end_where_they_were_not_before():
    long = recipe(recipe="modern", epochs=61)
    assert long.augmentation.plain_from == 49 and "in the last 12 epochs images are plain crops" in long.reason
    assert recipe(recipe="modern", epochs=20).augmentation.plain_from is None  # they are plain crops anyway
    assert recipe(recipe="modern", epochs=61, given={"plain_fraction": 0.0}).augmentation.plain_from is None
    assert recipe(epochs=60, given={"plain_fraction": 0.5}).augmentation.plain_from == 30
    assert recipe(epochs=60).augmentation.plain_from is None
    assert recipe(recipe="modern", image_size=224).augmentation.plain_from is None  # as in a search
    plan = plan_training(TrainConfig(epochs=10, train_batch_size=100, plain_fraction=0.55, mixup=0.2), 1_000)
    assert plan.used_recipe.augmentation.plain_from == 5  # and images are mixed until then
    assert [plan.mixes_at(step) for step in (0, 49, 50, 99)] == [True, True, False, False]
    short = recipe(recipe="modern", epochs=2, image_size=96)
    assert short.augmentation.plain_from is None and "plain" not in short.reason


@pytest.mark.parametrize(
    ("flags", "image_size", "why"),
    [
        ({}, 32, "nothing else happens to images here"),
        ({"mixup": 0.2, "epochs": 1}, 32, "epochs=1 leave no whole epoch"),
        ({}, None, "the examples of this task are no images"),
    ],
)
def test_a_plain_end_that_means_nothing_is_refused(flags, image_size, why):
    with pytest.raises(InputError, match=f"plain_fraction=0.5 means nothing: {why}"):
        training_recipe(TrainConfig(**{"epochs": 10, **flags}, plain_fraction=0.5), 1_000, image_size)


def test_flags_win_over_the_recipe():
    found = recipe(hflip=0.3, crop_scale=(0.2, 0.5), randaugment=5, mixup=0.1, scheduler="linear", clip_grad=2.0)
    assert (found.augmentation.hflip, found.augmentation.crop_scale) == (0.3, (0.2, 0.5))
    assert (found.augmentation.randaugment, found.mixup, found.scheduler, found.clip_grad) == (5, 0.1, "linear", 2.0)
    assert recipe(given={"learning_rate": 0.5}).learning_rate == 0.5


def test_another_optimiser_has_rates_of_its_own_or_must_be_given_them():
    adam = recipe(optimizer="adamw")
    assert (adam.learning_rate, adam.weight_decay) == (4e-3, 0.05)
    with pytest.raises(InputError, match="no learning rate and weight decay are known for the optimiser lion"):
        recipe(optimizer="lion")
    with pytest.raises(InputError, match=r"no weight decay is known for the optimiser lion .*: give --weight_decay$"):
        recipe(optimizer="lion", given={"learning_rate": 1e-3})
    assert recipe(optimizer="lion", given={"learning_rate": 1e-3, "weight_decay": 0.1}).learning_rate == 1e-3


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"hflip": 1.5}, "hflip is a chance or a share, from 0 to 1, not 1.5"),
        ({"crop_scale": (0.5, 0.2)}, "the smaller first"),
        ({"crop_scale": (0.5, 1.2)}, "at most 1, not 1.2"),
        ({"crop_ratio": (0.0, 1.0)}, "two positive numbers"),
        ({"shift": -0.1}, "shift is a part of the crop's side"),
        ({"rotate": 181.0}, "rotate is an angle in degrees, from 0 to 180, not 181"),
        ({"shear": -1.0}, "shear is an angle in degrees, from 0 to 60, not -1"),
        ({"elastic": 0.2}, "elastic is a part of the crop's side, from 0 to 0.12, not 0.2"),
        ({"randaugment": 31}, "magnitude from 0 to 30"),
        ({"mixup": -1.0}, "mixup is at least 0"),
        ({"mixup": math.nan}, "mixup must be a number, not nan"),
        ({"clip_grad": math.inf}, "clip_grad must be a number, not inf"),
        ({"crop_scale": (0.5, math.nan)}, "crop_scale must be a number, not nan"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is above 0"),
    ],
)
def test_values_out_of_range_are_refused(flags, sentence):
    with pytest.raises(InputError, match=sentence):
        recipe(**flags)


@pytest.mark.parametrize("flags", [{"randaugment": 9}, {"mixup": 0.2}, {"hflip": 0.5}, {"augment": "gentle"}])
def test_pieces_that_change_images_are_refused_for_a_task_without_images(flags):
    (name,) = flags
    with pytest.raises(InputError, match=f"{name} changes images, and the examples of this task are none"):
        recipe(image_size=None, **flags)
    assert recipe(image_size=None).augmentation is None


def test_plans_and_parameters_say_what_was_decided():
    training = plan_training(TrainConfig(epochs=15), 2_000)
    params = training.params(TrainConfig(epochs=15))
    assert params["recipe.name"] == "small" and params["recipe"] == "auto"
    assert params["warmup_steps"] == int(0.1 * training.steps) and "2,000" in params["recipe.reason"]
    published = plan_training(TrainConfig(), 1_231_121)
    assert (published.learning_rate, published.bn_momentum, published.ema_decay) == (0.165 * 16, 0.01, None)
    assert published.weight_decay == 4e-5
    assert plan_training(TrainConfig(precision="bf16"), 1_231_121).weight_decay == 3e-5
    assert plan_training(TrainConfig(recipe="modern", epochs=30), 2_000).ema_decay == pytest.approx(
        1 - 1 / (0.05 * 937), abs=1e-6
    )
    searched = plan_search(SearchConfig(optimizer="adamw"), 2_000, digits=False, on_cuda=False)
    assert searched.weight_decay == 4e-5 and searched.used_recipe.optimizer == "adamw"


def test_small_data_is_learned_in_small_batches():
    sizes = (1_437, 2_000, 10_000, 20_000, 40_000, 99_999)
    assert [plan_training(TrainConfig(), size).batch for size in sizes] == [64, 64, 64, 128, 256, 256]
    assert plan_training(TrainConfig(recipe="published"), 10_000).batch == 512
    assert (
        plan_training(TrainConfig(), 100_000).batch
        == plan_training(TrainConfig(recipe="modern"), 100_000).batch
        == 4096
    )
    assert plan_training(TrainConfig(train_batch_size=100), 10_000).batch == 100


def test_short_runs_follow_batch_statistics_faster():
    assert [bn_momentum_of(steps) for steps in (50, 200, 1_000, 27_050)] == [0.1, 0.05, 0.01, 0.01]


def test_a_search_learns_by_the_recipe_of_a_training_but_drops_no_layers():
    for size in (1_077, 9_000, 100_000):
        config = SearchConfig()
        found, trained = search_recipe(config, size, 32, False), training_recipe(TrainConfig(), size, 32)
        for name in ("name", "optimizer", "learning_rate", "warmup_fraction", "clip_grad", "scheduler"):
            assert getattr(found, name) == getattr(trained, name)
        assert found.augmentation == (GENTLE if size < 100_000 else PUBLISHED)
        assert plan_search(config, size, digits=False, on_cuda=False).batch == plan_training(TrainConfig(), size).batch
    assert search_recipe(SearchConfig(recipe="modern"), 1_077, 224, False).path_dropout_rate == 0
    asked = search_recipe(SearchConfig(clip_grad=2.0, hflip=0.5, model_learning_rate=0.1), 1_077, 32, False)
    assert (asked.learning_rate, asked.clip_grad, asked.augmentation.hflip) == (0.1, 2.0, 0.5)
