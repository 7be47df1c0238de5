"""`tunas measure`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from shlex import quote

from tunas.cost.measure_config import MeasureConfig
from tunas.cost.model import with_unit
from tunas.flags import as_told


def run(config: MeasureConfig) -> None:
    from tunas.cost.elsewhere import export
    from tunas.cost.measure import compare, measure

    if config.export is not None:
        manifest = export(config)
        print(f"manifest = {manifest}")
        print(f"next: fill in its column milliseconds, then {fit_command(manifest, config.ssd)}")
        return
    if config.out is not None:
        samples = measure(config)
        print(f"{len(samples)} architectures in {config.out}")
        print(next_line(config, len(samples)))
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
        print(f"predicted: {with_unit(found.predicted, found.unit)}{off}")
        if found.changed:
            print(f"speed: not compared with the cost model's samples: {'; '.join(found.changed)}")
        if found.references:
            print(
                f"speed: {found.references} architectures of the cost model's samples, measured in turn with this "
                f"one, now take {found.slowdown:.3f} of their time then; at the speed of then "
                f"{100 * found.error_at_speed_of_then:+.2f} % measured over predicted"
            )


def next_line(config: MeasureConfig, samples: int) -> str:
    """The command that fits a cost model, or where these samples are too few for it, the one that measures more."""
    from tunas.cost.fit import fewest_samples
    from tunas.space import get_space

    assert config.out is not None
    space = get_space(config.ssd)
    needed = fewest_samples(space, config.image_size, config.num_classes)
    if samples >= needed:
        return f"next: {fit_command(config.out, config.ssd)}"
    if space.count_distinct() < needed:
        return f"tunas fit takes at least {needed} samples, and {space.name} has {space.count_distinct():g} networks"
    told = [field.name for field in dataclasses.fields(config) if field.name not in ("ssd", "num_architectures")]
    words = [quote(f"--ssd={config.ssd}"), *as_told(config, told), f"--num_architectures={needed}"]
    return f"next: tunas measure {' '.join(words)}  # tunas fit takes at least so many"


def fit_command(samples: str | Path, ssd: str) -> str:
    """The command that fits a cost model to samples."""
    return f"tunas fit {quote(f'--samples={samples}')} {quote(f'--ssd={ssd}')} --out=my_device.json"
