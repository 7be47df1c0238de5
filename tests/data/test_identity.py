"""The dataset is part of a run; caches follow their files; a storage that stumbles is no bad image."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from support.jobs import TINY
from support.rendered import Picture, Rendered, opened, write_folder, write_parquet, write_tfds, write_webdataset
from tunas import InputError
from tunas.cli import main
from tunas.errors import TemporaryError

SMALL = [f"--ssd={TINY}", "--image_size=16", "--train_batch_size=16", "--device=cpu", "--num_workers=0"]
INDICES = "--indices=1:1:1:1:1:1:0:1"


def pixels(data, split="test"):
    return torch.cat([images for images, _ in data.once(split, 7)])


# --- runs


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """(directory of the images, directory of a finished run on them)."""
    root = tmp_path_factory.mktemp("trained")
    data = write_folder(root / "data", pictures)
    words = ["train", f"--dataset_dir={data}", f"--checkpoint_dir={root}/run", INDICES, *SMALL]
    assert main([*words, "--epochs=1"]) == 0
    return data, root / "run"


def copy_of(trained, tmp_path) -> tuple[Path, Path]:
    return tuple(Path(shutil.copytree(each, tmp_path / each.name)) for each in trained)  # type: ignore[return-value]


def words_for(data: Path, run: Path, *more: str) -> list[str]:
    return ["train", f"--dataset_dir={data}", f"--checkpoint_dir={run}", INDICES, "--epochs=1", *SMALL, *more]


def test_a_run_notes_its_classes_and_examples(trained):
    params = json.loads((trained[1] / "params.json").read_text())
    assert params["class_names"] == ["n001", "n002", "n003", "n004"] and params["num_classes"] == 4
    assert params["dataset_images"] == 80 and len(params["dataset_fingerprint"]) > 32


@pytest.mark.parametrize("mode", ["train_and_eval", "eval"])
def test_the_same_dataset_at_another_path_goes_on(trained, tmp_path, mode, capsys):
    data, run = copy_of(trained, tmp_path)
    moved = data.rename(tmp_path / "elsewhere")
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))  # as after a copy
    assert main(words_for(moved, run, f"--mode={mode}")) == 0
    assert json.loads((run / "result.json").read_text())["images"] == 8


@pytest.mark.parametrize("mode", ["train_and_eval", "eval"])
def test_other_classes_are_refused_with_the_first_difference(trained, tmp_path, mode, capsys):
    data, run = copy_of(trained, tmp_path)
    for split in ("train", "val"):
        (data / split / "n001").rename(data / split / "z001")
    assert main(words_for(data, run, f"--mode={mode}")) == 2
    assert "class 0 was 'n001' and is now 'n002' (4 classes then, 4 now)" in capsys.readouterr().err


def test_a_search_is_as_careful(pictures, tmp_path, capsys):
    data = write_folder(tmp_path / "data", pictures)
    words = ["search", f"--checkpoint_dir={tmp_path}/run", "--epochs=0.5", "--replicas=2", *SMALL]
    assert main([*words, f"--dataset_dir={data}"]) == 0
    assert main([*words, f"--dataset_dir={data.rename(tmp_path / 'moved')}"]) == 0
    for split in ("train", "val"):
        (tmp_path / "moved" / split / "n004").rename(tmp_path / "moved" / split / "a")
    assert main([*words, f"--dataset_dir={tmp_path}/moved"]) == 2
    assert "class 0 was 'n001' and is now 'a'" in capsys.readouterr().err


def test_other_images_are_refused_on_resuming(trained, tmp_path, capsys):
    data, run = copy_of(trained, tmp_path)
    (data / "train" / "n003" / "n003_004.png").rename(data / "train" / "n003" / "x.png")
    assert main(words_for(data, run)) == 2
    assert "other file names or labels" in capsys.readouterr().err
    (data / "train" / "n003" / "x.png").unlink()
    assert main(words_for(data, run)) == 2
    assert "79 training images in place of 80" in capsys.readouterr().err
    assert main(words_for(data, run, "--mode=eval")) == 0  # weights may be tried on other images of the same classes


def test_another_choice_is_refused(trained, tmp_path, capsys):
    data, run = copy_of(trained, tmp_path)
    for mode in ("train_and_eval", "eval"):
        assert main(words_for(data, run, f"--mode={mode}", "--valid_fraction=0.25")) == 2
        assert "held out" in capsys.readouterr().err


def test_validation_images_alone_are_evaluated_on(trained, tmp_path, capsys):
    data, run = copy_of(trained, tmp_path)
    whole = json.loads((run / "result.json").read_text())
    only = Path(shutil.copytree(data / "val", tmp_path / "only"))
    shutil.copytree(data / "val", tmp_path / "below" / "validation")
    results = []
    for place in (only, tmp_path / "below"):
        assert main(words_for(place, run, "--mode=eval")) == 0
        results.append(json.loads((run / "result.json").read_text()))
    assert main(words_for(data, run, "--mode=eval", "--use_held_out_test_set")) == 0
    results.append(json.loads((run / "result.json").read_text()))
    assert [(result["split"], result["images"], result["loss"]) for result in results] == [
        ("test", 16, results[0]["loss"])
    ] * 3
    assert whole["split"] == "valid"
    assert main(words_for(tmp_path / "below", tmp_path / "new")) == 2
    assert "holds no training images; images to evaluate on alone do for --mode=eval" in capsys.readouterr().err


def test_the_images_of_a_plain_folder_that_a_run_knows_keep_their_part(pictures, tmp_path):
    data = tmp_path / "plain"
    shutil.copytree(write_folder(tmp_path / "data", pictures) / "train", data)
    assert main(words_for(data, tmp_path / "run")) == 0
    assert main(words_for(data, tmp_path / "run", "--mode=eval")) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["split"], result["images"]) == ("valid", 8)


# --- caches


def test_a_file_rewritten_in_place_is_decoded_again(tmp_path, pictures):
    root = write_folder(tmp_path / "data", pictures)
    before = pixels(opened(root, tmp_path / "cache"))
    path = root / "val" / "n001" / "n001_000.png"
    other = pictures.test[1].encoded
    size = max(path.stat().st_size, len(other))
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    os.utime(path, (1, 1))
    padded = pixels(opened(root, tmp_path / "cache"))
    assert torch.equal(before, padded)
    path.write_bytes(other.ljust(size, b"\0"))  # the same path and size
    after = pixels(opened(root, tmp_path / "cache"))
    assert not torch.equal(before[0], after[0]) and torch.equal(after[0], after[1])


@pytest.mark.parametrize("write", [write_webdataset, write_tfds, write_parquet])
def test_relabelled_shards_have_their_new_labels(tmp_path, pictures, write):
    def labels(part):
        return torch.cat([labels for _, labels in opened(part, tmp_path / "cache").once("test", 7)]).tolist()

    first = write(tmp_path / "data", pictures)
    wanted = labels(first)
    shutil.rmtree(first)
    turned = [Picture(each.name, 3 - each.label, each.encoded) for each in pictures.test]
    write(tmp_path / "data", Rendered(pictures.train, turned))
    assert labels(tmp_path / "data") == [3 - label for label in wanted]


def test_labels_are_part_of_a_cache_s_key(tmp_path, pictures):
    """Also where the files and their times are the same."""
    root = write_folder(tmp_path / "data", pictures)
    pixels(opened(root, tmp_path / "cache"))
    for name in ("n001", "n002"):
        for split in ("train", "val"):
            (root / split / name).rename(root / split / {"n001": "x", "n002": "n001"}[name])
    for split in ("train", "val"):
        (root / split / "x").rename(root / split / "n002")
    labels = torch.cat([labels for _, labels in opened(root, tmp_path / "cache").once("test", 7)])
    assert labels.tolist() == [k // 4 for k in range(16)]


# --- storage


@pytest.fixture
def failing(monkeypatch):
    """A local storage that fails for as long as it says, counted by path."""
    import tunas.data.storage as storage

    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    real, failures = storage._content, {}

    def content(wanted):
        if failures.get(Path(wanted.path).name, 0) > 0:
            failures[Path(wanted.path).name] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return real(wanted)

    monkeypatch.setattr(storage, "_content", content)
    return failures


def test_what_passes_is_waited_for(tmp_path, pictures, failing):
    root = write_folder(tmp_path / "data", pictures)
    failing["n002_001.png"] = 4
    wanted = pixels(opened(root))
    assert failing["n002_001.png"] == 0
    assert torch.equal(wanted, pixels(opened(root)))


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
def test_an_error_of_the_storage_is_no_bad_image(tmp_path, pictures, failing, on_bad_image):
    root = write_folder(tmp_path / "data", pictures)
    failing["n002_001.png"] = 1000
    with pytest.raises(TemporaryError, match=r"cannot read image .*n002_001.png: Input/output error, 6 times in a row"):
        pixels(opened(root, tmp_path / "cache", on_bad_image=on_bad_image))
    assert not list((tmp_path / "cache").glob("*.pixels"))
    failing.clear()
    assert len(pixels(opened(root, tmp_path / "cache", on_bad_image=on_bad_image))) == 16


def test_the_exit_code_says_that_starting_again_may_help(tmp_path, pictures, failing, capsys):
    root = write_folder(tmp_path / "data", pictures)
    failing.update({path.name: 1000 for path in root.rglob("*.png")})
    assert main(words_for(root, tmp_path / "run")) == 75
    assert "start the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "tries"), [(503, 6), (429, 6), (404, 1), (403, 1)])
def test_a_server_s_answer_decides(monkeypatch, status, tries):
    import fsspec

    import tunas.data.storage as storage

    class Answer(Exception):
        def __init__(self):
            super().__init__(f"{status}")
            self.status = status

    asked = []

    class Server:
        def cat_file(self, path, start=None, end=None):
            asked.append(path)
            raise FileNotFoundError(path) if status == 404 else Answer()

    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda path: (Server(), path))
    with pytest.raises(TemporaryError if tries > 1 else InputError):
        storage.read_bytes("https://server/x")
    assert len(asked) == tries


def test_a_message_out_of_a_cache_names_it(tmp_path, pictures):
    bad = Rendered(pictures.train, [*pictures.test[:-1], Picture("z.png", 3, b"")])
    root = write_folder(tmp_path / "data", bad)
    pixels(opened(root, tmp_path / "cache", on_bad_image="skip"))
    with pytest.raises(InputError, match=r"z.png: the file is empty .*; noted in .*/cache/data-test-32-.*\.pixels"):
        pixels(opened(root, tmp_path / "cache"))
