"""`tunas cost`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostConfig:
    """What an architecture costs: predicted time on a device, parameters, multiply-accumulates."""

    ssd: str = "proxylessnas_search"
    """Search space."""

    indices: str = ""
    """Colon-separated indices of an architecture."""

    cost_model: str | None = None
    """pixel1, params, macs, peak_memory, or a file that `tunas fit` wrote. pixel1 where the space has its tables."""

    image_size: int = 224
    """Pixels a side, for multiply-accumulates."""

    num_classes: int = 1000
    """Outputs of the classifier."""


def run(config: CostConfig) -> None:
    from tunas.cost.model import has_pixel1, load_cost_model
    from tunas.space import get_space

    space = get_space(config.ssd)
    architecture = space.architecture(config.indices)
    name = config.cost_model or ("pixel1" if has_pixel1(space) else None)
    if name is not None:
        model = load_cost_model(name, space, image_size=config.image_size, num_classes=config.num_classes)
        print(f"estimated cost: {model.estimate(architecture):f}")
        print(f"unit: {model.unit} ({model.device})")
    if config.cost_model is None:
        from tunas.nn.profile import count_macs, count_parameters

        print(f"parameters: {count_parameters(architecture, config.num_classes):,}")
        print(
            f"multiply-accumulates: {count_macs(architecture, config.num_classes, config.image_size):,} at "
            f"{config.image_size} px"
        )
