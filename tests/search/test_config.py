"""What follows from a search's configuration: the published settings, defaults for small data, refusals."""

import dataclasses
import math

import pytest

from tunas import InputError, SearchConfig
from tunas.recipe.defaults import auto_batch_size
from tunas.search.plan import auto_replicas, divisible, plan_search

IMAGENET = 1_231_121
DIGITS = 1077


def plan(config=None, size=IMAGENET, digits=False, on_cuda=False, **settings):
    return plan_search(config or SearchConfig(**settings), size, digits=digits, on_cuda=on_cuda)


def test_imagenet_gets_the_published_settings():
    """docs/algorithm.md#controller."""
    found = plan()
    assert (found.steps, found.batch, found.replicas, found.share, found.valid_share) == (27_050, 4096, 32, 128, 512)
    assert found.learning_rate == pytest.approx(0.165 * 16) and found.warmup_steps == int(0.025 * 27_050)
    assert found.rl_learning_rate == pytest.approx(3e-4 * 16) and found.rl_growth == 10
    assert found.rl_delay_steps == found.increase_ops_steps == found.increase_filters_steps == 27_050 // 4
    assert (found.rl_baseline_momentum, found.rl_adam_beta2, found.rl_cost_model_exponent) == (0.95, 0.999, -0.10)
    assert (found.weight_decay, found.precision, found.num_cost_samples) == (4e-5, "fp32", 0)
    assert (found.log_every, found.checkpoint_every, found.delay_valid_share) == (100, 500, 512)
    assert found.unmeasured_steps == 27_050 // 4 - 2000 and plan(rl_delay_validation="all").unmeasured_steps == 0
    assert found.valid_precision == "fp32" and plan(precision="bf16").valid_precision == "bf16"
    assert plan(valid_precision="bf16").precision == "fp32"


def test_validation_takes_bfloat16_where_the_processor_has_it_unless_told_otherwise():
    found = plan_search(SearchConfig(), IMAGENET, digits=False, on_cuda=False, validates_in_bf16=True)
    assert (found.precision, found.valid_precision) == ("fp32", "bf16")
    told = SearchConfig(valid_precision="fp32")
    assert plan_search(told, IMAGENET, digits=False, on_cuda=False, validates_in_bf16=True).valid_precision == "fp32"


def test_the_v3_like_space_computes_in_bfloat16_on_cuda_with_its_own_weight_decay():
    found = plan(ssd="mobilenet_v3_like_search", on_cuda=True)
    assert (found.precision, found.weight_decay) == ("bf16", 3e-5)
    assert plan(ssd="mobilenet_v3_like_search").precision == "fp32"
    assert plan(ssd="mobilenet_v3_like_search", on_cuda=True, precision="fp32").weight_decay == 4e-5
    assert plan(precision="bf16").weight_decay == 3e-5
    assert plan(precision="bf16", model_weight_decay=0.0).weight_decay == 0


