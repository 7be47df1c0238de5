"""What a search refuses before its first step."""

import dataclasses
from pathlib import Path

import pytest

import tunas
from tunas import InputError, SearchConfig
from tunas.search.before import check_before_search
from tunas.search.objective import search_objectives
from tunas.search.plan import plan_search
from tunas.task.opening import open_task


def check(tmp_path: Path, **settings: object) -> None:
    config = dataclasses.replace(SearchConfig(checkpoint_dir=str(tmp_path), image_size=32), **settings)
    space = tunas.get_space(config.ssd)
    task = open_task(config, tmp_path)
    plan = plan_search(config, task.size("train"), digits=True, on_cuda=False)
    objectives = search_objectives(config, plan.rl_cost_model_exponent, space, task.cost_arguments)
    check_before_search(space, config, plan, objectives, task, is_main=True)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            {"rl_cost_model_target": 5.0, "rl_cost_model_tolerance": 0.01},
            r"--rl_cost_model_target: no architecture of proxylessnas_search costs 5 ms; they cost 30\.94 ms to 2\d\d",
        ),
        ({"rl_cost_model_target": 500.0}, "costs 500 ms; they cost"),
        ({"constraint": ("params=1e5",)}, "--constraint params: no architecture .* costs 1e.05 parameters"),
        ({"constraint": ("params~1e8",)}, "no architecture .* costs 100,000,000 parameters"),
        ({"constraint": ("latency=5",)}, "no architecture .* costs 5 ms"),
        (
            {"train_batch_size": 2, "replicas": 2},
            "one image, whose last maps are 1×1 pixel at 32 px: give",
        ),
        (
            {"enable_cost_model": False, "cost_model": "macs"},
            "--cost_model means nothing with --enable_cost_model=False; leave it out",
        ),
        (
            {"enable_cost_model": False, "rl_cost_model_exponent": -0.1, "rl_reward_function": "mnas"},
            "--rl_cost_model_exponent and --rl_reward_function mean nothing where accuracy alone",
        ),
    ],
)
def test_what_cannot_end_well_is_refused(tmp_path: Path, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"rl_cost_model_target": 30.7, "rl_cost_model_tolerance": 0.01},
        {"constraint": ("params=1e8",)},
        {"constraint": ("latency=500",)},
        {"rl_cost_model_target": 500.0, "rl_reward_function": "mnas_hard"},
        {"train_batch_size": 4, "replicas": 2},
        {"train_batch_size": 2, "replicas": 2, "image_size": 64, "rl_batch_size_multiplier": 4.0},
        {"enable_cost_model": False, "rl_cost_model_exponent": -0.1, "constraint": ("params=5e6",)},
    ],
)
def test_what_can_is_not(tmp_path: Path, settings: dict[str, object]) -> None:
    check(tmp_path, **settings)


def test_published_milliseconds_at_another_size_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path)
    assert "those of 224 px, not of 32 px" in capsys.readouterr().err
    check(tmp_path, cost_model="macs")
    assert not capsys.readouterr().err
