"""Fitting recovers what generated the times, prices what was not seen by physics, and reports its error honestly."""

import csv
import itertools

import numpy as np
import pytest
from scipy import sparse

import tunas
from support.towers import small_tower
from tunas import CostModel, InputError, OneOf, Space, load_cost_model
from tunas.cost import CostTerm
from tunas.cost.additive import macs, parameters
from tunas.cost.features import layer_tables
from tunas.cost.fit import FitConfig, fit, fit_samples, held_out
from tunas.cost.fit_report import FitReport
from tunas.cost.regression import (
    STRENGTHS,
    SpaceFeatures,
    chosen_strengths,
    combined,
    fitted_times,
    left_out_residuals,
    physical_prior,
    residuals_along,
    ridge_dual,
)
from tunas.cost.samples import Sample, draw_architectures
from tunas.space import (
    OP,
)

TOWER = small_tower((8, 16, 24), (16, 32), se=OneOf((False, True), OP))
SPACE = Space("small_to_fit", TOWER)


def drawn(space, count, seed=0):
    return np.array([a.indices for a in itertools.islice(draw_architectures(space, seed), count)])


def samples_of(space, indices, times, **columns):
    return [
        Sample(space.name, space.architecture(row).text, milliseconds=float(time), **columns)
        for row, time in zip(indices, times, strict=True)
    ]


def physical_time(space):
    """A device that takes 1 ns a parameter, 0.1 ns a multiply-accumulate, and 2 ms for each network."""
    count, work = parameters(space), macs(space)
    return lambda indices: 2.0 + 1e-6 * count.estimate(indices) + 1e-7 * work.estimate(indices)


# The mathematics


def test_the_dual_solution_is_ridge_regressions_closed_form():
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(30, 8)), rng.normal(size=(30, 50))]
    target = rng.normal(size=30)
    strengths = (3.0, 0.2)
    dual = ridge_dual(combined([group @ group.T for group in groups], strengths), target)
    found = np.concatenate([strength * group.T @ dual for strength, group in zip(strengths, groups, strict=True)])
    design = np.hstack(groups)
    penalty = np.diag([1 / 3.0] * 8 + [1 / 0.2] * 50)
    np.testing.assert_allclose(found, np.linalg.solve(design.T @ design + penalty, design.T @ target), rtol=1e-8)


def test_left_out_residuals_are_those_of_leaving_each_sample_out():
    rng = np.random.default_rng(1)
    design, target = rng.normal(size=(12, 5)), rng.normal(size=12)
    found = left_out_residuals(design @ design.T, target)
    for out in range(12):
        rest = np.arange(12) != out
        coefficients = np.linalg.solve(design[rest].T @ design[rest] + np.eye(5), design[rest].T @ target[rest])
        assert found[out] == pytest.approx(target[out] - design[out] @ coefficients)


def test_the_group_that_explains_the_target_gets_the_strength():
    rng = np.random.default_rng(2)
    useful, useless = rng.normal(size=(80, 10)), rng.normal(size=(80, 10))
    target = useful @ rng.normal(size=10) + 0.1 * rng.normal(size=80)
    strengths = chosen_strengths([sparse.csr_matrix(useful), sparse.csr_matrix(useless)], target)
    assert strengths[0] >= 1.0 and strengths[1] <= 0.01


@pytest.mark.parametrize("columns", [7, 60])
def test_one_decomposition_gives_the_left_out_residuals_of_every_strength(columns):
    rng = np.random.default_rng(4)
    group, other, target = rng.normal(size=(40, columns)), rng.normal(size=(40, 50)), rng.normal(size=40)
    found = residuals_along(other @ other.T, sparse.csr_matrix(group), group @ group.T, target)
    for strength, residuals in zip(STRENGTHS, found, strict=True):
        expected = left_out_residuals(other @ other.T + strength * group @ group.T, target)
        np.testing.assert_allclose(residuals, expected, rtol=1e-6, atol=1e-9)


