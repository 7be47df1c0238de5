"""`tunas measure`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from tunas.cost.measure import MeasureConfig


def run(config: MeasureConfig) -> None:
    from tunas.cost.measure import compare, export, measure

    if config.export is not None:
        manifest = export(config)
        print(f"manifest = {manifest}")
        print(f"next: fill in its column milliseconds, then {fit_command(manifest, config.ssd)}")
        return
    if config.out is not None:
        samples = measure(config)
        print(f"{len(samples)} architectures in {config.out}")
        print(f"next: {fit_command(config.out, config.ssd)}")
        return
    found = compare(config) if config.cost_model is not None else None
    sample = found.sample if found else measure(config)[0]
    print(
        f"measured: {sample.milliseconds:.4g} ms (spread {sample.spread:.2g} ms, {sample.rounds}×{sample.repeats} runs)"
    )
    size = f"{sample.image_size} px, " if sample.image_size else ""
    print(f"device: {sample.backend} on {sample.device}, {size}{sample.clock} clock")
    if found:
        off = f" ({100 * found.error:+.2f} % measured over predicted)" if found.unit == "ms" else ""
        print(f"predicted: {found.predicted:.4g} {found.unit}{off}")
        if found.changed:
            print(f"speed: not compared with the cost model's samples: {'; '.join(found.changed)}")
        if found.references:
            print(
                f"speed: {found.references} architectures of the cost model's samples, measured in turn with this "
                f"one, now take "
                f"{found.slowdown:.3f} of their time then; at the speed of then "
                f"{100 * found.error_at_speed_of_then:+.2f} % measured over predicted"
            )


def fit_command(samples: str | Path, ssd: str) -> str:
    return f"tunas fit {quote(f'--samples={samples}')} {quote(f'--ssd={ssd}')} --out=my_device.json"
