"""An export is checked in its own runtime, says what it is, runs without this package, and refuses what it cannot."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tunas
from support.jobs import INDICES, TINY
from tunas import export, predict
from tunas.cli import main
from tunas.data import normalize
from tunas.export.camera import Camera, as_taken
from tunas.export.check import Check
from tunas.export.standalone import predict_program

EXAMPLES = Path(__file__).parents[2] / "examples"
ONNX = ("onnxruntime", "onnxruntime-int8")
ALL = (*ONNX, "openvino", "openvino-int8", "torch-cpu", "timm")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    out = tmp_path_factory.mktemp("exported")
    config = tunas.ExportConfig(
        out=str(out),
        checkpoint_dir=str(trained),
        runtime=ALL,
        calibration_images=64,
        max_accuracy_drop=0.05,
        images=120,
    )
    return out, {one.runtime: one for one in export(config)}


def about(directory):
    return json.loads((directory / "model.json").read_text())


# What is made


def test_every_artifact_computes_what_pytorch_computes(exported):
    _, made = exported
    assert set(made) == set(ALL)
    for name, one in made.items():
        assert one.complaint is None and one.check.examples == 120, name
        if name.endswith("int8"):
            assert one.check.difference > 0 and one.check.agreement >= 0.9
        else:
            assert one.check.difference < 1e-4 * max(1.0, one.check.scale) and one.check.agreement == 1
        assert one.latency["milliseconds"] > 0


def test_beside_an_artifact_lies_what_it_is(exported, trained):
    out, _ = exported
    for name in ALL:
        document = about(out / name)
        assert document["indices"] == INDICES and document["runtime"] == name and document["classes"] == 10
        for file, facts in document["files"].items():
            content = (out / name / file).read_bytes()
            assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert (out / name / "labels.txt").read_text().splitlines() == [str(digit) for digit in range(10)]
        assert document["check"]["split"] == "valid" and document["latency"]["threads"] == 1
        assert document["trained"]["which"] == "ema" and document["versions"]["tunas"] == tunas.__version__
    assert about(out / "onnxruntime-int8")["calibration"] == {
        "images": 64, "split": "train", "seed": 0, "view": "evaluation",
    }  # fmt: skip
    assert about(out / "onnxruntime")["calibration"] is None
    result = json.loads((trained / "result.json").read_text())
    assert about(out / "onnxruntime")["trained"]["accuracy"] == result["accuracy"]


def test_the_file_takes_bytes_as_a_camera_gives_them(exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    out, _ = exported
    session = onnxruntime.InferenceSession(out / "onnxruntime" / "model.onnx")
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape, entry.type) == ("image", [1, 32, 32, 3], "tensor(uint8)")


@pytest.mark.parametrize("takes", ["bytes", "unit", "normalized"])
def test_a_camera_normalises_inside(takes):
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    seen = Camera(torch.nn.Identity(), takes)(torch.from_numpy(as_taken(images, takes)))
    torch.testing.assert_close(seen, normalize(images), rtol=0, atol=1e-5)


def test_a_dynamic_batch_is_exported_and_raw_weights_are_others(trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    config = tunas.ExportConfig(
        out=str(tmp_path), checkpoint_dir=str(trained), runtime=("onnxruntime",), dynamic_batch=True, which="last",
        input="unit", images=70,
    )  # fmt: skip
    (one,) = export(config)
    assert one.complaint is None and one.document["trained"]["which"] == "last"
    session = onnxruntime.InferenceSession(tmp_path / "onnxruntime" / "model.onnx")
    images = np.random.default_rng(0).random((3, 3, 32, 32), np.float32)
    together = session.run(None, {"image": images})[0]
    assert together.shape == (3, 10)
    network = tunas.load_network(trained, "last")
    mean, std = (torch.tensor(one.document[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = network((torch.from_numpy(images) - mean) / std).numpy()
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-4)


def test_weights_of_a_file_are_exported(trained, tmp_path):
    from tunas.run.checkpoint_names import checkpoints

    pytest.importorskip("onnxruntime")
    config = tunas.ExportConfig(
        out=str(tmp_path), checkpoint=str(checkpoints(trained)[0]), ssd=TINY, indices=INDICES, images=20
    )
    (one,) = export(config)
    assert one.complaint is None and one.document["trained"] == {"checkpoint": config.checkpoint}
    assert one.document["check"]["split"] == "test"


def test_a_transformer_of_ones_own_is_exported_like_a_tower(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    told = {"ssd": f"{EXAMPLES / 'transformer.py'}:space", "indices": "1:2:2:3:0:1:4:0:3:1:0:0:0:1:0:0:1"}
    torch.manual_seed(0)
    network = tunas.build_network(tunas.get_space(told["ssd"]).architecture(told["indices"]))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    told |= {"checkpoint": str(tmp_path / "weights.safetensors"), "out": str(tmp_path / "out")}
    short = {"calibration_images": 16, "images": 40, "max_accuracy_drop": 1.0}
    float32, int8, program = export(tunas.ExportConfig(**told, **short, runtime=(*ONNX, "torch-cpu")))
    for one in (float32, program):
        assert one.complaint is None and one.check.agreement == 1 and one.check.difference < 1e-4
    assert float32.check.difference < int8.check.difference < 0.2 * int8.check.scale
    assert int8.size < 0.8 * float32.size
    with pytest.raises(tunas.InputError, match="timm describes towers of our layers, which the Network of a model"):
        export(tunas.ExportConfig(**told, **short, runtime=("onnxruntime", "timm")))


# Without this package


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8"])
def test_the_program_beside_it_needs_neither_torch_nor_this_package(exported, pictures, name):
    out, _ = exported
    program = out / name / "predict.py"
    assert len(program.read_text().splitlines()) <= 40
    files = sorted(str(file) for file in pictures.glob("*-*.png"))[:8]
    blocked = "import sys, runpy; sys.modules['tunas'] = sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0])", str(program), *files]
    run = subprocess.run(command, capture_output=True, text=True, cwd=pictures)
    assert run.returncode == 0, run.stderr
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    ours = predict(tunas.PredictConfig(images=tuple(files), model=str(out / name))).found
    assert [(path, label) for path, label, _ in lines] == [(one.image, one.classes[0][0]) for one in ours]
    np.testing.assert_allclose([float(c) for *_, c in lines], [one.classes[0][1] for one in ours], atol=2e-4)


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "executorch", "torch"])
@pytest.mark.parametrize("takes", ["bytes", "unit", "normalized"])
def test_the_program_is_short_and_whole_for_every_runtime(package, takes):
    text = predict_program(package, takes)
    assert len(text.splitlines()) <= 40 and all(len(line) <= 120 for line in text.splitlines())
    compile(text, "predict.py", "exec")
    assert predict_program("a runtime of one's own", takes) is None


# What does not pass


def check(**changes):
    return Check(**{"examples": 100, "quality": 0.9, "torch_quality": 0.9, "agreement": 1.0, "difference": 0.0,
                    "scale": 1.0, **changes})  # fmt: skip


def test_too_large_a_drop_or_difference_is_a_complaint():
    assert check().complaint("int8", 0.01) is None
    assert check(quality=0.895).complaint("int8", 0.01) is None
    assert "90.00%" not in check(quality=0.88).complaint("int8", 0.01)
    assert "88.00% of 100 images right, 2.00 points less" in check(quality=0.88).complaint("int8", 0.01)
    assert "differ from PyTorch's by up to 0.00021" in check(difference=2.1e-4).complaint("float32", 0.01)
    assert check(difference=9e-4, scale=10.0).complaint("float32", 0.01) is None
    assert check(difference=2.1e-4).complaint("int8", 0.01) is None
    assert "differ" in check(difference=float("nan")).complaint("float32", 0.01)


def test_what_did_not_pass_is_kept_under_a_name_that_says_so(trained, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    from tunas.export import export as module

    honest = module.checked

    def worse(*arguments):
        found = honest(*arguments)
        return Check(found.examples, found.quality - 0.1, *list(vars(found).values())[2:])

    monkeypatch.setattr(module, "checked", worse)
    words = ["export", f"--checkpoint_dir={trained}", f"--out={tmp_path}", "--runtime=onnxruntime", "--images=50"]
    assert main(words) == 1
    assert "points less than PyTorch" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnxruntime-failed-check"]
    assert about(tmp_path / "onnxruntime-failed-check")["check"]["passed"] is False
    monkeypatch.setattr(module, "checked", honest)
    assert main(words) == 0 and [path.name for path in tmp_path.iterdir()] == ["onnxruntime"]
    monkeypatch.setattr(module, "checked", worse)
    assert main(words) == 1
    assert f"{tmp_path / 'onnxruntime'} is still that of an earlier export" in capsys.readouterr().err


# What is refused


def refusal(capsys, *words):
    code = main(list(words))
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1 and "Traceback" not in said, said
    return said


def test_what_cannot_be_exported_is_said_in_one_sentence(trained, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run, out = f"--checkpoint_dir={trained}", tmp_path / "out"
    to = f"--out={out}"
    assert "unknown runtime 'nothing'" in refusal(capsys, "export", run, to, "--runtime=nothing")
    few = ("--runtime=onnxruntime-int8", "--calibration_images=5000")
    assert "there are 1077" in refusal(capsys, "export", run, to, *few)
    assert "at least 1" in refusal(capsys, "export", run, to, "--calibration_images=0")
    assert "holds no training" in refusal(capsys, "export", f"--checkpoint_dir={tmp_path}", to)
    (tmp_path / "file").write_text("")
    assert "cannot write" in refusal(capsys, "export", run, f"--out={tmp_path / 'file' / 'below'}")
    assert "give one of" in refusal(capsys, "export", to)
    assert "timm describes towers" not in refusal(capsys, "export", run, f"--out={out / 'below'}", *few)
    assert not out.exists()  # what was made to see that it can be written to is gone again
    wrong = ("export", f"--ssd={TINY}", "--indices=0:0:0:0:0:0:0:0", f"--checkpoint={next(trained.glob('check*'))}", to)
    assert re.search(r"does not fit .*: \S+ (is missing|has no place in it|is .* there and)", refusal(capsys, *wrong))
    (out / "onnxruntime").mkdir(parents=True, exist_ok=True)
    (out / "onnxruntime" / "mine.txt").write_text("mine")
    assert "no exported model" in refusal(capsys, "export", run, to)
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["mine.txt"]


def test_an_unfinished_training_says_how_far_it_is(trained, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    newest = sorted(run.glob("checkpoint-*.safetensors"))
    newest[-1].unlink()
    words = ("export", f"--checkpoint_dir={run}", f"--out={tmp_path / 'out'}", "--images=20")
    said = refusal(capsys, *words)
    assert re.search(r"is at step \d+ of \d+;", said) and "--allow_unfinished" in said
    assert main([*words, "--allow_unfinished", "--max_accuracy_drop=1"]) == 0


def test_a_search_has_to_be_trained(tmp_path, capsys):
    search = tmp_path / "search"
    tunas.search(
        tunas.SearchConfig(
            ssd=TINY,
            checkpoint_dir=str(search),
            epochs=0.2,
            train_batch_size=64,
            replicas=2,
            image_size=16,
            device="cpu",
        )
    )
    capsys.readouterr()
    said = refusal(capsys, "export", f"--checkpoint_dir={search}", f"--out={tmp_path / 'out'}")
    assert "is a search" in said and "tunas train" in said
