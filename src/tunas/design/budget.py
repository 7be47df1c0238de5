"""Parts that fit into the minutes that everything together may take."""

from __future__ import annotations

from collections.abc import Callable

from tunas.design.estimate import Estimate
from tunas.design.sizes import Sizes
from tunas.errors import InputError

FILLED = 0.95
"""Part of the budget that the estimates may take."""
MEASURING_SHARE = 0.3
"""Part of the budget that measuring the device may take, where there is not enough for everything."""
SHORTEST = 0.5
"""Part of their epochs below which searches and trainings are not shortened while comparisons can be left out."""
FEWEST_STEPS = 100
"""Steps that a search has at least: a shorter one has not learned anything."""
ROUNDS = 30
"""Halvings by which the longest epochs are found that fit."""

Estimated = Callable[[Sizes], dict[str, Estimate]]


def seconds_of(parts: dict[str, Estimate]) -> float:
    """What the parts take together."""
    return sum(part.seconds for part in parts.values())


def within(
    minutes: float,
    seconds: float,
    sizes: Sizes,
    estimated: Estimated,
    steps_of: Callable[[Sizes], int],
    fewest_networks: int,
) -> Sizes:
    """The sizes, made smaller until the estimates fit into the `seconds` that are left of the `minutes`, with a reason
    for each that was cut.

    First fewer networks are measured; then seeds, random architectures and candidates are left out until searches and
    trainings keep half of their epochs; what is missing then is taken from these.

    Args:
        estimated: what parts of given sizes take.
        steps_of: steps of the search.
        fewest_networks: that a cost model can be fitted to.

    Raises:
        InputError: where nothing useful fits.
    """
    budget = FILLED * seconds
    why = f"{minutes:g} minutes for everything"

    def fits(tried: Sizes) -> bool:
        return seconds_of(estimated(tried)) <= budget

    if fits(sizes):
        return sizes
    sizes = _fewer_networks(sizes, estimated, budget, fewest_networks, why)
    smaller: list[Sizes] = [sizes]
    if sizes.seeds > 1:
        smaller.append(smaller[-1].but({"seeds": f"1, not {sizes.seeds}: {why}"}, seeds=1))
    for left in range(sizes.random - 1, -1, -1):
        smaller.append(smaller[-1].but({"random": f"{left}, not {sizes.random}: {why}"}, random=left))
    if sizes.candidates > 1:
        smaller.append(smaller[-1].but({"candidates": f"1, not {sizes.candidates}: {why}"}, candidates=1))
    for tried in smaller:
        if fits(shortened(tried, SHORTEST, why)):
            break
    found = shortened(tried, _longest(tried, fits, why), why)
    if steps_of(found) < FEWEST_STEPS or not fits(found):
        least = shortened(tried, min(1.0, FEWEST_STEPS / max(1, steps_of(tried))), why)
        needed = seconds_of(estimated(least)) / FILLED / 60 + minutes - seconds / 60
        raise InputError(
            f"--minutes={minutes:g} is not enough: with {least.networks} networks measured and a search of "
            f"{FEWEST_STEPS} steps, the least that comes to anything, it takes about {needed:.1f} minutes here"
        )
    return found


def shortened(sizes: Sizes, part: float, why: str) -> Sizes:
    """The sizes with a part, 0 to 1, of the epochs of searches and trainings, and the reason."""
    if part >= 1:
        return sizes
    changes = {name: getattr(sizes, name) * part for name in ("search_epochs", "candidate_epochs", "train_epochs")}
    reasons = {name: f"not {getattr(sizes, name):.3g}: {why}" for name in ("search_epochs", "train_epochs")}
    return sizes.but(reasons, **changes)


def _longest(sizes: Sizes, fits: Callable[[Sizes], bool], why: str) -> float:
    """The largest part of the epochs that fits, by halving."""
    low, high = 0.0, 1.0
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(shortened(sizes, middle, why)) else (low, middle)
    return low


def _fewer_networks(sizes: Sizes, estimated: Estimated, budget: float, fewest: int, why: str) -> Sizes:
    """The sizes with as few networks to measure as leave most of the budget to the rest."""
    measuring = estimated(sizes).get("measure", Estimate(0.0)).seconds
    if not measuring or measuring <= MEASURING_SHARE * budget:
        return sizes
    networks = max(fewest, int(sizes.networks * MEASURING_SHARE * max(0.0, budget) / measuring))
    if networks >= sizes.networks:
        return sizes
    return sizes.but({"networks": f"not {sizes.networks}: {why}"}, networks=networks)
