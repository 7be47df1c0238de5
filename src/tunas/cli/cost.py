"""`tunas cost`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunas.space import Architecture


@dataclass(frozen=True)
class CostConfig:
    """What an architecture costs: predicted time on a device, parameters, multiply-accumulates."""

    ssd: str = "proxylessnas_search"
    """Search space."""

    indices: str = ""
    """Colon-separated indices of an architecture."""

    cost_model: str | None = None
    """pixel1, params, macs, peak_memory, flash, or a file that `tunas fit` wrote. pixel1 where the space has its
    tables."""

    image_size: int | None = None
    """Pixels a side: 224 where left out, or with a fitted cost model those at which it was measured."""

    num_classes: int | None = None
    """Outputs of the classifier: 1,000 where left out, or with a fitted cost model as it was measured."""


DIGITS = 7
"""Significant digits of a cost: as many as a 32-bit number has, so that it can be compared with other programs'."""


def run(config: CostConfig) -> None:
    import sys

    from tunas.cost.catalog import conditions_note, has_pixel1, load_cost_model
    from tunas.cost.model import with_unit
    from tunas.errors import check_positive
    from tunas.space import get_space

    for flag in ("image_size", "num_classes"):
        check_positive(flag, getattr(config, flag))
    space = get_space(config.ssd)
    architecture = space.architecture(config.indices)
    name = config.cost_model or ("pixel1" if has_pixel1(space) else None)
    if name is not None:
        model = load_cost_model(name, space, image_size=config.image_size, num_classes=config.num_classes)
        cost = with_unit(model.estimate(architecture), model.unit or "(no unit given)", DIGITS)
        device = f" ({model.device})" if model.device else ""
        print(f"estimated cost: {cost}{device}")
        if note := conditions_note(model, config.image_size):
            print(f"note: {note}", file=sys.stderr)
    if config.cost_model is None:
        _print_size(architecture, config)


def _print_size(architecture: Architecture, config: CostConfig) -> None:
    """Prints parameters and multiply-accumulates."""
    from tunas.cost.catalog import PIXEL1_CLASSES, PIXEL1_SIZE
    from tunas.cost.own import example_of
    from tunas.nn.counting import shapes
    from tunas.nn.profile import count_macs, count_parameters
    from tunas.space import Tower

    classes, size = config.num_classes or PIXEL1_CLASSES, config.image_size or PIXEL1_SIZE
    print(f"parameters: {count_parameters(architecture, classes):,}")
    if isinstance(architecture.structure, Tower):
        print(f"multiply-accumulates: {count_macs(architecture, classes, size):,} at {size} px")
        return
    example = example_of(architecture.space, None, config.image_size)
    print(f"multiply-accumulates: {count_macs(architecture, example=example):,} for inputs {shapes(example)}")
