"""`--from RUN`, and the commands that are printed for the next step: they do what they say as they stand."""

import contextlib
import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import tunas
from support.jobs import TINY
from tunas import InputError
from tunas.cli import COMMANDS, imported, main
from tunas.cli.flags import parsed
from tunas.data import DataConfig, normalize, open_data

SMALL = "--epochs=3 --device=cpu --num_workers=0"


def said(line: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(shlex.split(line)) == 0
    return out.getvalue()


def config_of(line: str):
    """What a command line says."""
    _, name, *words = shlex.split(line)
    command = COMMANDS[name]
    return parsed(imported(command.config), words, name, imported(command.of_run))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 24 gray pictures, in a place with a space in its name."""
    root = tmp_path_factory.mktemp("my own") / "pictures"
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for index in range(24):
            pixels = np.full((12, 12, 3), 60 + 120 * number + index, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    """What a search on the folder prints, told more than where it is."""
    told = f"--image_size=16 --valid_fraction=0.25 --no-allow_empty_classes --padding=same --hflip=0 {SMALL}"
    return said(f"search --ssd={TINY} --dataset_dir='{folder}' --checkpoint_dir='{folder.parent}/search' {told}")


def next_command(printed: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith("next: ")]
    return line.removeprefix("next: ")


def test_the_printed_training_reads_the_folder_that_was_searched_on(printed: str, folder: Path, tmp_path: Path) -> None:
    assert next_command(printed) == f"tunas train '--from={folder.parent}/search' --device=cpu"
    words = shlex.split(next_command(printed))[1:]
    assert main([*words, "--epochs=3", f"--checkpoint_dir={tmp_path}"]) == 0
    search, training = (json.loads((run / "params.json").read_text()) for run in (folder.parent / "search", tmp_path))
    same = ("ssd", "dataset_dir", "dataset_fingerprint", "class_names", "image_size", "valid_fraction", "padding")
    assert {name: training[name] for name in same} == {name: search[name] for name in same}
    assert (training["hflip"], training["num_workers"], training["class_names"]) == (0.0, 0, ["dark", "light"])
    found = json.loads((folder.parent / "search/result.json").read_text())["indices"]
    assert training["indices"] == found and f"indices = {found}" in printed

    measured = config_of(f"tunas measure --from={tmp_path}")
    assert (measured.ssd, measured.indices, measured.image_size, measured.num_classes) == (TINY, found, 16, 2)
    assert measured.padding == "same"
    assert config_of(f"tunas export --from={tmp_path} --out=x").checkpoint_dir == str(tmp_path)
    weights = config_of(f"tunas export --from={tmp_path} --out=x --checkpoint=w.safetensors")
    assert (weights.ssd, weights.indices, weights.dataset_dir) == (TINY, found, str(folder))
    assert (weights.padding, weights.image_size, weights.checkpoint_dir) == ("same", 16, None)


def test_a_network_that_is_loaded_pads_as_it_was_trained(printed: str, folder: Path, tmp_path: Path) -> None:
    told = f"--from='{folder.parent}/search' --indices=1:1:1:1:1:1:0:1 --checkpoint_dir={tmp_path} {SMALL}"
    said(f"train {told}")
    data = open_data(DataConfig(dataset_dir=str(folder), image_size=16, valid_fraction=0.25, num_workers=0))
    ((images, labels),) = data.once("valid", 100)
    network = tunas.load_network(tmp_path)
    symmetric = tunas.build_network(tunas.get_space(TINY).architecture("1:1:1:1:1:1:0:1"), 2)
    symmetric.load_state_dict(network.state_dict())
    with torch.no_grad():
        losses = [float(F.cross_entropy(one(normalize(images)), labels)) for one in (network, symmetric.eval())]
    expected = json.loads((tmp_path / "result.json").read_text())["loss"]
    assert losses[0] == pytest.approx(expected, rel=1e-4) and losses[1] != pytest.approx(expected, rel=1e-3)


def test_what_is_given_wins_even_where_it_is_the_default(printed: str, folder: Path) -> None:
    run = f"'--from={folder.parent}/search'"
    given = config_of(f"tunas train {run} --padding=symmetric --image_size=32 --allow_empty_classes --ssd=mobilenet_v2")
    assert (given.padding, given.image_size, given.allow_empty_classes) == ("symmetric", 32, True)
    assert (given.ssd, given.indices, given.dataset_dir) == ("mobilenet_v2", "", str(folder))
    many = config_of(f"tunas measure {run} --out=samples.csv --num_classes=5")
    assert (many.indices, many.image_size, many.num_classes, many.padding) == (None, 16, 5, "symmetric")


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"task": None, "dataset": "simulated"}, "does not say where its examples are"),
        ({}, "has not ended"),
        ({"ssd": "mobilenet_v2"}, "another search space now"),
        ({"checksum": "of something else"}, "is damaged"),
    ],
)
def test_a_run_that_cannot_be_gone_on_from_is_refused(
    params: dict[str, object], sentence: str, printed: str, folder: Path, tmp_path: Path
) -> None:
    kept = json.loads((folder.parent / "search/params.json").read_text())
    del kept["checksum"]
    if "dataset" in params:
        del kept["class_names"]
    (tmp_path / "params.json").write_text(json.dumps(kept | params))
    (tmp_path / "model_spec.json").write_bytes((folder.parent / "search/model_spec.json").read_bytes())
    with pytest.raises(InputError, match=sentence):
        config_of(f"tunas train --from={tmp_path}")


def test_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"--from={tmp_path}/nix"]) == 2
    assert f"--from: {tmp_path}/nix holds no run" in capsys.readouterr().err
