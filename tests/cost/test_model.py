"""A cost model prices architectures as published, averages what is enabled as a whole, and is read back as it was
written."""

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tunas
from support.published import EXAMPLE_PROXYLESS, EXAMPLE_V3, SEARCH_SPACES
from tunas import CostModel, InputError, OneOf, Space, load_cost_model
from tunas.cost import CostTerm
from tunas.cost.catalog import conditions_note
from tunas.space import ALL, FILTERS, OP, Block, Conv, InvertedBottleneck, Residual, Times, Tower, Zero


def small_space(name="small"):
    bottleneck = InvertedBottleneck(
        kernel=OneOf((3, 5), OP), expansion=OneOf((Times(1.0), Times(2.0), Times(3.0)), FILTERS), stride=2
    )
    skippable = Residual(OneOf((bottleneck.with_stride(1), Zero()), OP))
    return Space(
        name, Tower((Block((bottleneck, skippable), OneOf((8, 16), FILTERS)), Block((Conv(OneOf((3, 5, 7), OP)),), 16)))
    )


def random_model(space, rng, unit="ms"):
    groups = [(0, 1, 5), (2, 3, 4, 5), (6,), (5, 6)]
    terms = [CostTerm(group, rng.normal(size=[space.sizes[p] for p in group]), f"group {group}") for group in groups]
    return CostModel(space, 7.5, terms, unit, device="a device", provenance={"seed": 3})


def mean_over_completions(model, indices):
    """Brute force: the mean cost over everything that the entries ALL may stand for."""
    options = [range(size) if index == ALL else [index] for index, size in zip(indices, model.space.sizes, strict=True)]
    return np.mean([model.estimate(model.space.architecture(choice)) for choice in itertools.product(*options)])


def numbers(text):
    return [int(part) for part in text.split(":")]


