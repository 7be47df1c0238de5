"""The least and the greatest cost of a space, against all of its architectures."""

import itertools

import numpy as np
import pytest

import tunas
from tunas import CostModel, OneOf, Space, load_cost_model
from tunas.cost import CostTerm, range
from tunas.cost.range import cost_range
from tunas.space import FILTERS, OP, Block, Conv, GlobalAveragePool, InvertedBottleneck, Times, Tower


def small_space() -> Space:
    block = InvertedBottleneck(OneOf((3, 5), OP), OneOf((Times(2.0), Times(4.0)), FILTERS), OneOf((False, True), OP), 2)
    return Space("small", Tower((Block((block,), OneOf((8, 16), FILTERS)), Block((Conv(1), GlobalAveragePool()), 16))))


def everything(space: Space) -> np.ndarray:
    return np.array(list(itertools.product(*map(range_of, space.sizes))))


def range_of(size: int) -> list[int]:
    return list(np.arange(size))


@pytest.mark.parametrize("seed", range_of(5))
def test_the_range_is_that_of_all_architectures(seed: int) -> None:
    space = small_space()
    rng = np.random.default_rng(seed)
    terms = []
    for count in (1, 2, 3, 2):
        positions = tuple(rng.permutation(space.num_choices)[:count].tolist())
        terms.append(CostTerm(positions, rng.normal(size=[space.sizes[position] for position in positions])))
    model = CostModel(space, 3.0, terms)
    costs = model.estimate(everything(space))
    found = cost_range(model)
    assert found is not None and found.exact
    assert (found.low, found.high) == (pytest.approx(costs.min()), pytest.approx(costs.max()))


def test_where_tables_would_be_too_large_the_range_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    space = small_space()
    rng = np.random.default_rng(0)
    model = CostModel(
        space, 0.0, [CostTerm((a, b), rng.normal(size=(2, 2))) for a, b in itertools.combinations((0, 1, 2, 3), 2)]
    )
    costs = model.estimate(everything(space))
    monkeypatch.setattr(range, "LARGEST_TABLE", 4)
    found = cost_range(model)
    assert found is not None and not found.exact
    assert found.low <= costs.min() and found.high >= costs.max()


@pytest.mark.parametrize("name", ["pixel1", "macs", "peak_memory"])
@pytest.mark.parametrize("ssd", ["proxylessnas_search", "mobilenet_v3_like_search"])
def test_no_random_architecture_is_outside(ssd: str, name: str) -> None:
    space = tunas.get_space(ssd)
    model = load_cost_model(name, space)
    costs = model.estimate(space.sample(np.random.default_rng(0), 5000))
    found = cost_range(model)
    assert found is not None and found.low <= costs.min() and found.high >= costs.max()
    assert found.exact == (name != "peak_memory")


def test_the_cheapest_of_the_proxyless_space_takes_31_ms() -> None:
    found = cost_range(load_cost_model("pixel1", "proxylessnas_search"))
    assert found is not None and found.low == pytest.approx(30.94, abs=0.005)


def test_a_cost_of_an_unknown_kind_has_no_range() -> None:
    assert cost_range(object()) is None
