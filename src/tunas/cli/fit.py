"""`tunas fit`."""

from __future__ import annotations

from tunas.cost.fit import FitConfig


def run(config: FitConfig) -> None:
    from tunas.cost.fit import fit

    model, report = fit(config)
    print(report)
    print(f"cost model = {config.out} ({model.unit}, {model.device or 'device unknown'})")
