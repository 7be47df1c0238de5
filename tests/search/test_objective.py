"""What a search maximises: accuracy, one main cost, and any number of further ones."""

import numpy as np
import pytest

import tunas
from tunas import SearchConfig, get_space
from tunas.search.objective import search_objectives

SPACE = get_space("proxylessnas_search")
INDICES = SPACE.sample(np.random.default_rng(0), 50)
ACCURACY = np.linspace(0.5, 0.7, 50)
MILLISECONDS = tunas.load_cost_model("pixel1", SPACE).estimate(INDICES)
PARAMETERS = tunas.load_cost_model("params", SPACE, image_size=32, num_classes=10).estimate(INDICES)


def objective(exponent: float = -0.1, space: tunas.Space = SPACE, **settings: object):
    config = SearchConfig(ssd=space.name, **settings)  # type: ignore[arg-type]
    return search_objectives(config, exponent, space, {"image_size": 32, "num_classes": 10})[0]


def test_the_published_objective_aims_for_84_ms_from_both_sides() -> None:
    outcome = objective().reward(ACCURACY, INDICES)
    np.testing.assert_allclose(outcome.reward, ACCURACY - 0.1 * np.abs(MILLISECONDS / 84 - 1))
    assert outcome.scalars["estimated_cost"] == pytest.approx(MILLISECONDS.mean())


def test_a_constraint_counts_only_beyond_its_limit_and_a_target_on_both_sides() -> None:
    limit = float(np.median(PARAMETERS))
    published = objective().reward(ACCURACY, INDICES).reward
    above = objective(constraint=(f"params={limit}",)).reward(ACCURACY, INDICES).reward
    np.testing.assert_allclose(above, published - 0.1 * np.maximum(PARAMETERS / limit - 1, 0))
    around = objective(constraint=(f"params~{limit}",)).reward(ACCURACY, INDICES).reward
    np.testing.assert_allclose(around, published - 0.1 * np.abs(PARAMETERS / limit - 1))


def test_latency_constrains_the_main_cost() -> None:
    found = objective(constraint=("latency=90", "params=5e6"))
    expected = ACCURACY - 0.1 * np.maximum(MILLISECONDS / 90 - 1, 0) - 0.1 * np.maximum(PARAMETERS / 5e6 - 1, 0)
    outcome = found.reward(ACCURACY, INDICES)
    np.testing.assert_allclose(outcome.reward, expected)
    assert found.target == 90 and outcome.scalars["estimated_cost"] == pytest.approx(MILLISECONDS.mean())


def test_the_costs_part_of_the_reward_is_the_reward_without_accuracy() -> None:
    found = objective(constraint=("latency~80", "macs=1e6"))
    np.testing.assert_allclose(found.cost_reward(INDICES) + ACCURACY, found.reward(ACCURACY, INDICES).reward)


def test_accuracy_alone_counts_without_a_cost_model() -> None:
    found = objective(enable_cost_model=False)
    np.testing.assert_array_equal(found.reward(ACCURACY, INDICES).reward, ACCURACY)
    assert found.cost_of(SPACE.architecture(INDICES[0])) is None


def test_a_model_of_ones_own_aims_for_the_median_of_random_architectures(tmp_path) -> None:
    model = tunas.load_cost_model("pixel1", SPACE)
    model.save(tmp_path / "mine.json")
    found = objective(cost_model=str(tmp_path / "mine.json"))
    assert found.target == pytest.approx(91, abs=2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"constraint": ("params",)}, "reads name=limit"),
        ({"constraint": ("params=-1",)}, "reads name=limit"),
        ({"constraint": ("params=5e6",), "rl_reward_function": "mnas"}, "works with the abs reward only"),
        ({"constraint": ("latency=40",), "rl_cost_model_target": 50.0}, "says what --rl_cost_model_target says"),
        ({"constraint": ("latency=40", "latency=50")}, "give one of them, once"),
        ({"constraint": ("nothing.json=40",)}, "there is no cost model 'nothing.json'"),
    ],
)
def test_constraints_that_cannot_be_used_are_refused(settings: dict, sentence: str) -> None:
    with pytest.raises(tunas.InputError, match=sentence):
        objective(**settings)
