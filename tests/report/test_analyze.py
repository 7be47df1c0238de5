"""Reading searches back from their directories alone."""

import json
import shutil
from pathlib import Path

import pytest

import tunas
from tunas.report.analyze import analyze, run_directories
from tunas.run.events import EventLog
from tunas.search.controller import Controller
from tunas.space import Space, get_space, structure_to_json

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
    assert any("ends within a record" in warning for warning in found.warnings)


def test_a_flipped_byte_is_noticed(run: Path) -> None:
    (file,) = run.glob("events.out.tfevents.*")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(bytes(content))
    found = analyze(run)
    assert found.step == 1
    assert any("is damaged at byte" in warning for warning in found.warnings)


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
    with pytest.raises(tunas.InputError, match="no logits in its event files yet"):
        analyze(run)
    shutil.rmtree(run)


@pytest.mark.parametrize("name", ["params.json", "model_spec.json"])
def test_damaged_descriptions_are_refused(run: Path, name: str) -> None:
    (run / name).write_text("{")
    with pytest.raises(tunas.InputError):
        analyze(run)
