"""`tunas measure`."""

from __future__ import annotations

from tunas.cost.measure import MeasureConfig


def run(config: MeasureConfig) -> None:
    from tunas.cost.measure import export, measure, predicted_cost

    if config.export is not None:
        manifest = export(config)
        print(f"manifest = {manifest}")
        print(f"next: fill in its column milliseconds, then tunas fit --samples={manifest} --ssd={config.ssd} --out=my_device.json")
        return
    samples = measure(config)
    if config.out is not None:
        print(f"{len(samples)} architectures in {config.out}")
        print(f"next: tunas fit --samples={config.out} --ssd={config.ssd} --out=my_device.json")
        return
    (sample,) = samples
    print(f"measured: {sample.milliseconds:.4g} ms (spread {sample.spread:.2g} ms, {sample.rounds}×{sample.repeats} runs)")
    print(f"device: {sample.backend} on {sample.device}, {config.image_size} px, {sample.clock} clock")
    if config.cost_model is not None:
        predicted, unit = predicted_cost(config)
        off = f" ({100 * (sample.milliseconds / predicted - 1):+.2f} % measured over predicted)" if unit == "ms" else ""
        print(f"predicted: {predicted:.4g} {unit}{off}")