def test_the_digits_get_a_run_of_minutes_and_weigh_cost_more():
    found = plan(size=DIGITS, digits=True)
    assert (found.batch, found.replicas, found.steps) == (64, 4, 24 * 1077 // 64)
    assert (found.valid_share, found.delay_valid_share, found.rl_cost_model_exponent) == (128, 16, -1.0)
    assert plan(size=DIGITS, digits=True, rl_batch_size_multiplier=2.0).valid_share == 32


def test_a_short_run_learns_faster_forgets_sooner_and_prices_more():
    found = plan(size=DIGITS, digits=True)
    assert (found.rl_learning_rate, found.rl_baseline_momentum) == (0.1, 0)
    assert found.rl_adam_beta2 == pytest.approx(1 - 0.001 * 27_050 / found.steps)
    assert found.num_cost_samples == 512
    given = plan(
        size=DIGITS,
        digits=True,
        rl_baseline_momentum=0.5,
        rl_adam_beta2=0.99,
        num_cost_samples=0,
        rl_learning_rate=3e-4,
    )
    assert (given.rl_baseline_momentum, given.rl_adam_beta2, given.num_cost_samples) == (0.5, 0.99, 0)
    assert given.rl_learning_rate == pytest.approx(3e-4 * 64 / 256)


@pytest.mark.parametrize(
    ("size", "batch", "is_short"), [(9_000, 64, True), (50_000, 256, True), (240_000, 4096, False)]
)
def test_small_data_weighs_cost_more_in_however_many_steps(size, batch, is_short):
    """9,000 examples are 12,656 steps of 64, each of which measures on 256."""
    found = plan(size=size)
    assert found.batch == batch and found.steps == 90 * size // batch > 5_000
    assert found.rl_cost_model_exponent == (-1.0 if is_short else -0.10)
    assert found.num_cost_samples == (512 if is_short else 0)


@pytest.mark.parametrize("epochs", [90, 180, 360])
@pytest.mark.parametrize(("batch", "published"), [(4096, 0.0048), (1024, 0.0012)])
def test_a_run_of_the_published_length_or_longer_keeps_the_published_learning_rate(epochs, batch, published):
    """It fell in proportion to the length."""
    assert plan(epochs=epochs, train_batch_size=batch).rl_learning_rate == pytest.approx(published, rel=1e-4)


@pytest.mark.parametrize("settings", [{"enable_cost_model": False}, {"rl_reward_function": "mnas"}])
def test_without_a_separable_reward_nothing_is_priced_beside(settings):
    assert plan(size=DIGITS, digits=True, **settings).num_cost_samples == 0
    with pytest.raises(InputError, match="abs reward only"):
        plan(size=DIGITS, digits=True, num_cost_samples=64, **settings)


@pytest.mark.parametrize("size", [1, 15, 64, 1077, 50_000, 1_231_121, 10**9])
def test_a_batch_leaves_sixteen_steps_an_epoch_and_is_no_larger_than_published(size):
    batch = auto_batch_size(size)
    assert 64 <= batch <= 4096 and math.log2(batch).is_integer()
    assert batch in (64, 4096) or 16 <= size / batch < 32


@pytest.mark.parametrize(
    ("size", "targets", "processes", "flags"),
    [
        (9_000, (), 8, "--replicas=8 --train_batch_size=128"),
        (50_000, (), 8, "--replicas=8 --train_batch_size=256"),
        (50_000, (70.0, 80.0, 90.0), 8, "--replicas=24 --train_batch_size=384"),
        (IMAGENET, (), 3, "--replicas=33 --train_batch_size=4092"),
    ],
)
def test_processes_that_cannot_share_a_search_are_told_what_they_can_share(size, targets, processes, flags):
    config = SearchConfig(rl_cost_model_target=targets or None)
    found = plan(config, size)
    assert found.replicas % processes and divisible(config, found, processes) == flags
    named = dict(flag.removeprefix("--").split("=") for flag in flags.split())
    asked = dataclasses.replace(config, **{name: int(value) for name, value in named.items()})
    assert plan(asked, size).replicas % processes == 0


def test_replicas_divide_the_batch():
    for batch in (2**power for power in range(13)):
        replicas = auto_replicas(batch)
        assert replicas >= 1 and batch % replicas == 0 and (batch < 512 or batch // replicas == 128)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochs": 0}, "epochs must be a positive number, not 0"),
        ({"epochs": math.nan}, "epochs must be a positive number"),
        ({"train_batch_size": -1}, "train_batch_size must be a positive"),
        ({"replicas": 3}, "4096 examples cannot be divided among 3 replicas"),
        ({"epochs": 1e-4}, "less than one batch"),
        ({"model_learning_rate": math.inf}, "model_learning_rate"),
        ({"model_weight_decay": -1e-5}, "model_weight_decay must be a number that is not negative"),
        ({"model_momentum": 1.0}, "model_momentum must be at least 0 and below 1"),
        ({"rl_temperature": 0}, "rl_temperature"),
        ({"num_cost_samples": 1}, "0 or at least 2"),
        ({"increase_ops_warmup_steps_fraction": 0.3}, "warmup"),
        ({"increase_filters_warmup_steps_fraction": 0.26}, "warmup"),
        ({"rl_delay_steps_fraction": 1.5}, "1.5"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"log_every": -3}, "log_every"),
        ({"rl_cost_model_tolerance": 0}, "rl_cost_model_tolerance must be a positive number, not 0"),
        ({"choose_from": 4}, "choose_from chooses among architectures within rl_cost_model_tolerance"),
        ({"rl_cost_model_tolerance": 0.01, "enable_cost_model": False}, "one cost with one target"),
        ({"rl_cost_model_tolerance": 0.01, "constraint": ("params=5e6",)}, "one cost with one target"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        plan(**settings)
    assert "\n" not in str(caught.value)


def test_parameters_hold_the_configuration_and_everything_that_follows_from_it():
    config = SearchConfig(seed=4)
    params = plan(config).params(config, unit="ms")
    assert {field.name for field in dataclasses.fields(config)} <= params.keys()
    assert (params["seed"], params["steps"], params["unit"], params["rl_adam_beta2"]) == (4, 27_050, "ms", 0.999)