def test_the_physical_prior_recovers_its_coefficients_and_never_goes_below_zero():
    rng = np.random.default_rng(3)
    amounts = rng.uniform(1, 2, size=(60, 3)) * [1e9, 1e6, 5.0]
    bias, coefficients = physical_prior(amounts, 4.0 + amounts @ [2e-8, 0.0, 0.3])
    assert bias == pytest.approx(4.0, rel=1e-6)
    np.testing.assert_allclose(coefficients, [2e-8, 0.0, 0.3], rtol=1e-6, atol=1e-12)
    bias, coefficients = physical_prior(amounts, 30.0 - amounts @ [0, 0, 0.3])
    assert bias >= 0 and (coefficients >= 0).all()


def test_features_of_an_architecture_are_the_entries_it_picks():
    features = SpaceFeatures(SPACE, 224, 1000)
    indices = drawn(SPACE, 20)
    totals = features.picked(indices) @ features.amounts
    work = sum(
        totals[:, features.names.index(f"macs {kind}")]
        for kind in ("dense", "pointwise", "depthwise", "gate", "vector")
    )
    np.testing.assert_allclose(work, macs(SPACE).estimate(indices), rtol=1e-12)
    np.testing.assert_allclose(
        totals[:, features.names.index("weights")], parameters(SPACE).estimate(indices), rtol=1e-12
    )
    assert sparse.issparse(features.main) and features.main.shape[0] == len(features.amounts)


# What is recovered


def test_a_device_that_follows_the_physics_is_recovered_from_few_samples():
    indices, unseen = drawn(SPACE, 60), SPACE.sample(np.random.default_rng(9), 500)
    time = physical_time(SPACE)
    model, report = fit_samples(SPACE, samples_of(SPACE, indices, time(indices)))
    np.testing.assert_allclose(model.estimate(unseen), time(unseen), rtol=2e-3)
    assert report.mean_error < 2e-3 and report.spearman > 0.999 and report.r_squared > 0.9999


def test_a_device_that_leaves_squeeze_and_excite_in_another_precision_is_recovered_from_few_samples():
    tables = layer_tables(SPACE, lambda placed: sum(o.macs for o in placed.operations if o.kind.startswith("se_")))
    gates = CostModel(SPACE, 0.0, [CostTerm(table.positions, table.values, table.path) for table in tables])
    indices, unseen = drawn(SPACE, 60), SPACE.sample(np.random.default_rng(9), 500)

    def time(rows):
        return physical_time(SPACE)(rows) + 2e-3 * gates.estimate(rows)

    assert gates.estimate(unseen).max() * 2e-3 > 0.2 * time(unseen).mean()
    model, _ = fit_samples(SPACE, samples_of(SPACE, indices, time(indices)))
    np.testing.assert_allclose(model.estimate(unseen), time(unseen), rtol=4e-3)


def test_tables_with_known_coefficients_are_recovered():
    rng = np.random.default_rng(4)
    base = macs(SPACE)
    terms = [
        CostTerm(term.positions, 1e-7 * term.values * rng.uniform(0.5, 1.5, term.values.shape), term.path)
        for term in base.terms
    ]
    device = CostModel(SPACE, 3.0, terms)
    indices, unseen = drawn(SPACE, 400), SPACE.sample(np.random.default_rng(9), 500)
    few, many = (
        fit_samples(SPACE, samples_of(SPACE, indices[:n], device.estimate(indices[:n])), folds=4) for n in (80, 400)
    )
    errors = [np.abs(model.estimate(unseen) / device.estimate(unseen) - 1).mean() for model, _ in (few, many)]
    assert errors[1] < 0.01 and errors[1] < errors[0] / 2
    assert few[1].mean_error == pytest.approx(errors[0], rel=0.6)  # what is reported is what happens


def test_a_choice_that_was_never_measured_is_priced_by_physics_and_reported():
    time = physical_time(SPACE)
    position = next(p for p, point in enumerate(SPACE.points) if point.path == "blocks/1/layers/0/kernel_size")
    indices = drawn(SPACE, 200)
    indices = indices[indices[:, position] != 2]
    model, report = fit_samples(SPACE, samples_of(SPACE, indices, time(indices)))
    assert report.unseen == ("blocks/1/layers/0/kernel_size=2",)
    assert "choices never seen        blocks/1/layers/0/kernel_size=2" in str(report)
    unseen = SPACE.sample(np.random.default_rng(9), 300)
    unseen[:, position] = 2
    np.testing.assert_allclose(model.estimate(unseen), time(unseen), rtol=1e-2)


