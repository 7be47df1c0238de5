"""A search and a training see the same pixels whatever layout the images lie in, and so come to the same result."""

import json
from pathlib import Path

import pytest

from support.jobs import TINY
from support.rendered import OTHERS, WRITERS, Rendered, write_folder, write_plain
from tunas.cli import main
from tunas.needs import has_package

LAYOUTS = (*WRITERS, *OTHERS)
SMALL = [f"--ssd={TINY}", "--image_size=16", "--train_batch_size=16", "--epochs=1", "--device=cpu", "--num_workers=0"]


@pytest.fixture(scope="module")
def held_out(pictures: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fifth training image, by name."""
    file = tmp_path_factory.mktemp("lists") / "valid.txt"
    file.write_text("".join(f"{Path(each.name).stem}\n" for each in pictures.train[::5]))
    return file


@pytest.fixture(scope="module")
def results(
    datasets: dict[tuple[str, str], Path],
    pictures: Rendered,
    held_out: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[dict[str, object], dict[str, object]]]:
    """Layout -> (result of a search, result of a training)."""
    found = {}
    for layout in LAYOUTS:
        if layout == "array_record" and not has_package("array_record"):
            continue
        run = tmp_path_factory.mktemp("run")
        there = OTHERS[layout](run / "data", pictures) if layout in OTHERS else datasets[layout, "PNG"]
        data = [f"--dataset_dir={there}", f"--valid_filenames={held_out}"]
        assert main(["search", f"--checkpoint_dir={run}/search", "--replicas=2", *data, *SMALL]) == 0
        indices = json.loads((run / "search/result.json").read_text())["indices"]
        assert main(["train", f"--checkpoint_dir={run}/train", f"--indices={indices}", *data, *SMALL]) == 0
        found[layout] = tuple(json.loads((run / name / "result.json").read_text()) for name in ("search", "train"))
    return found


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_every_layout_gives_the_result_that_an_image_folder_gives(
    layout: str, results: dict[str, tuple[dict[str, object], ...]]
) -> None:
    if layout not in results:
        pytest.skip("needs array_record")
    for number, names in enumerate(
        (("indices", "cost", "shared_weights_accuracy"), ("accuracy", "top5_accuracy", "loss", "images"))
    ):
        assert {name: results[layout][number][name] for name in names} == {
            name: results["folder"][number][name] for name in names
        }


def test_the_held_out_images_are_counted_once_each(results: dict[str, tuple[dict[str, object], ...]]) -> None:
    assert all(training["images"] == 16 for _, training in results.values())


def test_class_folders_without_splits_are_searched_and_trained_on(pictures: Rendered, tmp_path: Path) -> None:
    data = f"--dataset_dir={write_plain(tmp_path / 'flowers', pictures.train)}"
    assert main(["search", f"--checkpoint_dir={tmp_path}/search", "--replicas=2", data, *SMALL]) == 0
    training = ["train", f"--from={tmp_path}/search", f"--checkpoint_dir={tmp_path}/train", *SMALL[2:]]
    assert main([*training, "--use_held_out_test_set"]) == 0
    assert json.loads((tmp_path / "train/result.json").read_text())["images"] == 8


def test_images_that_cannot_be_decoded_are_counted_in_the_result(
    pictures: Rendered, tmp_path: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_folder(tmp_path / "images", pictures)
    (broken, *_) = sorted((root / "train").glob("*/*.png"))
    broken.write_bytes(b"")
    words = ["train", f"--dataset_dir={root}", f"--checkpoint_dir={tmp_path}/run", "--indices=1:1:1:1:1:1:0:1", *SMALL]
    assert main([*words, f"--valid_filenames={held_out}"]) == 2
    assert broken.name in capsys.readouterr().err
    assert (
        main([*words, f"--valid_filenames={held_out}", "--on_bad_image=skip", f"--checkpoint_dir={tmp_path}/skipping"])
        == 0
    )
    assert "1 images could not be decoded and were left out" in capsys.readouterr().err
    result = json.loads((tmp_path / "skipping/result.json").read_text())
    assert broken.name in result["bad_images"] and result["images"] == 15
