"""The ranking by shared weights against that of stand-alone trainings."""

import csv
import json

import numpy as np
import pytest
import torch

from support.jobs import DOTS, SEARCH, TINY, finished
from tunas import InputError, SearchConfig, SuperNet, get_space
from tunas.cli import main
from tunas.data import normalize, open_data
from tunas.run.checkpoint import load_checkpoint
from tunas.run.checkpoint_names import checkpoints
from tunas.study.correlation import correlation, top_regret
from tunas.study.rank import rank, task_of_run
from tunas.study.stand_alone import stand_alone_qualities
from tunas.study.study import RANDOM_CSV

COLUMNS = ("ssd", "indices", "simulated_pixel1_time_ms", "90epoch_validation_accuracy", "360epoch_test_accuracy")


def write(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([(*COLUMNS, "accuracy"), *rows])
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    space = get_space(TINY)
    directory = tmp_path_factory.mktemp("study")
    drawn = dict.fromkeys(space.architecture(row) for row in space.sample(np.random.default_rng(0), 8).tolist())
    rows = [(space.name, found.text, "", f"{0.5 + 0.01 * place:.2f}", "", "") for place, found in enumerate(drawn)]
    write(directory / RANDOM_CSV, rows)
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("search")
    kept = ("--checkpoint-every=5", "--keep-checkpoints=4", "--valid-precision=fp32")
    finished([*SEARCH, "--epochs=1", *kept, "--padding=same", f"--checkpoint-dir={directory}"])
    return directory


def test_every_checkpoint_is_measured_with_its_weights_and_the_batches_of_the_search(run, study):
    found = rank(str(run), str(study), examples=150, device="cpu", seed=5)
    assert [ranking.step for ranking in found.rankings] == [10, 15, 20, 22]
    assert (found.batch, found.examples, found.quality_name) == (96, 192, "accuracy")
    stream = open_data(SearchConfig(image_size=8, num_workers=0)).stream("valid", 96, seed=5)
    batches = [next(stream) for _ in range(2)]
    for path, ranking in zip(checkpoints(run)[::-1], found.rankings, strict=True):
        supernet = SuperNet(get_space(TINY), 10, same_padding=True)
        with torch.no_grad():
            supernet.flatten().copy_(load_checkpoint(path)[0]["weights"])
            for architecture, quality in zip(found.architectures, ranking.qualities, strict=True):
                right = [supernet(normalize(images), architecture).argmax(1) == labels for images, labels in batches]
                assert quality == pytest.approx(float(torch.cat(right).float().mean()))


def test_the_command_prints_a_row_for_each_checkpoint_and_writes_what_it_found(run, study, tmp_path, capsys):
    out = tmp_path / "new" / "rank.json"
    words = [f"--checkpoint_dir={run}", f"--study={study / RANDOM_CSV}", "--examples=96", f"--out={out}"]
    assert main(["rank", *words]) == 0
    document = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert [found["step"] for found in document["checkpoints"]] == [10, 15, 20, 22]
    for found in document["checkpoints"]:
        assert f"{found['kendall']:+.3f}" in printed
        assert found["interval"][0] <= found["kendall"] <= found["interval"][1]
        assert len(found["shared"]) == len(document["stand_alone"]) == len(document["architectures"])
    assert main(["rank", *words[:3]]) == 0
    assert json.loads((run / "rank.json").read_text()) == document


def test_without_a_study_architectures_of_the_searchs_cost_are_trained_below_it_once(run, monkeypatch, capsys):
    words = ["rank", f"--checkpoint_dir={run}", "--random=5", "--train", "epochs=0.2", "--examples=96"]
    assert main(words) == 0
    document = json.loads((run / "rank.json").read_text())
    target = json.loads((run / "params.json").read_text())["rl_cost_model_target"]
    with (run / "rank" / RANDOM_CSV).open() as file:
        rows = list(csv.DictReader(file))
    assert len(document["architectures"]) == 5 == len(rows)
    assert all(abs(float(row["cost"]) / target - 1) <= 0.02 and row["epochs"] == "0.2" for row in rows)
    assert document["stand_alone"] == [float(row["accuracy"]) for row in rows]
    monkeypatch.setattr("tunas.study.jobs.run_one", lambda config: pytest.fail("trained again"))
    assert main(words) == 0 and json.loads((run / "rank.json").read_text()) == document
    capsys.readouterr()


def test_a_task_of_ones_own_is_opened_by_its_name_alone(tmp_path):
    params = {"task": f"{DOTS}:dots", "num_workers": 0, "image_size": 8, "dataset": "dots", "valid_share": 4}
    assert task_of_run(tmp_path, params, None, None).size("valid") == 40


def test_a_damaged_checkpoint_is_passed_over(run, study, tmp_path, capsys):
    for name in ("params.json", "model_spec.json", "data.json"):
        if (run / name).exists():
            (tmp_path / name).write_bytes((run / name).read_bytes())
    newest, older = checkpoints(run)[:2]
    (tmp_path / newest.name).write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"no checkpoint in .* could be read"):
        rank(str(tmp_path), str(study), examples=96, device="cpu")
    (tmp_path / older.name).write_bytes(older.read_bytes())
    assert [found.step for found in rank(str(tmp_path), str(study), examples=96, device="cpu").rankings] == [20]
    assert "passing over a checkpoint" in capsys.readouterr().err