def test_one_layer_that_is_slow_for_no_physical_reason_is_learned():
    time = physical_time(SPACE)
    position = next(p for p, point in enumerate(SPACE.points) if point.path == "blocks/2/layers/0/kernel_size")

    def slow(indices):
        return time(indices) + 3.0 * (indices[:, position] == 1)

    indices, unseen = drawn(SPACE, 200), SPACE.sample(np.random.default_rng(9), 500)
    model, _ = fit_samples(SPACE, samples_of(SPACE, indices, slow(indices)))
    assert np.abs(model.estimate(unseen) / slow(unseen) - 1).mean() < 0.02


@pytest.mark.parametrize("ssd", ["proxylessnas_search", "mobilenet_v3_like_search"])
def test_any_space_can_be_fitted(ssd):
    space = tunas.get_space(ssd)
    time = physical_time(space)
    features = SpaceFeatures(space, 224, 1000)
    indices, unseen = drawn(space, 150), space.sample(np.random.default_rng(9), 200)
    noisy = time(indices) * np.random.default_rng(1).normal(1, 0.01, 150)
    fitted = fitted_times(features, indices, noisy)
    model = CostModel(space, fitted.bias, fitted.terms())
    np.testing.assert_allclose(model.estimate(unseen), fitted.predict(unseen), rtol=1e-9)
    assert np.abs(model.estimate(unseen) / time(unseen) - 1).mean() < 0.01


# What is reported


def report_of(measured, predicted, **changes):
    fields = {
        "noise": 0.01,
        "learning_curve": ((10, 0.08), (20, 0.04)),
        "unseen": (),
        "entries": 5,
        "entries_seen": 4,
        "strengths": {},
    }
    return FitReport(np.array(measured, float), np.array(predicted, float), **{**fields, **changes})


def test_the_figures_are_those_of_their_definitions():
    report = report_of([10.0, 20.0, 40.0, 50.0], [11.0, 20.0, 38.0, 60.0])
    np.testing.assert_allclose(report.relative_errors, [0.1, 0.0, 0.05, 0.2])
    assert report.mean_error == pytest.approx(0.0875)
    assert report.p95_error == pytest.approx(np.quantile([0.1, 0, 0.05, 0.2], 0.95))
    assert report.r_squared == pytest.approx(1 - (1 + 0 + 4 + 100) / (400 + 100 + 100 + 400))
    assert report.spearman == 1.0
    assert report_of([1, 2, 3], [1, 3, 2]).spearman == pytest.approx(0.5)


def test_more_samples_help_as_much_as_the_last_doubling_did_but_not_beyond_the_noise():
    assert report_of([1, 2], [1, 2]).error_with_twice_the_samples == pytest.approx(0.02)
    assert report_of([1, 2], [1, 2], noise=0.03).error_with_twice_the_samples == pytest.approx(0.03)
    assert report_of([1, 2], [1, 2], noise=None).error_with_twice_the_samples == pytest.approx(0.02)
    rising = report_of([1, 2], [1, 2], learning_curve=((10, 0.04), (20, 0.05)))
    assert rising.error_with_twice_the_samples == pytest.approx(0.05)


def test_a_machine_that_changed_its_speed_is_noticed():
    errors = np.random.default_rng(0).normal(0, 0.02, 300)
    measured = np.linspace(10.0, 20.0, 300)
    assert report_of(measured, measured * (1 + errors)).drift == 0.0
    shifted = report_of(measured, measured * (1 + errors + np.repeat([-0.05, 0.05], 150)))
    assert shifted.drift == pytest.approx(0.05, rel=0.1)
    assert "the device's speed changed by some 4.7%" in str(shifted)
    assert report_of(measured[:20], measured[:20]).drift == 0.0


def test_the_noise_is_half_the_difference_of_the_halves():
    indices = drawn(SPACE, 60)
    times = physical_time(SPACE)(indices)
    samples = [
        Sample(SPACE.name, SPACE.architecture(row).text, milliseconds=float(time), half_difference=0.04 * float(time))
        for row, time in zip(indices, times, strict=True)
    ]
    assert fit_samples(SPACE, samples)[1].noise == pytest.approx(0.02)
    assert fit_samples(SPACE, samples_of(SPACE, indices, times))[1].noise is None