def checks():
    with open(Path(__file__).parent / "checks.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("ssd", SEARCH_SPACES)
def test_pixel1_prices_the_published_checks_as_published(ssd):
    rows = [row for row in checks() if row["ssd"] == ssd]
    assert len(rows) == 40
    model = load_cost_model("pixel1", ssd)
    published = np.array([float(row["simulated_pixel1_time_ms"]) for row in rows])
    costs = model.estimate(np.array([numbers(row["indices"]) for row in rows]))
    np.testing.assert_allclose(costs, published, rtol=1e-4)
    np.testing.assert_allclose(costs, published, atol=0.01)


@pytest.mark.parametrize(
    "ssd, indices, milliseconds",
    [("mobilenet_v3_like_search", EXAMPLE_V3, 56.575), ("proxylessnas_search", EXAMPLE_PROXYLESS, 84.017)],
)
def test_pixel1_prices_the_worked_examples_of_the_specification(ssd, indices, milliseconds):
    architecture = tunas.get_space(ssd).architecture(indices)
    cost = load_cost_model("pixel1", ssd).estimate(architecture)
    assert isinstance(cost, float)
    assert cost == pytest.approx(milliseconds, abs=6e-4)


def test_proxylessnas_mobile_written_in_the_search_space_costs_what_it_does_alone():
    space = tunas.get_space("proxylessnas_search")
    sepconv, *operations = (0, 1, 0, 6, 6, 2, 0, 1, 1, 5, 1, 1, 1, 4, 1, 1, 1, 5, 5, 2, 2, 5)
    layers = [f"blocks/{block}/layers/{layer}/" for block in range(2, 8) for layer in range(4 if block < 7 else 1)]
    taken = {"blocks/1/layers/0": sepconv}
    for prefix, operation in zip(layers, operations, strict=True):
        inner = [p.path for p in space.points if p.path.startswith(prefix) or p.path == prefix.rstrip("/")]
        kernel = next(path for path in inner if path.endswith("kernel_size"))
        expansion = next(path for path in inner if path.endswith("expansion_filters"))
        outer = next(path for path in inner if path not in (kernel, expansion))
        taken |= {outer: 1} if operation == 6 else {kernel: operation % 3, expansion: operation // 3}
    architecture = space.architecture([taken.get(point.path, 0) for point in space.points])
    assert load_cost_model("pixel1", space).estimate(architecture) == pytest.approx(84.416, abs=6e-4)


@pytest.mark.parametrize("ssd, median", list(zip(SEARCH_SPACES, (91, 110, 74), strict=True)))
def test_half_of_uniform_architectures_cost_less_than_the_published_median(ssd, median):
    costs = load_cost_model("pixel1", ssd).estimate(tunas.get_space(ssd).sample(np.random.default_rng(0), 20_000))
    assert np.median(costs) == pytest.approx(median, abs=1.5)


@pytest.mark.parametrize("ssd", SEARCH_SPACES)
def test_a_batch_costs_what_its_rows_cost(ssd):
    model = load_cost_model("pixel1", ssd)
    architectures = model.space.sample(np.random.default_rng(1), 5000)  # more than are priced at a time
    costs = model.estimate(architectures)
    assert costs.shape == (5000,) and costs.dtype == np.float64
    for row in (0, 1, 4095, 4096, 4999):
        assert costs[row] == pytest.approx(
            model.estimate(model.space.architecture(architectures[row].tolist())), abs=1e-9
        )
    assert model.estimate(architectures.astype(np.int8)).tolist() == costs.tolist()
    assert model.estimate(architectures[:0]).shape == (0,)


@pytest.mark.parametrize("ssd", SEARCH_SPACES)
def test_pixel1_indices_inside_a_skipped_layer_cost_nothing(ssd):
    model = load_cost_model("pixel1", ssd)
    architecture = model.space.sample(np.random.default_rng(2))
    assert model.estimate(architecture) == pytest.approx(model.estimate(architecture.pruned()), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), enabled=st.lists(st.booleans(), min_size=7, max_size=7))
def test_all_is_the_mean_over_what_it_stands_for(seed, enabled):
    rng = np.random.default_rng(seed)
    space = small_space()
    model = random_model(space, rng)
    indices = space.sample(rng, 1)[0]
    is_op = [point.oneof.tag == OP for point in space.points]
    indices[np.logical_and(enabled, is_op)] = ALL
    assert model.estimate(indices[None])[0] == pytest.approx(mean_over_completions(model, indices.tolist()), abs=1e-9)


def test_all_of_a_skippable_layer_costs_half_of_the_layer():
    space = small_space()
    table = np.zeros((2, 3, 2))
    table[..., 0] = [[1, 2, 3], [4, 5, 6]]  # kernel × expansion of the bottleneck; skipping it costs nothing
    outer = next(position for position, point in enumerate(space.points) if point.path == "blocks/0/layers/1/layer")
    inner = [position for position, point in enumerate(space.points) if point.parent == outer]
    model = CostModel(space, 0.0, [CostTerm((*inner, outer), table)])
    indices = np.zeros((1, space.num_choices), int)
    indices[0, outer] = ALL
    assert model.estimate(indices)[0] == pytest.approx(0.5)
    indices[0, inner[0]] = ALL
    assert model.estimate(indices)[0] == pytest.approx(0.5 * 2.5)


@pytest.mark.parametrize("ssd", SEARCH_SPACES)
def test_pixel1_with_everything_enabled_is_the_mean_over_op_choices(ssd):
    model = load_cost_model("pixel1", ssd)
    rng = np.random.default_rng(3)
    architectures = np.repeat(model.space.sample(rng, 1), 200_000, axis=0)
    is_op = np.array([point.oneof.tag == OP for point in model.space.points])
    drawn = np.where(is_op, model.space.sample(rng, len(architectures)), architectures)
    enabled = np.where(is_op, ALL, architectures[:1])
    costs = model.estimate(drawn)
    assert model.estimate(enabled)[0] == pytest.approx(costs.mean(), abs=5 * costs.std() / math.sqrt(len(costs)))


def test_a_model_without_terms_costs_its_bias():
    space = Space("fixed", Tower((Block((Conv(3),), 16),)))
    assert CostModel(space, 2.5, []).estimate(space.architecture("")) == 2.5


def test_a_model_is_loaded_as_it_was_saved(tmp_path):
    space = small_space()
    model = random_model(space, np.random.default_rng(0), unit="µJ")
    path = tmp_path / "cost.json"
    model.save(path)
    loaded = CostModel.load(path, space)
    architectures = space.sample(np.random.default_rng(1), 50)
    assert loaded.estimate(architectures).tolist() == model.estimate(architectures).tolist()
    assert (loaded.unit, loaded.device, loaded.provenance) == ("µJ", "a device", {"seed": 3})
    assert [(term.positions, term.path) for term in loaded.terms] == [
        (term.positions, term.path) for term in model.terms
    ]
    assert load_cost_model(path, space).bias == 7.5
    model.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["cost.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    space = small_space()
    path = tmp_path / "cost.json"
    random_model(space, np.random.default_rng(0)).save(path)
    before = path.read_text()
    broken = CostModel(space, 1.0, [], provenance={"what": object()})
    with pytest.raises(TypeError):
        broken.save(path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda d: d.update(format="else"), "'format' must be 'tunas-cost-model'"),
        (lambda d: d.update(version=99), "version 99"),
        (lambda d: d.update(ssd="other"), "for 'other', not for small"),
        (lambda d: d["sizes"].reverse(), "'sizes' does not match"),
        (lambda d: d.update(unit=3), "'unit' must be text"),
        (lambda d: d.update(provenance=[]), "'provenance' must be an object"),
        (lambda d: d.update(bias="1"), "'bias' must be a finite number"),
        (lambda d: d.update(bias=True), "'bias' must be a finite number"),
        (lambda d: d.update(bias=float("nan")), "'bias' must be a finite number"),
        (lambda d: d.update(terms={}), "'terms' must be a list"),
        (lambda d: d["terms"].append(3), "terms/4 must be an object"),
        (lambda d: d["terms"][1].update(positions=[2, 3, 4, 99]), r"term 1 \(group .*\): there is no position 99"),
        (lambda d: d["terms"][1].update(positions=[2, 3, 4, -1]), "no position -1"),
        (lambda d: d["terms"][1].update(positions=[2, 3, 4, 0.5]), "terms/1/positions must hold integers"),
        (lambda d: d["terms"][1].update(positions=[2, 3, 4, 4]), "twice"),
        (lambda d: d["terms"][1].update(positions=[2, 3, 4]), "has shape"),
        (lambda d: d["terms"][1].update(shape=[1, 24]), "has shape"),
        (lambda d: d["terms"][1].update(shape=[3, 3]), "terms/1: 24 values cannot fill"),
        (lambda d: d["terms"][2]["values"].__setitem__(1, float("inf")), "terms/2/values/1 must be a finite number"),
        (lambda d: d["terms"][2]["values"].__setitem__(1, None), "terms/2/values/1 must be a finite number"),
        (lambda d: d["terms"][2].pop("values"), "terms/2/values must be a list"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_place(tmp_path, change, complaint):
    space = small_space()
    path = tmp_path / "cost.json"
    random_model(space, np.random.default_rng(0)).save(path)
    document = json.loads(path.read_text()) | {"version": 1}  # as written by hand: nothing says what it should be
    del document["checksum"]
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=complaint) as caught:
        load_cost_model(path, space)
    assert "cost.json" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"format": "tunas-cost-model"}', "[" * 100_000, b"\xff\xfe".decode("latin1")]
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text):
    path = tmp_path / "cost.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(InputError, match=r"cost\.json"):
        load_cost_model(path, small_space())


