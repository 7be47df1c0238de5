"""A cap holds: by the cost model's own residuals, and when the winner is measured."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tunas
from support.tiny_space import tiny
from tunas import CostModel, InputError
from tunas.cli import main
from tunas.cli.search import result_table
from tunas.cost.additive import parameters
from tunas.cost.fit import FitConfig, fit
from tunas.cost.measure import measure
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import references_of
from tunas.cost.timing import CLOCKS
from tunas.errors import NOT_AS_ASKED
from tunas.runtime import Runtime, Session, register_runtime, registry
from tunas.search.cap import ATTEMPTS, OVER, capped_target, margin

SSD = "tiny_to_cap"


@pytest.fixture(scope="module")
def space():
    return tunas.register_space(SSD, tiny)


def a_board(monkeypatch):
    """A device that takes a microsecond for every parameter, times `slower` where the network is not among `steady`."""
    state = {"now": 0.0, "slower": 1.0, "steady": set()}

    def convert(network, examples, conversion):
        return sum(parameter.numel() for parameter in network.parameters())

    def opened(size, threads):
        def run(inputs):
            state["now"] += 1e3 * size * (1.0 if size in state["steady"] else state["slower"])

        return Session(run)

    monkeypatch.setattr(registry, "_runtimes", dict(registry._runtimes))
    monkeypatch.setitem(CLOCKS, "wall", lambda: state["now"])
    register_runtime(Runtime("board", convert, opened, lambda: "a board"))
    return state


@pytest.fixture
def board(monkeypatch):
    return a_board(monkeypatch)


@pytest.fixture(scope="module")
def fitted_once(space, tmp_path_factory):
    """A cost model of the board, and the sizes of the networks by which its speed is told."""
    root = tmp_path_factory.mktemp("fitted")
    settings = {"device": "board", "image_size": 16, "num_classes": 10, "rounds": 2, "repeats": 1, "warmup": 0}
    with pytest.MonkeyPatch.context() as patch:
        a_board(patch)
        measure(MeasureConfig(SSD, out=str(root / "s.csv"), num_architectures=40, **settings))
    model, _ = fit(FitConfig(str(root / "s.csv"), SSD, str(root / "board.json"), num_classes=10))
    size = parameters(space, 10)
    return root / "board.json", {int(size.estimate(architecture)) for architecture, _ in references_of(model)}


@pytest.fixture
def fitted(fitted_once, board, tmp_path):
    path, board["steady"] = fitted_once
    return str(shutil.copy(path, tmp_path))


def quantile(fitted, space, part):
    costs = tunas.load_cost_model(fitted, space).estimate(space.sample(np.random.default_rng(0), 1000))
    return float(np.quantile(costs, part))


def config(fitted, directory, **changes):
    settings = {
        "ssd": SSD,
        "cost_model": fitted,
        "checkpoint_dir": str(directory),
        "image_size": 16,
        "epochs": 0.75,
        "train_batch_size": 64,
        "replicas": 2,
        "device": "cpu",
    }
    return tunas.SearchConfig(**{**settings, **changes})


def test_the_target_is_below_the_cap_by_the_models_own_error(space):
    exact = CostModel(space, 1.0, [])
    assert margin(exact) == 0 and capped_target(exact, 2.0) == 2.0
    wrong = CostModel(space, 1.0, [], provenance={OVER: 0.25})
    assert capped_target(wrong, 2.0) == 1.6
    assert capped_target(CostModel(space, 1.0, [], provenance={OVER: -0.1}), 2.0) == 2.0


def test_the_margin_is_the_95th_percentile_of_held_out_residuals(space, fitted):
    said = json.loads(Path(fitted).read_text())["provenance"]
    assert -0.05 < said[OVER] < 0.2


def test_the_winner_is_predicted_below_the_cap(space, fitted, tmp_path):
    model, cap = tunas.load_cost_model(fitted, space), quantile(fitted, space, 0.4)
    result = tunas.search(config(fitted, tmp_path / "run", at_most=cap))
    assert result.at_most == cap and result.target == capped_target(model, cap) <= cap
    assert result.cost <= result.target * (1 + 1e-9) and result.timed == ()


def test_a_winner_that_holds_is_measured_once(space, fitted, tmp_path):
    cap = quantile(fitted, space, 0.6)
    result = tunas.search(config(fitted, tmp_path / "run", at_most=cap, verify=True))
    (timed,) = result.timed
    assert timed.at_speed_of_then <= cap and timed.indices == result.architecture.text
    assert timed.measured == pytest.approx(parameters(space, 10).estimate(result.architecture) / 1e3, rel=1e-6)
    elsewhere = dataclasses.replace(timed, changed=("device was 'a' and is now 'b'",))
    for one, said in ((timed, "ms at the speed of"), (elsewhere, "not in turn with the cost model's samples (device")):
        printed = result_table(config(fitted, tmp_path), dataclasses.replace(result, timed=(one,))).columns[1]
        assert any(said in str(cell) for cell in printed.cells)


def words(fitted, directory, epochs=0.75):
    flags = {"ssd": SSD, "cost_model": fitted, "checkpoint_dir": directory, "image_size": 16, "epochs": epochs}
    flags |= {"train_batch_size": 64, "replicas": 2, "device": "cpu"}
    return ["search", *(f"--{name}={value}" for name, value in flags.items())]


def test_a_cap_that_no_winner_keeps_is_missed(space, fitted, board, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tunas.search.cap.ATTEMPTS", 2)
    cap, board["slower"] = quantile(fitted, space, 0.6), 100.0
    assert main([*words(fitted, tmp_path / "run"), f"--at_most={cap}", "--verify"]) == NOT_AS_ASKED
    printed = capsys.readouterr().out
    assert "missed: none of 2 winners took at most" in printed and "holds" not in printed


def test_a_winner_that_is_over_is_searched_again_until_it_holds(space, fitted, board, tmp_path, capsys):
    cap = quantile(fitted, space, 0.6)
    first = tunas.search(config(fitted, tmp_path / "first", at_most=cap, epochs=1.5))
    every = parameters(space, 10).estimate(space.sample(np.random.default_rng(0), 2000))
    board["steady"] = {int(size) for size in every} - {int(parameters(space, 10).estimate(first.architecture))}
    board["slower"] = 1.05 * cap / first.cost
    assert main([*words(fitted, tmp_path / "run", 1.5), f"--at_most={cap}", "--verify"]) == 0
    printed = capsys.readouterr().out
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    measured = document["measured"]
    assert 1 < len(measured) <= ATTEMPTS and measured[-1]["indices"] == document["indices"]
    assert all(one["at_speed_of_then"] > cap for one in measured[:-1])
    assert measured[-1]["at_speed_of_then"] <= cap == document["at_most"]
    assert measured[0]["indices"] == first.architecture.text
    assert f"measured, winner {len(measured)}" in printed and "holds" in printed and "over" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verify": True}, "give it with --at_most"),
        ({"at_most": 1.0, "rl_cost_model_target": 1.0}, "leave out --rl_cost_model_target"),
        ({"at_most": 1.0, "constraint": ("latency=2",)}, "leave out"),
        ({"at_most": 1.0, "enable_cost_model": False}, "works with a cost model"),
        ({"at_most": 1.0, "rl_reward_function": "mnas", "num_cost_samples": 0}, "the abs reward"),
        ({"at_most": -1.0}, "at_most must be a positive number"),
        ({"at_most": 1e6, "verify": True, "cost_model": "macs"}, "was not fitted to any"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_step(space, fitted, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        tunas.search(config(fitted, tmp_path / "run", **changes))
    assert not list(tmp_path.glob("run/checkpoint*"))


def test_another_device_cannot_verify(space, fitted, tmp_path):
    model = CostModel.load(fitted, space)
    model.provenance["device"] = "another board"
    model.save(fitted)
    with pytest.raises(InputError, match="device was 'another board' and is now 'a board'"):
        tunas.search(config(fitted, tmp_path / "run", at_most=100.0, verify=True))