def test_predictions_are_held_out():
    """A sample that breaks the rule is not predicted by a model that has seen it."""
    features = SpaceFeatures(SPACE, 224, 1000)
    indices = drawn(SPACE, 80)
    times = physical_time(SPACE)(indices)
    usual = times[7]
    times[7] *= 1.5
    predicted, curve = held_out(features, indices, times, folds=10)
    assert predicted[7] == pytest.approx(usual, rel=0.1)
    assert curve[-1] == (72, pytest.approx(np.abs(predicted / times - 1).mean()))
    assert [count for count, _ in curve] == sorted(count for count, _ in curve)


def test_too_few_samples_are_refused():
    indices = drawn(SPACE, 12)
    with pytest.raises(InputError, match=r"12 samples are too few to fit small_to_fit: \d+ are the least"):
        fit_samples(SPACE, samples_of(SPACE, indices, physical_time(SPACE)(indices)))
    with pytest.raises(InputError, match="0 samples are too few"):
        fit_samples(SPACE, [])


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="folds must be at least 2"):
        FitConfig("s.csv", "mobilenet_v2", "out.json", folds=1)


# The files


def test_the_written_model_is_a_cost_model_with_its_provenance_and_picture(tmp_path):
    space = tunas.register_space("small_to_fit", lambda: TOWER)
    indices = drawn(space, 60)
    times = physical_time(space)(indices)
    with open(tmp_path / "s.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ssd", "indices", "milliseconds", "backend", "device", "image_size", "comment"])
        writer.writerows(
            [space.name, space.architecture(row).text, time, "tflite", "my board", 96, "?"]
            for row, time in zip(indices, times, strict=True)
        )
    model, report = fit(FitConfig(str(tmp_path / "s.csv"), space.name, str(tmp_path / "board.json")))
    loaded = load_cost_model(tmp_path / "board.json", space)
    np.testing.assert_array_equal(loaded.estimate(indices), model.estimate(indices))
    assert (loaded.unit, loaded.device) == ("ms", "tflite on my board")
    assert loaded.provenance["image_size"] == 96 and loaded.provenance["samples"] == 60
    assert loaded.provenance["held_out_mean_relative_error"] == report.mean_error
    pytest.importorskip("matplotlib")
    assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_device_that_takes_the_same_time_for_everything_is_learned_and_saved(tmp_path):
    indices = drawn(SPACE, 60)
    model, report = fit_samples(SPACE, samples_of(SPACE, indices, np.full(60, 8.0)))
    np.testing.assert_allclose(model.estimate(indices), 8.0, rtol=1e-3)
    assert report.mean_error < 1e-3
    model.save(tmp_path / "constant.json")


def test_what_the_end_of_a_fit_needs_is_refused_at_its_beginning(tmp_path, monkeypatch, capsys):
    missing = str(tmp_path / "no_samples.csv")
    (tmp_path / "file").write_text("")
    for out, plot, sentence in (
        (tmp_path / "file" / "m.json", None, "cannot write"),
        (tmp_path, None, "it is a directory"),
        (tmp_path / "m.json", tmp_path / "file" / "m.png", "cannot write"),
        (tmp_path / "m.json", tmp_path / "m.pdf", "a name that ends in .png"),
    ):
        with pytest.raises(InputError, match=sentence):
            fit(FitConfig(missing, SPACE.name, str(out), plot=plot and str(plot)))
    monkeypatch.setattr("tunas.needs.has_package", lambda name: False)
    with pytest.raises(InputError, match="--plot needs matplotlib, not installed here: pip install"):
        fit(FitConfig(missing, SPACE.name, str(tmp_path / "m.json"), plot=str(tmp_path / "m.png")))
    monkeypatch.setattr("tunas.cost.fit.has_package", lambda name: False)
    with pytest.raises(InputError, match="cannot read the samples"):
        fit(FitConfig(missing, SPACE.name, str(tmp_path / "m.json")))
    assert "no plot: matplotlib is not installed" in capsys.readouterr().err
