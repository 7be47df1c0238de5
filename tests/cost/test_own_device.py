"""Measure, fit, search, measure again: a search for this very processor lands on the time that it was asked for."""

import numpy as np
import pytest

import tunas
from support.towers import small_tower
from tunas.cost.fit import FitConfig, fit
from tunas.cost.measure import measure
from tunas.cost.measure_config import MeasureConfig

TOWER = small_tower((16, 24, 32), (32, 48, 64), expansions=(2.0, 6.0), stem=16, head=128)


@pytest.mark.slow
def test_a_search_for_this_processor_lands_within_a_tenth_of_its_target(tmp_path) -> None:
    space = tunas.register_space("searched_for_this_processor", lambda: TOWER)
    settings = {"ssd": space.name, "image_size": 128, "num_classes": 10, "clock": "processor"}
    measure(MeasureConfig(out=str(tmp_path / "samples.csv"), num_architectures=60, group=60, **settings))
    model, report = fit(
        FitConfig(str(tmp_path / "samples.csv"), space.name, str(tmp_path / "mine.json"), num_classes=10)
    )
    assert report.mean_error < 0.1 and report.spearman > 0.9
    target = float(np.median(model.estimate(space.sample(np.random.default_rng(1), 1000))))
    result = tunas.search(
        tunas.SearchConfig(
            ssd=space.name,
            cost_model=str(tmp_path / "mine.json"),
            rl_cost_model_target=target,
            checkpoint_dir=str(tmp_path / "search"),
            epochs=12,
            device="cpu",
        )
    )
    assert result.cost == pytest.approx(target, rel=0.05)
    (found,) = measure(MeasureConfig(indices=result.architecture.text, **settings))
    assert found.milliseconds == pytest.approx(target, rel=0.1)