def test_the_same_order_correlates_fully_and_the_opposite_one_inversely():
    alone = np.linspace(0.5, 0.7, 12)
    same, opposite = correlation(alone - 0.2, alone), correlation(-alone, alone)
    assert (same.spearman, same.kendall, *same.interval) == pytest.approx((1, 1, 1, 1))
    assert (opposite.spearman, opposite.kendall) == pytest.approx((-1, -1))
    assert set(same.regret.values()) == {0.0}
    assert opposite.regret == pytest.approx({1: 0.2, 3: 0.2 * 9 / 11, 10: 0.2 * 2 / 11})


def test_the_interval_covers_no_correlation_where_there_is_none():
    rng = np.random.default_rng(0)
    low, high = correlation(rng.normal(size=40), rng.normal(size=40)).interval
    assert -0.5 < low < 0 < high < 0.5


def test_no_correlation_is_claimed_where_all_look_equal():
    found = correlation(np.full(6, 0.1), np.arange(6) / 10)
    assert (found.spearman, found.kendall, found.interval) == (None, None, None)
    assert found.regret == {1: 0.5, 3: pytest.approx(0.3)}


def test_of_equal_ones_the_worst_counts():
    assert top_regret(np.array([0.5, 0.5, 0.1]), np.array([0.9, 0.6, 0.7]), 1) == pytest.approx(0.3)


def test_trainings_of_one_architecture_are_averaged_and_other_spaces_named(tmp_path, capsys):
    space = get_space(TINY)
    texts = list(dict.fromkeys(space.architecture(row).text for row in np.eye(8, dtype=int).tolist()))
    rows = [(space.name, text, "", "", "0.5", "") for text in texts]
    path = write(tmp_path / "s.csv", [*rows, (space.name, texts[0], "", "0.1", "", "0.7"), ("other", "0", 1, 0, 0, 0)])
    architectures, qualities = stand_alone_qualities(str(path), space)
    assert [found.text for found in architectures] == texts
    assert qualities == pytest.approx([0.6, *[0.5] * (len(texts) - 1)])
    assert "1 architectures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(TINY, "1:1:1:1:1:1:0:1", "", "good", "", "")], "line 2: the accuracy must be a number, not 'good'"),
        ([(TINY, "9:9", "", "0.5", "", "")], "line 2: .*indices"),
        ([(TINY, "1:1:1:1:1:1:0:1", "", "0.5", "", "")], "at least 5 different architectures .* holds 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        stand_alone_qualities(str(write(tmp_path / "s.csv", rows)), get_space(TINY))


def test_what_is_no_search_or_no_study_is_refused_in_one_sentence(run, study, tmp_path, capsys):
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    for words, message in (
        ([f"--checkpoint_dir={tmp_path}", f"--study={study}"], "holds no search: params.json"),
        ([f"--checkpoint_dir={run}", f"--study={tmp_path}"], "holds no random_architectures.csv"),
        ([f"--checkpoint_dir={run}", f"--study={tmp_path / 'no.csv'}"], "ssd is missing"),
        ([f"--checkpoint_dir={run}", f"--study={tmp_path / 'none.csv'}"], "none.csv"),
        ([f"--checkpoint_dir={run}", f"--study={study}", "--examples=0"], "examples must be"),
        ([f"--checkpoint_dir={run}", "--random=4"], "at least 5 architectures, not --random=4"),
        ([f"--checkpoint_dir={run}", f"--study={study}", "--workers=2"], "--workers means nothing with --study"),
    ):
        assert main(["rank", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.startswith("tunas: ") and error.count("\n") == 1