def test_a_custom_space_without_a_cost_model_is_told_how_to_get_one():
    with pytest.raises(
        InputError, match=r"small.*mobilenet_v3_like_search.*proxylessnas_search.*`tunas measure`.*`tunas fit`"
    ):
        load_cost_model("pixel1", small_space())


def test_another_space_under_a_packaged_name_is_refused():
    with pytest.raises(InputError, match="packaged space of that name"):
        load_cost_model("pixel1", small_space("proxylessnas_search"))


def test_an_unknown_cost_model_is_refused():
    with pytest.raises(InputError, match=r"no cost model 'pixle1': give pixel1, .*or the path of a JSON file"):
        load_cost_model("pixle1", "proxylessnas_search")


def test_architectures_that_do_not_fit_are_refused():
    space = small_space()
    model = random_model(space, np.random.default_rng(0))
    good = space.sample(np.random.default_rng(0), 3)
    with pytest.raises(InputError, match=r"shape \[N, 7\], not \[3, 6\]"):
        model.estimate(good[:, :6])
    with pytest.raises(InputError, match=r"not \[7\]"):
        model.estimate(good[0])
    with pytest.raises(InputError, match="integers, not of float64"):
        model.estimate(good.astype(float))
    with pytest.raises(InputError, match="prices small, not architectures of proxylessnas_search"):
        model.estimate(tunas.get_space("proxylessnas_search").sample(np.random.default_rng(0)))


