"""What learned a task of one's own is exported like a classifier of images, and checked by its own quality."""

import json
import shutil

import numpy as np
import pytest
import torch

import tunas
from support.jobs import OWN_PROGRAM
from tunas import export, named
from tunas.cli import main
from tunas.space import catalog

TOLD = (f"--ssd={OWN_PROGRAM.name}:space", f"--task={OWN_PROGRAM.name}:task")


def forget_code(monkeypatch):
    """Files of one's own code are not known any more, as in a new process."""
    monkeypatch.setattr(catalog, "_spaces", {})
    monkeypatch.setattr(named, "_places", [])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training that began in the directory of its code, which all commands below do not run in."""
    directory = tmp_path_factory.mktemp("own") / "run"
    size = ("--epochs=8", "--train_batch_size=64", "--base_learning_rate=0.1", "--num_workers=0", "--device=cpu")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(OWN_PROGRAM.parent)
        forget_code(monkeypatch)
        assert main(["train", *TOLD, "--indices=1:1", f"--checkpoint_dir={directory}", *size]) == 0
    return directory


def said(capsys, code, *words):
    capsys.readouterr()
    assert main(list(words)) == code
    return capsys.readouterr().err


def test_a_model_of_ones_own_is_exported_and_checked_by_its_own_quality(trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    config = tunas.ExportConfig(
        checkpoint_dir=str(trained), out=str(tmp_path), runtime=("onnxruntime", "onnxruntime-int8"),
        calibration_images=64, max_accuracy_drop=0.1,
    )  # fmt: skip
    float32, int8 = export(config)
    assert (float32.quality_name, float32.unit, float32.check.agreement) == ("explained", "examples", None)
    assert float32.complaint is None and abs(float32.check.quality - float32.check.torch_quality) < 1e-5
    assert int8.check.difference > 1e-3 > float32.check.difference
    assert int8.document["calibration"]["examples"] == 64 and int8.document["check"]["examples"] == 64
    assert float32.document["shapes"] == {"input": [1, 8]} and float32.document["types"] == {"input": "float32"}
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = tunas.load_network(trained)(x).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "onnxruntime" / "model.onnx")
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, atol=1e-5)
    assert not (tmp_path / "onnxruntime" / "predict.py").exists()


def test_a_run_whose_code_is_not_found_says_where_to_start_from(trained, tmp_path, monkeypatch, capsys):
    forget_code(monkeypatch)
    old = shutil.copytree(trained, tmp_path / "old")
    params = json.loads((old / "params.json").read_text())
    assert params.pop("relative_to") == [str(OWN_PROGRAM.parent)] and params["ssd"] == "own_program.py:space"
    (old / "params.json").write_text(json.dumps(params))
    words = ("export", f"--checkpoint_dir={old}", f"--out={tmp_path / 'out'}", "--runtime=torch-cpu")
    found = said(capsys, 2, *words)
    assert "no file own_program.py in" in found and "start from the directory that this path is of" in found
    monkeypatch.chdir(OWN_PROGRAM.parent)
    assert main([*words, "--max_accuracy_drop=0.1"]) == 0


def test_what_means_nothing_for_a_task_is_refused_in_one_sentence(trained, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run, to = f"--checkpoint_dir={trained}", f"--out={tmp_path / 'out'}"
    assert "timm describes towers" in said(capsys, 2, "export", run, to, "--runtime=timm")
    assert "what its task prepares" in said(capsys, 2, "export", run, to, "--input=unit")
    assert "are 256; say --calibration_images=256" in said(capsys, 2, "export", run, to, "--runtime=onnxruntime-int8")
    assert "no image files" in said(capsys, 2, "predict", str(tmp_path), f"--model={trained}")
    assert not list(tmp_path.rglob("*.onnx"))
    assert main(["export", run, to, "--max_accuracy_drop=0.1"]) == 0
    assert main(["report", str(tmp_path / "out"), f"--out={tmp_path / 'page.html'}"]) == 0
    assert "64 examples of valid" in (tmp_path / "page.html").read_text()
    assert "no image files" in said(capsys, 2, "predict", str(tmp_path), f"--model={tmp_path / 'out' / 'onnxruntime'}")
