"""Reading searches back from their directories alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import tunas
from tunas import Space, get_space
from tunas.cli import main
from tunas.report.analyze import analyze, run_directories
from tunas.run.checkpoint import save_checkpoint
from tunas.run.directory import write_result
from tunas.run.events import EventLog
from tunas.search.controller import Controller
from tunas.space import structure_to_json

SPACE = "proxylessnas_search"


def write_run(directory: Path, space: Space, *, best: tuple[int, ...], steps: int = 3) -> None:
    """A directory as a search leaves it, whose logits at the last step favour `best`."""
    directory.mkdir(parents=True)
    (directory / "params.json").write_text(json.dumps({"ssd": space.name}))
    (directory / "model_spec.json").write_text(structure_to_json(space.tower))
    controller = Controller(space)
    log = EventLog(directory)
    for step in range(steps):
        if step == steps - 1:
            for position, index in enumerate(best):
                controller.logits[position, index] = 2.0
        log.log(step, [("model/loss", 1.0), *controller.logit_names()])
    log.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    space = get_space(SPACE)
    write_run(tmp_path / "run", space, best=tuple(size - 1 for size in space.sizes))
    return tmp_path / "run"


def test_the_most_likely_architecture_of_the_last_step_is_found(run: Path) -> None:
    space = get_space(SPACE)
    found = analyze(run)
    assert found.architecture.indices == tuple(size - 1 for size in space.sizes)
    assert found.step == 2
    assert found.cost == tunas.load_cost_model("pixel1", space).estimate(found.architecture)
    assert not found.warnings


def test_a_truncated_event_file_is_read_up_to_the_damage(run: Path) -> None:
    (file,) = run.glob("events.out.tfevents.*")
    file.write_bytes(file.read_bytes()[:-10])
    found = analyze(run)
    assert found.step == 1 and set(found.architecture.indices) == {0}
    assert any("ends within a record" in sentence for sentence in found.missing)


def test_a_flipped_byte_is_noticed(run: Path) -> None:
    (file,) = run.glob("events.out.tfevents.*")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))
    found = analyze(run)
    assert found.step == 1
    assert any("is damaged at byte" in sentence for sentence in found.missing)


def test_a_space_that_this_program_does_not_know_is_read_from_the_model_spec(run: Path) -> None:
    (run / "params.json").write_text(json.dumps({"ssd": "somewhere.py:mine"}))
    found = analyze(run)
    assert found.architecture.space.name == "somewhere.py:mine"
    assert len(found.architecture.indices) == 73


def test_with_a_tolerance_the_cost_lands_on_the_searchs_target(run: Path) -> None:
    far = analyze(run)
    assert far.cost is not None
    target = 0.95 * far.cost
    (run / "params.json").write_text(json.dumps({"ssd": SPACE, "rl_cost_model_target": target}))
    found = analyze(run, tolerance=0.01)
    assert found.cost == pytest.approx(target, rel=0.01)
    assert sum(a != b for a, b in zip(found.architecture.indices, far.architecture.indices, strict=True)) in (1, 2)
    assert analyze(run, "params", tolerance=0.01).architecture == found.architecture, (
        "priced by another model, but landed by the search's own"
    )
    (run / "params.json").write_text(
        json.dumps({"ssd": SPACE, "rl_cost_model_target": target, "rl_cost_model_tolerance": 0.01})
    )
    assert analyze(run).architecture == found.architecture


@pytest.mark.parametrize(
    ("params", "tolerance", "message"),
    [
        ({}, 0.01, "nothing to land on"),
        ({"enable_cost_model": False, "rl_cost_model_target": None}, 0.01, "nothing to land on"),
        ({"rl_cost_model_target": 84.0, "constraint": ["params=5e6"]}, 0.01, "has constraints"),
        ({"rl_cost_model_target": "84"}, 0.01, "rl_cost_model_target must be a positive number, not '84'"),
        (
            {"rl_cost_model_target": 84.0, "rl_cost_model_tolerance": -1},
            None,
            "rl_cost_model_tolerance must be a positive number, not -1",
        ),
        ({"rl_cost_model_target": 84.0}, 0.0, "rl_cost_model_tolerance must be a positive number, not 0.0"),
    ],
)
def test_a_tolerance_that_means_nothing_is_refused(
    run: Path, params: dict[str, object], tolerance: float | None, message: str
) -> None:
    (run / "params.json").write_text(json.dumps({"ssd": SPACE, **params}))
    with pytest.raises(tunas.InputError, match=message):
        analyze(run, tolerance=tolerance)


def test_a_directory_that_exists_is_taken_literally(tmp_path: Path) -> None:
    for name in ("lr[0.1]", "lr0", "lr."):
        (tmp_path / name).mkdir()
    assert run_directories(str(tmp_path / "lr[0.1]")) == [tmp_path / "lr[0.1]"]
    assert run_directories(str(tmp_path / "lr[0]")) == [tmp_path / "lr0"]


def test_a_directory_without_a_run_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(tunas.InputError, match="holds no run"):
        analyze(tmp_path)
    for file in run.glob("events.*"):
        file.unlink()
    with pytest.raises(tunas.InputError, match="no logits in its event files or checkpoints yet"):
        analyze(run)
    shutil.rmtree(run)


@pytest.mark.parametrize("name", ["params.json", "model_spec.json"])
def test_damaged_descriptions_are_refused(run: Path, name: str) -> None:
    (run / name).write_text("{")
    with pytest.raises(tunas.InputError):
        analyze(run)


# Which state counts, and what is said of what could not be read


def state(run: Path, step: int, index: int) -> None:
    """A checkpoint after `step` steps whose logits favour `index` everywhere."""
    controller = Controller(get_space(SPACE))
    controller.logits[:, index] = 2.0
    logits = {"controller/logits": torch.from_numpy(controller.logits)}
    save_checkpoint(run, step, logits, {})


def result(run: Path, index: int, steps: int = 3) -> None:
    text = ":".join([str(index)] * get_space(SPACE).num_choices)
    write_result(run, {"indices": text, "steps": steps})


def flip(path: Path, place: int = -100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_of_a_finished_search_the_result_counts_whatever_became_of_its_events(run: Path) -> None:
    result(run, 0)
    flip(next(run.glob("events*")))
    found = analyze(run)
    assert set(found.architecture.indices) == {0} and found.step == 2 and not found.remark


def test_of_a_damaged_result_the_newest_whole_state_takes_the_place(run: Path) -> None:
    result(run, 0)
    flip(run / "result.json", (run / "result.json").read_text().index("steps") + 8)
    found = analyze(run)
    assert set(found.architecture.indices) == {size - 1 for size in get_space(SPACE).sizes} and found.step == 2
    assert str(run / "result.json") in found.warnings[0] and "checksum does not match" in found.warnings[0]


def test_of_checkpoint_and_events_the_newer_one_counts(run: Path) -> None:
    state(run, 2, index=0)
    assert analyze(run).step == 2 and set(analyze(run).architecture.indices) != {0}
    state(run, 9, index=0)
    found = analyze(run)
    assert found.step == 8 and set(found.architecture.indices) == {0} and not found.remark


def test_what_could_not_be_read_is_named_on_the_line_of_the_architecture(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = run.glob("events*")
    flip(file)
    assert main(["analyze", f"--dirname={run}"]) == 3
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("indices = ")]
    assert "  # only part could be read: " in line and str(file) in line and "is damaged at byte" in line
    assert main(["analyze", f"--dirname={run}", "--output_format=csv"]) == 3
    assert "only part could be read" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_missed_only_where_nothing_newer_is_left(run: Path) -> None:
    state(run, 2, index=0)
    flip(run / "checkpoint-0000000002.safetensors", -1)
    assert not analyze(run).missing, "the events go on after it"
    state(run, 9, index=0)
    flip(run / "checkpoint-0000000009.safetensors", -1)
    found = analyze(run)
    assert found.step == 2 and "checkpoint-0000000009.safetensors" in found.missing[0]


def test_a_last_step_that_was_not_logged_to_its_end_is_passed_over_and_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(run)
    log.log(3, list(Controller(get_space(SPACE)).logit_names())[:5])
    log.close()
    found = analyze(run)
    assert found.step == 2 and not found.missing
    assert found.remark.startswith("step 3 was not logged to its end (it lacks rlpathlogits/")
    assert main(["analyze", f"--dirname={run}"]) == 0
    assert "# step 3 was not logged to its end" in capsys.readouterr().out


def test_a_search_without_a_cost_model_is_priced_by_the_default_one(run: Path) -> None:
    (run / "params.json").write_text(json.dumps({"ssd": SPACE, "enable_cost_model": False}))
    found = analyze(run)
    assert found.cost == tunas.load_cost_model("pixel1", SPACE).estimate(found.architecture) and found.unit == "ms"


def test_a_missed_tolerance_is_said_and_is_no_success(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"ssd": SPACE, "rl_cost_model_target": 84.0, "rl_cost_model_tolerance": 1e-9}
    (run / "params.json").write_text(json.dumps(params))
    result(run, 0)
    assert main(["analyze", f"--dirname={run}"]) == 3
    assert "% off the target of 84 ms, more than 0.00%" in capsys.readouterr().out
    (run / "params.json").write_text(json.dumps({**params, "rl_cost_model_tolerance": 0.9}))
    assert main(["analyze", f"--dirname={run}"]) == 0


def test_a_damaged_model_spec_is_named_by_its_path(run: Path) -> None:
    (run / "model_spec.json").write_text("{")
    with pytest.raises(tunas.InputError, match=f"{run}/model_spec.json: the model spec is not valid JSON"):
        analyze(run)