@pytest.mark.parametrize("position, index", [(0, 2), (0, -2), (0, 2**40), (1, 3), (1, ALL), (6, 3), (6, -(2**62))])
def test_an_index_out_of_range_is_refused_by_place(position, index):
    space = small_space()
    model = random_model(space, np.random.default_rng(0))
    architectures = space.sample(np.random.default_rng(0), 3)
    architectures[2, position] = index
    with pytest.raises(InputError, match=f"index {index} of architecture 2 at position {position} .* out of range"):
        model.estimate(architectures)


@pytest.mark.parametrize(
    "bias, terms, complaint",
    [
        (math.nan, [], "bias"),
        (
            0.0,
            [CostTerm((0,), np.zeros(3))],
            r"term 0: the table has shape \[3\], but its positions have \[2\] choices",
        ),
        (0.0, [CostTerm((0,), np.array([0.0, math.nan]), "blocks/0")], r"term 0 \(blocks/0\): .*not finite"),
        (0.0, [CostTerm((7,), np.zeros(3))], "no position 7"),
        (0.0, [CostTerm((0, 0), np.zeros((2, 2)))], "twice"),
    ],
)
def test_terms_that_do_not_fit_the_space_are_refused(bias, terms, complaint):
    with pytest.raises(InputError, match=complaint):
        CostModel(small_space(), bias, terms)


@pytest.mark.parametrize("old, new", [('"bias": 7.5', '"bias": 7.1'), ('"unit": "ms"', '"unit": "us"')])
def test_one_changed_character_in_a_saved_model_is_noticed(tmp_path, old, new):
    space = small_space()
    path = tmp_path / "cost.json"
    CostModel(space, 7.5, [], "ms", "board").save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"cost\.json is damaged or was changed .* its checksum does not match"):
        load_cost_model(path, space)
    path.write_text(text.replace('"checksum"', '"checksun"'))
    with pytest.raises(InputError, match=r"cost\.json is damaged"):
        load_cost_model(path, space)
    path.write_text(json.dumps(json.loads(text), indent=2, sort_keys=True))
    assert load_cost_model(path, space).bias == 7.5


def test_a_model_is_used_under_the_conditions_that_it_was_measured_under(tmp_path):
    space = small_space()
    path = tmp_path / "cost.json"
    CostModel(space, 7.5, [], "ms", "board", {"image_size": 160, "num_classes": 10}).save(path)
    assert load_cost_model(path, space, image_size=160, num_classes=10).bias == load_cost_model(path, space).bias
    with pytest.raises(InputError, match=r"measured with 160 pixels a side .* these networks have 64"):
        load_cost_model(path, space, image_size=64, num_classes=10)
    with pytest.raises(InputError, match="measured with 10 classes, and these networks have 1000"):
        load_cost_model(path, space, num_classes=1000)


def test_parameters_do_not_depend_on_the_image_size(tmp_path):
    load_cost_model("params", "proxylessnas_search", num_classes=10).save(tmp_path / "params.json")
    load_cost_model(tmp_path / "params.json", "proxylessnas_search", image_size=64, num_classes=10)


def test_the_published_milliseconds_at_another_size_are_said_to_be_those_of_224_px():
    model = load_cost_model("pixel1", "proxylessnas_search", image_size=64, num_classes=10)
    assert conditions_note(model, 224) is None
    assert "are those of 224 px, not of 64 px" in conditions_note(model, 64)
    assert conditions_note(load_cost_model("macs", "proxylessnas_search", image_size=64), 64) is None
