"""The released files, and accuracy as a function of the architecture. The real files are not at hand: rows of the same
format are made, with accuracies that are known functions of the architecture."""

import csv

import numpy as np
import pytest

import tunas
from tunas import CostModel, InputError
from tunas.cli import main
from tunas.cost import CostTerm
from tunas.space import active_positions
from tunas.study.accuracy import fitted_accuracy
from tunas.study.released import COLUMNS, read_rows, summaries

SPACE = "proxylessnas_search"
EXAMPLE = (
    "0:0:0:1:0:0:0:0:1:0:0:1:0:0:1:0:1:1:0:1:0:0:1:0:0:0:0:0:0:2:1:0:1:1:0:2:1:0:2:1:0:0:1:1:0:0:0:0:1:0:0:1:0:0:0:"
    "1:1:0:2:0:0:0:0:0:1:0:0:0:2:1:0:0:0"
)


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return str(path)


def made_up_accuracies(space, indices):
    """0.7 and a random score for every choice that is in use."""
    rng = np.random.default_rng(0)
    terms = [CostTerm((place,), rng.normal(size=point.size) * 0.005) for place, point in enumerate(space.points)]
    in_use = indices.copy()
    for row in in_use:
        row[~np.array(active_positions(space, row.tolist()))] = 0
    return CostModel(space, 0.7, terms).estimate(in_use)


def released_like(space, count, seed=1):
    indices = space.sample(np.random.default_rng(seed), count)
    times = tunas.load_cost_model("pixel1", space).estimate(indices)
    accuracies = made_up_accuracies(space, indices)
    text = [":".join(map(str, row)) for row in indices.tolist()]
    return (
        indices,
        accuracies,
        [
            (space.name, where, f"{time:.4f}", f"{accuracy:.5f}", "")
            for where, time, accuracy in zip(text, times, accuracies, strict=True)
        ],
    )


def test_every_row_is_read_and_its_time_is_ours(tmp_path):
    rows = released_like(tunas.get_space(SPACE), 30)[2]
    random = write(tmp_path / "random.csv", rows)
    searched = write(tmp_path / "searched.csv", [(SPACE, EXAMPLE, "84.017", "0.7500", "0.7400")])
    found = summaries(random, searched)
    assert [(each.kind, len(each.rows)) for each in found] == [("random", 30), ("searched", 1)]
    assert found[0].difference < 1e-4 and found[1].difference < 1e-3
    assert found[0].rows[0].test is None and found[1].rows[0].test == 0.74


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("no_space", EXAMPLE, "84", "0.7", ""), "line 2: .*no_space"),
        ((SPACE, EXAMPLE[:-2], "84", "0.7", ""), "line 2: .*73"),
        ((SPACE, "9" + EXAMPLE[1:], "84", "0.7", ""), "line 2: .*9"),
        ((SPACE, EXAMPLE, "fast", "0.7", ""), f"line 2: {COLUMNS[2]} must be a number, not 'fast'"),
        ((SPACE, EXAMPLE, "", "0.7", ""), f"line 2: {COLUMNS[2]} is empty"),
        ((SPACE, EXAMPLE, "84", "70.5", ""), "line 2: .*a part of 1, not 70.5"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        read_rows(write(tmp_path / "random.csv", [row]))


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "random.csv"
    path.write_text("ssd,indices\n")
    with pytest.raises(InputError, match="simulated_pixel1_time_ms is missing"):
        read_rows(str(path))


def test_accuracy_is_found_again_where_it_is_a_sum_over_choices():
    space = tunas.get_space(SPACE)
    indices, accuracies, _ = released_like(space, 400)
    fit = fitted_accuracy(space, indices, accuracies)
    others, true, _ = released_like(space, 500, seed=2)
    assert fit.rank_correlation > 0.8
    assert np.corrcoef(fit.model.estimate(others), true)[0, 1] > 0.8
    assert fit.error < fit.spread / 2


def test_accuracies_without_a_reason_correlate_with_nothing():
    space = tunas.get_space(SPACE)
    indices = space.sample(np.random.default_rng(0), 300)
    fit = fitted_accuracy(space, indices, np.random.default_rng(1).normal(0.7, 0.01, 300))
    assert abs(fit.rank_correlation) < 0.25


def test_the_command_prints_a_row_per_space_and_writes_models(tmp_path, capsys):
    random = write(tmp_path / "random.csv", released_like(tunas.get_space(SPACE), 40)[2])
    assert main(["released", random, "--out", str(tmp_path / "out")]) == 0
    assert "40" in capsys.readouterr().out
    assert (tmp_path / "out" / f"{SPACE}.png").read_bytes().startswith(b"\x89PNG")
    model = CostModel.load(tmp_path / "out" / f"{SPACE}.json", SPACE)
    assert model.unit == "accuracy"


def test_the_command_refuses_three_files_and_none(tmp_path, capsys):
    assert main(["released"]) == 2
    assert main(["released", "a", "b", "c"]) == 2
    assert "not 3 files" in capsys.readouterr().err
