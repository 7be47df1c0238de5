"""The whole way in one command, on a space small enough for a test."""

import importlib
import json
from pathlib import Path

import pytest

from jobs import TINY
from tunas.cli import main


def test_the_quickstart_compares_the_searched_with_random_architectures_of_the_same_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("tunas.search.config"), "DIGITS_EPOCHS", 1.0)
    words = [
        "quickstart",
        f"--ssd={TINY}",
        f"--checkpoint_dir={tmp_path}",
        "--train_epochs=1",
        "--random=1",
        "--cost_model=params",
    ]
    assert main(words) == 0
    searched, random = json.loads((tmp_path / "comparison.json").read_text())
    target = json.loads((tmp_path / "search/result.json").read_text())["target"]
    assert random["cost"] == pytest.approx(target, rel=0.02)
    assert searched["indices"] == json.loads((tmp_path / "search/result.json").read_text())["indices"]
    assert all(
        json.loads((tmp_path / name / "result.json").read_text())["images"] == 360 for name in ("searched", "random-1")
    )
    before = capsys.readouterr().out
    assert main(words) == 0  # goes on where it was: nothing is left to do
    assert capsys.readouterr().out.splitlines()[1:5] == before.splitlines()[1:5]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train_epochs=-1"], "epochs must be a positive number, not -1"),
        (["--train_epochs=0.001"], "are less than one batch"),
        (["--rl_cost_model_target=874"], "found 0 of 1 architectures of"),
        (["--rl_cost_model_target=1"], "no architecture of"),
        (["--random=-1"], "random must be 0 or more"),
    ],
)
def test_what_the_trainings_need_is_known_before_the_search(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--ssd={TINY}", f"--checkpoint_dir={tmp_path}", "--random=1", "--cost_model=params", *words]
    assert main(["quickstart", *given]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "search").exists()
