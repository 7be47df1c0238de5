"""A search whose accuracies come from a model."""

import json

import numpy as np
import pytest

from support.jobs import TINY, Job, killed_and_restarted
from tunas import CostModel, SearchConfig, get_space, search
from tunas.cli import main
from tunas.cost import CostTerm
from tunas.report.analyze import analyze
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.events import read_events
from tunas.search.simulate import measured

BEST = (1, 1, 1, 1, 1, 1, 0, 1)


@pytest.fixture
def model(tmp_path):
    """Accuracy of the tiny space: the choices of BEST are the best."""
    space = get_space(TINY)
    terms = [CostTerm((place,), np.where(np.arange(2) == best, 0.05, 0.0)) for place, best in enumerate(BEST)]
    path = tmp_path / "accuracy.json"
    CostModel(space, 0.3, terms, unit="accuracy").save(path)
    return str(path)


def config(model, directory, **more):
    settings = {"ssd": TINY, "image_size": 8, "accuracy_model": model, "checkpoint_dir": str(directory)}
    return SearchConfig(**{**settings, "epochs": 2.0, **more})


def test_the_most_accurate_architecture_is_found_where_cost_does_not_count(model, tmp_path):
    found = search(config(model, tmp_path / "run", enable_cost_model=False))
    assert found.architecture.indices == BEST
    assert found.steps == 2 * 1_231_121 // 4096
    document = json.loads((tmp_path / "run" / "result.json").read_text())
    assert document["accuracy"] == pytest.approx(0.3 + 0.05 * len(BEST))
    scalars, _ = read_events(tmp_path / "run")
    assert scalars[max(scalars)]["eval/accuracy"] == pytest.approx(document["accuracy"])


def test_it_lands_on_the_target_and_is_analyzed_as_any_search(model, tmp_path):
    cost = str(tmp_path / "cost.json")
    CostModel(get_space(TINY), 1.0, [CostTerm((place,), np.arange(2.0)) for place in range(len(BEST))]).save(cost)
    found = search(config(model, tmp_path / "run", cost_model=cost, rl_cost_model_target=5.0))
    assert analyze(tmp_path / "run").architecture == found.architecture
    assert analyze(tmp_path / "run").cost == found.cost
    assert found.cost == pytest.approx(5.0, abs=1.0)


def test_left_alone_it_is_as_long_as_published(model, tmp_path):
    job = Job(["search", f"--ssd={TINY}", f"--accuracy-model={model}", f"--checkpoint-dir={tmp_path / 'run'}"])
    job.until_output("simulated search 2705/27050")
    job.signal(15)
    assert job.wait() == [143]
    params = json.loads((tmp_path / "run" / "params.json").read_text())
    assert (params["steps"], params["replicas"], params["valid_share"]) == (27_050, 32, 512)


def test_killed_and_restarted_it_comes_to_the_same(model, tmp_path):
    search(config(model, tmp_path / "whole"))
    words = ["search", f"--ssd={TINY}", "--image-size=8", f"--accuracy-model={model}", "--epochs=2"]
    killed_and_restarted([*words, f"--checkpoint-dir={tmp_path / 'killed'}"], kills=2)
    names = ("result.json", "model_spec.json")
    assert all((tmp_path / "killed" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)
    one, two = (newest_checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert one[1]["controller"] == two[1]["controller"]
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0])


def test_an_accuracy_has_the_noise_of_its_images():
    drawn = measured(np.full(20_000, 0.75), 512, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(0.75, abs=1e-3)
    assert drawn.std() == pytest.approx((0.75 * 0.25 / 512) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_dir=x"], "--dataset_dir means nothing to a simulated search"),
        (["--at_most=2000", "--verify"], "--verify means nothing to a simulated search"),
        (["--ssd=mobilenet_v3_like_search"], "mobilenet_v3_like_search"),
        (["--accuracy_model=none.json"], "none.json"),
        (["--accuracy_model=COST"], "gives ms, not accuracies"),
        (["--epochs=1e-9"], "less than one batch"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_sentence(model, tmp_path, capsys, words, message):
    cost = tmp_path / "cost.json"
    CostModel(get_space(TINY), 1.0, []).save(cost)
    words = [word.replace("COST", str(cost)) for word in words]
    run = tmp_path / "run"
    assert main(["search", f"--ssd={TINY}", f"--accuracy_model={model}", f"--checkpoint_dir={run}", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not run.exists() or not list(run.iterdir())


def test_another_model_of_accuracy_is_another_run(model, tmp_path, capsys):
    words = ["search", f"--ssd={TINY}", f"--checkpoint_dir={tmp_path / 'run'}", "--epochs=0.1"]
    assert main([*words, f"--accuracy_model={model}"]) == 0
    other = tmp_path / "other.json"
    CostModel(get_space(TINY), 0.2, [], unit="accuracy").save(other)
    assert main([*words, f"--accuracy_model={other}"]) == 2
    assert "accuracy_model_sha256 was" in capsys.readouterr().err
