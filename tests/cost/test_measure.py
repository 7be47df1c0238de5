"""Measuring draws every choice often enough, times in turns, survives interruptions, and says what is wrong with its
input."""

import contextlib
import csv
import dataclasses
import functools
import gc
import importlib.util
import itertools
import time

import numpy as np
import pytest

import tunas
from support.towers import small_tower
from tunas import CostModel, InputError
from tunas.cli.measure import run as cli_run
from tunas.cost.additive import parameters
from tunas.cost.elsewhere import export
from tunas.cost.fit import FitConfig, fit
from tunas.cost.measure import compare, measure, network_and_inputs
from tunas.cost.measure_config import MEANT_FOR, MeasureConfig
from tunas.cost.samples import (
    HEADER,
    LOWER_DECILE,
    Sample,
    append_samples,
    draw_architectures,
    in_use,
    read_samples,
    references_of,
)
from tunas.cost.timing import CLOCKS, interleaved_times, summary
from tunas.runtime import Conversion, Runtime, Session, register_runtime, registry, runtime_names
from tunas.runtime.onnx_file import onnx_bytes

SPACE = "tiny_to_measure"
TOWER = small_tower((8, 16, 24), kernels=(3, 5), skippable=1, head=32)


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """Garbage is collected before networks are timed; what was imported need not be gone through each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def space():
    return tunas.register_space(SPACE, lambda: TOWER)


@pytest.fixture
def counted(monkeypatch):
    """A device whose networks do nothing, and the list of those that were prepared for it."""
    prepared = []

    def convert(network, examples, conversion):
        return network, tuple(examples[0].shape)

    def opened(artifact, threads):
        prepared.append((*artifact, threads))
        return Session(lambda inputs: None)

    monkeypatch.setattr(registry, "_runtimes", dict(registry._runtimes))
    register_runtime(Runtime("counted", convert, opened, lambda: "nothing"))
    return prepared


def quick(**changes):
    settings = {
        "ssd": SPACE,
        "device": "counted",
        "image_size": 32,
        "num_classes": 4,
        "warmup": 1,
        "rounds": 2,
        "repeats": 2,
        "group": 3,
    }
    mode = next((name for name in ("out", "indices", "export") if name in changes), "out")
    told = {name: value for name, value in settings.items() if mode in MEANT_FOR.get(name, {mode})}
    return MeasureConfig(**{**told, **changes})


def sample(space, indices, milliseconds=1.0, **changes):
    return Sample(space.name, indices, milliseconds=milliseconds, **changes)


def written(path, *rows, header=("ssd", "indices", "milliseconds")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# Which architectures


@pytest.mark.parametrize("ssd", ["proxylessnas_search", "proxylessnas_enlarged_search", "mobilenet_v3_like_search"])
def test_every_choice_is_in_use_often_enough(ssd):
    space = tunas.get_space(ssd)
    counts = [np.zeros(size, int) for size in space.sizes]
    drawn = list(itertools.islice(draw_architectures(space, 0), 500))
    for architecture in drawn:
        for position in in_use(architecture):
            counts[position][architecture.indices[position]] += 1
    assert len(set(drawn)) == 500
    # The rarest are one of seven widths: 500 / 7 = 71 on average. Kernels and expansions of a layer that half of the
    # architectures skip have 250 / 6 = 42.
    assert min(row.min() for row in counts) >= 36
    widths = [row for row, point in zip(counts, space.points, strict=True) if point.path.endswith("/filters")]
    assert all(row.max() - row.min() <= 8 for row in widths)


def test_the_first_architectures_do_not_depend_on_how_many_follow():
    space = tunas.get_space("mobilenet_v3_like_search")
    few, many = (list(itertools.islice(draw_architectures(space, 5), count)) for count in (7, 40))
    assert many[:7] == few
    assert list(itertools.islice(draw_architectures(space, 6), 7)) != few


def test_drawing_ends_when_every_network_was_drawn(space):
    drawn = list(draw_architectures(space))
    everything = {space.architecture(row).pruned() for row in itertools.product(*map(range, space.sizes))}
    assert set(drawn) == everything and len(drawn) == len(everything)


# Samples that changed after they were measured


def test_a_flipped_digit_in_a_measured_row_is_refused_and_a_row_filled_in_by_hand_is_not(space, counted, tmp_path):
    path = tmp_path / "s.csv"
    measure(quick(out=str(path), num_architectures=3))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["num_classes"] for row in rows] == ["4"] * 3 and rows[0]["version"].startswith("torch ")
    rows[1]["milliseconds"] = "7.5"
    write = functools.partial(written, path, header=HEADER)
    write(*(row.values() for row in rows))
    with pytest.raises(InputError, match="row 2 is not as `tunas measure` wrote it"):
        read_samples(path, space)
    rows[1]["checksum"] = ""
    write(*(row.values() for row in rows))
    assert read_samples(path, space)[1].milliseconds == 7.5


def test_fit_takes_the_conditions_from_the_samples(space, steady, tmp_path):
    path = str(tmp_path / "s.csv")
    measure(quick(device="steady", out=path, num_architectures=50))
    model, _ = fit(FitConfig(path, space.name, str(tmp_path / "m.json")))
    assert (model.provenance["num_classes"], model.provenance["image_size"]) == (4, 32)
    with pytest.raises(InputError, match="measured with num_classes 4, not 10; leave --num_classes out"):
        fit(FitConfig(path, space.name, str(tmp_path / "m.json"), num_classes=10))


# How they are timed


def test_networks_take_turns_and_only_what_is_timed_counts():
    calls = []
    times = interleaved_times([lambda: calls.append("a"), lambda: calls.append("b")], warmup=2, rounds=3, repeats=2)
    assert calls == list("aabb" + 3 * "aaabbb")
    assert times.shape == (2, 3, 2) and (times >= 0).all()


def test_times_are_milliseconds_on_the_clock_that_was_asked_for():
    def nap():
        time.sleep(0.003)

    wall = interleaved_times([nap], 0, 2, 3)
    processor = interleaved_times([nap], 0, 2, 3, time.process_time_ns)
    assert 3.0 <= wall.min() < 30.0
    assert np.median(processor) < 1.5


def test_a_summary_is_the_lower_decile_of_the_rounds_medians():
    medians = np.arange(3.0, 14.0)  # eleven rounds, the second least of which is the lower decile
    times = np.stack([medians - 1, medians, medians + 90], axis=1)[np.random.default_rng(0).permutation(11)]
    found = summary(times)
    assert found["milliseconds"] == 4.0
    halves = [np.quantile(np.median(times[half::2], axis=1), 0.1) for half in (0, 1)]
    assert found["half_difference"] == pytest.approx(abs(halves[0] - halves[1])) != 0
    assert found["spread"] == np.subtract(*np.percentile(times, [75, 25]))


def test_what_disturbs_some_rounds_does_not_change_what_a_network_counts_with():
    rng = np.random.default_rng(0)
    quiet = 1 + 0.01 * rng.random((20, 5))
    disturbed = quiet * np.where(np.arange(20) % 3 == 0, 1.0, 1.7)[:, None]
    assert summary(disturbed)["milliseconds"] == pytest.approx(summary(quiet)["milliseconds"], rel=0.01)


def test_networks_run_in_eval_mode_on_one_image(space, counted, tmp_path):
    measure(quick(out=str(tmp_path / "s.csv"), num_architectures=2, threads=3))
    assert [(shape, threads) for _, shape, threads in counted] == [((1, 3, 32, 32), 3)] * 2
    assert not any(network.training for network, _, _ in counted)


# What is written


def test_rows_say_what_was_measured_how(space, counted, tmp_path):
    samples = measure(quick(out=str(tmp_path / "s.csv"), num_architectures=5))
    assert [s.indices for s in samples] == [a.text for a in itertools.islice(draw_architectures(space), 5)]
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HEADER
    assert {
        (r["ssd"], r["backend"], r["device"], r["image_size"], r["threads"], r["clock"], r["rounds"], r["repeats"])
        for r in rows
    } == {(SPACE, "counted", "nothing", "32", "1", "wall", "2", "2")}
    assert all(float(row["milliseconds"]) > 0 for row in rows)


def test_a_second_run_measures_only_what_is_missing(space, counted, tmp_path):
    path = tmp_path / "deep" / "s.csv"
    first = measure(quick(out=str(path), num_architectures=4))
    with open(path, "ab") as file:
        file.write(b"tiny_to_measure,0:0:1")  # a row that was cut off when the machine went down
    everything = measure(quick(out=str(path), num_architectures=7))
    assert len(counted) == 7 + 3 + 4 and len(everything) == 7, (
        "the rows before a group are measured again with it, to hold the speed against"
    )
    assert everything[:4] == first
    measure(quick(out=str(path), num_architectures=7))
    assert len(counted) == 7 + 3 + 4


def test_a_file_of_another_set_up_is_not_continued(space, counted, tmp_path):
    path = str(tmp_path / "s.csv")
    measure(quick(out=path, num_architectures=2))
    with pytest.raises(InputError, match="measured with image_size 32, not 64"):
        measure(quick(out=path, num_architectures=4, image_size=64))
    written(path, (SPACE, "0:0:0:0:0:0:0", 3))
    with pytest.raises(InputError, match="other columns"):
        measure(quick(out=path, num_architectures=4))


def test_a_file_of_medians_is_read_but_not_continued(space, counted, tmp_path):
    path = tmp_path / "s.csv"
    samples = measure(quick(out=str(path), num_architectures=2))
    assert {sample.statistic for sample in samples} == {LOWER_DECILE}
    before = [dataclasses.replace(sample, statistic="") for sample in samples]
    path.unlink()
    append_samples(path, before)
    with pytest.raises(InputError, match="measured with statistic '', not 'lower decile'; give a new file"):
        measure(quick(out=str(path), num_architectures=4))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="") as file:
        columns = [name for name in HEADER if name != "statistic"]  # which no file had
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert read_samples(path, space) == before
    with pytest.raises(InputError, match="other columns"):
        measure(quick(out=str(path), num_architectures=4))


def test_more_networks_than_there_are_cannot_be_measured(space, counted, tmp_path):
    with pytest.raises(InputError, match=r"has only some \d+ different networks, not the 5000"):
        measure(quick(out=str(tmp_path / "s.csv"), num_architectures=5000))


def test_a_written_row_is_read_back(space, tmp_path):
    row = sample(
        space,
        "1:0:0:1:0:1",
        12.5,
        backend="b",
        device="d, e",
        image_size=64,
        threads=2,
        clock="wall",
        spread=0.25,
        rounds=3,
        repeats=4,
    )
    append_samples(tmp_path / "s.csv", [row])
    assert read_samples(tmp_path / "s.csv", space) == [row]


# What is refused

GOOD = "0:0:0:0:0:0"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(SPACE, GOOD, "nan")], "row 1: milliseconds must be a positive number, not nan"),
        ([(SPACE, GOOD, "1"), (SPACE, "1:0:0:0:0:0", "-2")], "row 2: milliseconds must be a positive number, not -2"),
        ([(SPACE, GOOD, "inf")], "row 1: milliseconds must be a positive number, not inf"),
        ([(SPACE, GOOD, "fast")], "row 1: milliseconds must be a number, not 'fast'"),
        ([(SPACE, GOOD, "")], "row 1: milliseconds is empty"),
        ([(SPACE, GOOD, "1"), (SPACE, GOOD, "2")], "row 2: the same network as row 1"),
        (
            [(SPACE, "0:0:0:0:1:0", "1"), (SPACE, "0:0:1:1:1:0", "2")],
            "row 2: the same network as row 1",
        ),  # they differ in a skipped layer
        ([("mobilenet_v2", "", "1")], "row 1: a measurement of 'mobilenet_v2', not of tiny_to_measure"),
        ([(SPACE, "0:0:0:0:0:0:0", "1")], "row 1: .* takes 6 indices, but 7 were given"),
        ([(SPACE, "0:0:0:0:0:3", "1")], "row 1: index 3 at position 5"),
        ([(SPACE, GOOD)], "row 1: the number of cells differs"),
    ],
)
def test_a_wrong_row_is_named(space, tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_samples(written(tmp_path / "s.csv", *rows), space)


def test_a_missing_column_or_file_is_named(space, tmp_path):
    with pytest.raises(
        InputError, match="no column 'milliseconds'; needed are ssd, indices, milliseconds, found were ssd, indices, ms"
    ):
        read_samples(written(tmp_path / "s.csv", header=("ssd", "indices", "ms")), space)
    with pytest.raises(InputError, match=r"cannot read the samples .*none\.csv"):
        read_samples(tmp_path / "none.csv", space)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="cannot read the samples"):
        read_samples(tmp_path / "binary.csv", space)


def test_set_ups_are_not_mixed(space, tmp_path):
    header = ("ssd", "indices", "milliseconds", "threads")
    path = written(tmp_path / "s.csv", (SPACE, GOOD, 1, 1), (SPACE, "1:0:0:0:0:0", 1, 2), header=header)
    with pytest.raises(InputError, match="row 2: threads is 2, but 1 in row 1"):
        read_samples(path, space)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "a.csv", "rounds": 1}, "rounds must be at least 2"),
        ({"out": "a.csv", "threads": 0}, "threads must be at least 1"),
        ({"out": "a.csv", "warmup": -1}, "warmup must not be negative"),
        ({"out": "a.csv", "threads": 2, "clock": "processor"}, "processor clock"),
        ({}, "give one of out"),
        ({"out": "a.csv", "export": "b"}, "give one of out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        quick(**changes)


# Real devices


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "executorch" in name or "compile" in name else ())
        for name in runtime_names()
        if "cuda" not in name
    ],
)
def test_a_device_measures_a_few_architectures(space, name, tmp_path):
    if any(importlib.util.find_spec(module) is None for module in registry._runtimes[name].requires):
        pytest.skip(f"{name} is not installed")
    samples = measure(quick(device=name, out=str(tmp_path / "s.csv"), num_architectures=2))
    assert len(samples) == 2
    assert all(0 < s.milliseconds < 1000 and s.backend == name and s.device and s.threads == 1 for s in samples)


def test_one_architecture_is_measured_without_a_file(space):
    (found,) = measure(quick(device="torch-cpu", indices="1:0:0:1:0:2"))
    assert found.milliseconds > 0 and found.indices == "1:0:0:1:0:2"


@pytest.fixture
def steady(monkeypatch):
    """A device that takes a microsecond for every parameter, times `steady["slowdown"]`, on a clock that only it
    moves."""
    state = {"now": 0.0, "slowdown": 1.0}

    def convert(network, examples, conversion):
        return 1e3 * sum(parameter.numel() for parameter in network.parameters())

    def opened(took, threads):
        def run(inputs):
            state["now"] += took * state["slowdown"]

        return Session(run)

    monkeypatch.setattr(registry, "_runtimes", dict(registry._runtimes))
    monkeypatch.setitem(CLOCKS, "wall", lambda: state["now"])
    register_runtime(Runtime("steady", convert, opened, lambda: "board"))
    return state


def test_a_device_that_became_slower_is_told_from_a_wrong_prediction(space, steady, tmp_path, capsys):
    settings = {"device": "steady", "num_classes": 4, "rounds": 2, "repeats": 1}
    measure(quick(out=str(tmp_path / "s.csv"), num_architectures=50, **settings))
    model, _ = fit(FitConfig(str(tmp_path / "s.csv"), space.name, str(tmp_path / "board.json")))
    one = quick(indices="1:0:0:1:0:2", cost_model=str(tmp_path / "board.json"), **settings)
    milliseconds = parameters(space, num_classes=4).estimate(space.architecture(one.indices)) / 1e3
    steady["slowdown"] = 1.25
    found = compare(one)
    assert found.sample.milliseconds == pytest.approx(1.25 * milliseconds)
    assert found.predicted == model.estimate(space.architecture(one.indices)) == pytest.approx(milliseconds, rel=0.02)
    assert found.references == 10 and found.slowdown == pytest.approx(1.25, rel=1e-4)
    assert found.error == pytest.approx(1.25 * milliseconds / found.predicted - 1)
    assert found.error_at_speed_of_then == pytest.approx(milliseconds / found.predicted - 1, abs=1e-4)
    cli_run(one)
    printed = capsys.readouterr().out
    assert "10 architectures of the cost model's samples" in printed and "now take 1.250 of their time" in printed
    other_set_up = compare(dataclasses.replace(one, threads=2))
    assert (other_set_up.references, other_set_up.slowdown) == (0, 1.0)
    assert other_set_up.error_at_speed_of_then == other_set_up.error
    assert other_set_up.changed == ("threads was 1 and is now 2",)
    with pytest.raises(InputError, match=r"measured with 32 pixels a side \(--image_size\), and .* have 64"):
        compare(dataclasses.replace(one, image_size=64))
    with pytest.raises(InputError, match="measured with 4 classes, and these networks have 5"):
        compare(dataclasses.replace(one, num_classes=5))


def test_times_are_those_of_the_speed_that_the_device_had_at_first(space, steady, tmp_path):
    settings = {
        "device": "steady",
        "num_classes": 4,
        "rounds": 2,
        "repeats": 1,
        "out": str(tmp_path / "s.csv"),
        "group": 12,
    }
    steady["slowdown"] = 0.8
    measure(quick(num_architectures=12, **settings))
    steady["slowdown"] = 1.2
    measure(quick(num_architectures=30, **settings))
    steady["slowdown"] = 0.4
    samples = measure(quick(num_architectures=40, **settings))
    size = parameters(space, num_classes=4)
    for number, measured in enumerate(samples):
        assert measured.milliseconds == pytest.approx(
            0.8 * size.estimate(space.architecture(measured.indices)) / 1e3, rel=1e-4
        )
        assert measured.slowdown == pytest.approx(1.0 if number < 12 else 1.5 if number < 30 else 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (
            [{"indices": "1:0:0:1:0:2", "milliseconds": 0}],
            "references/0 must hold indices as text and a positive number",
        ),
        ([{"indices": "1:0:0:1:0:2", "milliseconds": True}], "references/0 must hold"),
        ([{"indices": "1:0:0:1:0:2", "milliseconds": 1.0}, 7], "references/1 must hold"),
        ({"indices": 1}, "references/0 must hold"),
        ([{"indices": "1:0", "milliseconds": 1.0}], "references/0: .* takes 6 indices, but 2 were given"),
    ],
)
def test_wrong_references_of_a_cost_model_are_named(space, references, message):
    with pytest.raises(InputError, match=message):
        references_of(CostModel(space, 1.0, [], provenance={"references": references}))


def test_larger_images_take_longer(space):
    small, large = (
        measure(quick(device="torch-cpu", clock="processor", indices="1:0:0:1:0:2", image_size=size))[0].milliseconds
        for size in (32, 448)
    )
    assert large > 3 * small


# A device that is not here


def test_an_export_is_filled_in_and_read(space, tmp_path):
    pytest.importorskip("onnx")
    manifest = export(quick(export=str(tmp_path), num_architectures=3))
    with open(manifest, newline="") as file:
        reader = csv.DictReader(file)
        header, rows = reader.fieldnames, list(reader)
    assert [row["indices"] for row in rows] == [a.text for a in itertools.islice(draw_architectures(space), 3)]
    with pytest.raises(InputError, match="row 1: milliseconds is empty"):
        read_samples(manifest, space)
    for number, row in enumerate(rows):
        assert (tmp_path / row["file"]).stat().st_size > 1000
        row["milliseconds"] = str(10 + number)
    with open(manifest, "w", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)
    assert [s.milliseconds for s in read_samples(manifest, space)] == [10, 11, 12]
    export(quick(export=str(tmp_path), num_architectures=4))  # one more; what was filled in stays
    with open(manifest, newline="") as file:
        assert [row["milliseconds"] for row in csv.DictReader(file)] == ["10", "11", "12", ""]
    with pytest.raises(InputError, match="lists other architectures"):
        export(quick(export=str(tmp_path), num_architectures=4, seed=9))


def test_an_exported_file_is_the_network(space, tmp_path):
    onnx = pytest.importorskip("onnx")
    reference = pytest.importorskip("onnx.reference")
    config = quick(indices="1:1:0:1:0:2")
    network, (image,), names = network_and_inputs(space.architecture("1:1:0:1:0:2"), config)
    content = onnx_bytes(network, (image,), Conversion(inputs=names, output="logits"))
    (tmp_path / "n.onnx").write_bytes(content)
    onnx.checker.check_model(str(tmp_path / "n.onnx"))
    (logits,) = reference.ReferenceEvaluator(str(tmp_path / "n.onnx")).run(["logits"], {"image": image.numpy()})
    np.testing.assert_allclose(logits, network(image).numpy(), rtol=1e-3, atol=1e-5)


def test_defaults_measure_500_at_224_px_on_one_thread():
    defaults = {field.name: field.default for field in dataclasses.fields(MeasureConfig)}
    assert (defaults["num_architectures"], defaults["image_size"], defaults["threads"], defaults["device"]) == (
        500,
        224,
        1,
        "torch-cpu",
    )


# What the end needs, checked at the beginning


def test_progress_moves_with_every_network_and_not_once_a_group(space, counted, tmp_path, monkeypatch):
    moves = []

    class Bar(contextlib.nullcontext):
        def __enter__(self):
            return self

        def add_task(self, description, total, completed):
            return 0

        def advance(self, task, amount):
            moves.append(amount)

    monkeypatch.setattr("tunas.cost.measure.progress_bar", Bar)
    measure(quick(out=str(tmp_path / "s.csv"), num_architectures=3, rounds=8))
    assert len(moves) == 3 * 10 and sum(moves) == pytest.approx(3)


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(space, counted, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "s.csv", tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            measure(quick(out=str(path), num_architectures=3))
    with pytest.raises(InputError, match="cannot write"):
        export(quick(export=str(tmp_path / "file" / "networks"), num_architectures=1))
    assert not counted
