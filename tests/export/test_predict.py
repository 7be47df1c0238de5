"""`tunas predict` names classes and probabilities, by a training and by an export alike, and what it left out."""

import csv
import io
import json

import pytest

import tunas
from tunas import InputError, predict
from tunas.cli import main


@pytest.fixture(scope="module")
def onnx(trained, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("exported")
    tunas.export(tunas.ExportConfig(out=str(out), checkpoint_dir=str(trained), images=20))
    return out / "onnxruntime"


def test_a_folder_is_classified_and_bad_images_are_named(trained, pictures):
    found = predict(tunas.PredictConfig(images=(str(pictures),), model=str(trained), top=3))
    assert len(found.found) == 40 and all(len(one.classes) == 3 for one in found.found)
    right = sum(one.image[-5] == one.classes[0][0] for one in found.found)
    assert right >= 24, "the training reaches far more than chance"
    for one in found.found:
        chances = [chance for _, chance in one.classes]
        assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-9
    assert [name.rpartition("/")[2] for name, _ in found.skipped] == ["broken.png"]


def test_an_export_says_what_the_training_says(trained, onnx, pictures):
    ours = predict(tunas.PredictConfig(images=(str(pictures),), model=str(trained)))
    theirs = predict(tunas.PredictConfig(images=(str(pictures),), model=str(onnx / "model.onnx")))
    for one, other in zip(ours.found, theirs.found, strict=True):
        assert one.classes[0][0] == other.classes[0][0]
        assert one.classes[0][1] == pytest.approx(other.classes[0][1], abs=1e-4)


def test_a_table_csv_and_json_say_the_same(trained, pictures, capsys):
    image = str(next(pictures.glob("00-*.png")))
    words = ["predict", image, str(pictures / "broken.png"), f"--model={trained}", "--top=2"]
    assert main([*words, "--output_format=csv"]) == 0
    said = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert "left out" in said.err and "broken.png" in said.err
    assert main([*words, "--output_format=json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["image"] == image
    assert [one["class"] for one in document["classes"]] == [row["class"] for row in rows]
    assert main(words) == 0
    assert rows[0]["class"] in capsys.readouterr().out


def test_standard_input_is_an_image_or_names(trained, pictures, capsys, monkeypatch):
    image = next(pictures.glob("00-*.png"))

    class Stdin:
        def __init__(self, content):
            self.buffer = io.BytesIO(content)

    by_name = predict(tunas.PredictConfig(images=(str(image),), model=str(trained))).found[0].classes
    for content in (image.read_bytes(), f"{image}\n".encode()):
        monkeypatch.setattr("sys.stdin", Stdin(content))
        assert predict(tunas.PredictConfig(images=("-",), model=str(trained))).found[0].classes == by_name
    monkeypatch.setattr("sys.stdin", Stdin(b"\x00\x01\x02\xff"))
    with pytest.raises(InputError, match="neither an image nor a list"):
        predict(tunas.PredictConfig(images=("-",), model=str(trained)))


def test_a_damaged_file_is_one_sentence(onnx, pictures, capsys, tmp_path):
    path = onnx / "model.onnx"
    whole = path.read_bytes()
    image = str(next(pictures.glob("00-*.png")))
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert main(["predict", image, f"--model={onnx}"]) == 2
        assert "is damaged: its SHA-256" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)
    assert main(["predict", image, f"--model={tmp_path}"]) == 2
    assert "neither a training" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "none.png"), f"--model={onnx}"]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["predict", str(pictures / "broken.png"), f"--model={onnx}"]) == 2
    assert "none of the 1 files is an image" in capsys.readouterr().err
