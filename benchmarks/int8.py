"""INT8 against float32: how the times of one follow those of the other, how well INT8 is predicted, and where a search
lands that was priced in each.

    python benchmarks/int8.py --work=int8 --num_architectures=200 --image_size=64

Writes the networks and their times to `--work`, one CSV per runtime as `tunas measure` would; what is there is not made
again. `--stages convert` does what takes long and needs no quiet machine, `--stages measure` the rest in some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import tunas
from tunas.cost.fit import fit_samples
from tunas.cost.measure import artifact_and_inputs, measured_with_references, setup_of
from tunas.cost.measure_config import MeasureConfig
from tunas.cost.samples import Sample, append_samples, draw_architectures, read_samples, references_of
from tunas.cost.timing import CLOCKS, interleaved_times, latency, progress_bar, settle_allocator, summary
from tunas.files import write_whole
from tunas.runtime import Runtime, get_runtime
from tunas.space import Architecture

SSD = "mobilenet_v3_like_search"
REFERENCES = ("mobilenet_v2", "mnasnet_b1", "proxylessnas_mobile", "mobilenet_v3_large")
RUNTIMES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
Measured = tuple[list[Sample], np.ndarray]


def config_of(runtime: str, arguments: argparse.Namespace) -> MeasureConfig:
    return MeasureConfig(
        ssd=SSD,
        device=runtime,
        out="unused",
        image_size=arguments.image_size,
        num_classes=arguments.num_classes,
        clock=arguments.clock,
        rounds=arguments.rounds,
        repeats=arguments.repeats,
    )


def artifact_of(number: int, architecture: Architecture, runtime: Runtime, arguments: argparse.Namespace) -> Any:
    """The network as the runtime takes it: from its files in `--work`, or converted and written there."""
    assert runtime.files is not None and runtime.read is not None
    directory = arguments.work / "artifacts" / runtime.name / f"{number:04d}"
    if directory.is_dir():
        return runtime.read({path.suffix: path.read_bytes() for path in directory.iterdir()})
    artifact, _ = artifact_and_inputs(architecture, runtime, config_of(runtime.name, arguments))
    unfinished = directory.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for suffix, content in runtime.files(artifact).items():
        (unfinished / f"model{suffix}").write_bytes(content)
    unfinished.rename(directory)
    return artifact


def drawn(arguments: argparse.Namespace) -> list[Architecture]:
    return list(itertools.islice(draw_architectures(tunas.get_space(SSD), arguments.seed), arguments.num_architectures))


def convert(family: str, arguments: argparse.Namespace) -> None:
    """Writes the files of all networks of a family, which takes far longer than their timing and needs no quiet."""
    with progress_bar() as progress:
        for name in precisions_of(family):
            for number, architecture in enumerate(progress.track(drawn(arguments), description=name)):
                artifact_of(number, architecture, get_runtime(name), arguments)


def precisions_of(family: str) -> list[str]:
    return [name for name in RUNTIMES if name.removesuffix("-int8") == family]


def sitting(number: int, names: list[str], arguments: argparse.Namespace) -> np.ndarray:
    """Milliseconds `[architectures · runtimes, rounds, repeats]` of networks opened for this sitting.

    Where a network's weights come to lie in memory makes it some percent faster or slower for as long as it is open.
    """
    path = arguments.work / f"{names[0]}.sitting-{number}.npy"
    if path.is_file():
        return np.load(path)
    image = np.random.default_rng(0).random((1, 3, arguments.image_size, arguments.image_size), np.float32)
    settle_allocator()
    networks = [(*one, name) for one in enumerate(drawn(arguments)) for name in names]
    order = np.random.default_rng(number).permutation(len(networks))
    runs = []
    for place in order:
        of_space, architecture, name = networks[place]
        artifact = artifact_of(of_space, architecture, get_runtime(name), arguments)
        runs.append(get_runtime(name).open(artifact, threads=1).bound(image))
    config = config_of(names[0], arguments)
    times = interleaved_times(runs, config.warmup, config.rounds, config.repeats, CLOCKS[config.clock])
    write_whole(path, lambda file: np.save(file, times[np.argsort(order)]))
    print(f"sitting {number} of {names[0]}", flush=True)
    return np.load(path)


def measured(family: str, arguments: argparse.Namespace) -> dict[str, Measured]:
    """Of each runtime of a family, (samples, milliseconds `[N, 2]` by odd and even rounds).

    All networks take turns, in both precisions, so that what changes the machine's speed for a while falls on all; in
    several sittings, for each of which they are opened again, in another order.
    """
    space, names = tunas.get_space(SSD), precisions_of(family)
    paths = {name: arguments.work / f"{name}.csv" for name in names}
    if not all(path.is_file() for path in paths.values()):
        sittings = [sitting(number, names, arguments) for number in range(arguments.sittings)]
        times = np.concatenate(sittings, axis=1)
        config = config_of(family, arguments)
        turns = {"rounds": times.shape[1], "repeats": config.repeats}
        for place, (name, path) in enumerate(paths.items()):
            of_runtime = times[place :: len(names)]
            halves = np.array([[latency(of_one[half::2]) for half in (0, 1)] for of_one in of_runtime])
            np.savetxt(path.with_suffix(".halves.csv"), halves, delimiter=",")
            setup = setup_of(space, get_runtime(name), config_of(name, arguments))
            rows = [
                Sample(space.name, architecture.text, **{**setup, **turns, **summary(of_one)})
                for architecture, of_one in zip(drawn(arguments), of_runtime, strict=True)
            ]
            append_samples(path, rows)
    return {
        name: (read_samples(path, space), np.loadtxt(path.with_suffix(".halves.csv"), delimiter=",", ndmin=2))
        for name, path in paths.items()
    }


def milliseconds(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([sample.milliseconds for sample in samples])


def compare(family: str, measurements: dict[str, Measured]) -> None:
    floats, quantised = (measurements[name] for name in (family, f"{family}-int8"))
    ratio = milliseconds(quantised[0]) / milliseconds(floats[0])
    repeats = [spearmanr(halves[:, 0], halves[:, 1]).statistic for _, halves in (floats, quantised)]
    rank = spearmanr(milliseconds(floats[0]), milliseconds(quantised[0])).statistic
    print(
        f"{family}: {len(ratio)} architectures, INT8 / float32 {ratio.min():.2f} / {np.median(ratio):.2f} / "
        f"{ratio.max():.2f} (min, median, max); rank correlation {rank:.3f}, of repeats {repeats[0]:.3f} (float32) and "
        f"{repeats[1]:.3f} (INT8)"
    )


def fitted(runtime: str, samples: list[Sample], arguments: argparse.Namespace) -> None:
    model, report = fit_samples(tunas.get_space(SSD), samples, arguments.image_size, arguments.num_classes)
    model.save(arguments.work / f"{runtime}.json")
    print(
        f"fit of {runtime}: {len(samples)} samples, held-out mean error {report.mean_error:.2%}, 95th percentile "
        f"{report.p95_error:.2%}, Spearman {report.spearman:.3f}, noise {report.noise or 0:.2%}"
    )


def searched(family: str, arguments: argparse.Namespace) -> None:
    """A search for a time in INT8, priced in INT8 and in float32, and what both winners take in INT8."""
    space = tunas.get_space(SSD)
    models = {
        name: tunas.load_cost_model(arguments.work / f"{name}.json", space) for name in (family, f"{family}-int8")
    }
    quantised = models[f"{family}-int8"]
    target = float(np.median(quantised.estimate(space.sample(np.random.default_rng(1), 1001))))
    runtime, config = get_runtime(f"{family}-int8"), config_of(f"{family}-int8", arguments)
    for name, model in models.items():
        result = tunas.search(
            tunas.SearchConfig(
                ssd=SSD,
                checkpoint_dir=str(arguments.work / f"search-{name}"),
                image_size=arguments.image_size,
                epochs=arguments.epochs,
                cost_model=str(arguments.work / f"{name}.json"),
                rl_cost_model_target=target,
                rl_cost_model_tolerance=0.01,
                device="cpu",
            )
        )
        winner = result.architecture.pruned()
        (sample,), slowdown = measured_with_references([winner], references_of(quantised), runtime, config)
        took = sample.milliseconds / slowdown
        off = 100 * (took / target - 1)
        print(
            f"searched for {target:.3f} ms of INT8, priced by {name}: predicted {model.estimate(winner):.3f} ms, "
            f"in INT8 measured {took:.3f} ms ({off:+.1f} %) at the speed of the samples, slowdown {slowdown:.3f}"
        )


def accuracies(arguments: argparse.Namespace) -> None:
    """What INT8 costs in accuracy and saves in bytes, on the digits: the reference architectures and a searched one."""
    networks = dict.fromkeys(REFERENCES, "")
    searches = sorted(arguments.work.glob("search-*-int8/result.json"))
    if searches:
        networks[SSD] = json.loads(searches[0].read_text())["indices"]
    for ssd, indices in networks.items():
        directory = arguments.work / f"train-{ssd}"
        epochs = arguments.training_epochs
        tunas.train(
            tunas.TrainConfig(ssd=ssd, indices=indices, checkpoint_dir=str(directory), epochs=epochs, device="cpu")
        )
        exported = tunas.export(
            tunas.ExportConfig(
                out=str(arguments.work / f"export-{ssd}"),
                checkpoint_dir=str(directory),
                runtime=RUNTIMES,
                max_accuracy_drop=1.0,
            )
        )
        by_name = {one.runtime: one for one in exported}
        for family in ("onnxruntime", "openvino"):
            float32, int8 = by_name[family], by_name[f"{family}-int8"]
            print(
                f"{ssd} under {family}: {float32.check.torch_quality:.2%} in PyTorch, {float32.check.quality:.2%} in "
                f"float32, {int8.check.quality:.2%} in INT8, at {int8.size / float32.size:.0%} of the float32 file's "
                f"{float32.size / 1e6:.1f} MB"
            )


def plot(arguments: argparse.Namespace, measurements: dict[str, Measured]) -> None:
    from matplotlib.figure import Figure

    families = [name for name in RUNTIMES if name in measurements and not name.endswith("-int8")]
    figure = Figure(figsize=(4.5 * len(families), 4.2), layout="constrained")
    for number, family in enumerate(families, 1):
        axes = figure.add_subplot(1, len(families), number)
        x, y = (milliseconds(measurements[name][0]) for name in (family, f"{family}-int8"))
        axes.plot(x, y, ".", alpha=0.6)
        axes.plot([0, x.max()], [0, x.max()], color="grey", linewidth=0.8)
        axes.set(title=family, xlabel="float32, ms", ylabel="INT8, ms", xlim=(0, None), ylim=(0, None))
    figure.savefig(arguments.work / "int8.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("int8"))
    parser.add_argument("--num_architectures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="which architectures are drawn")
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--sittings", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--families", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--training_epochs", type=float, default=24)
    parser.add_argument("--stages", nargs="+", default=["convert", "measure", "search", "accuracy"])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    measurements = {}
    for family in arguments.families if "convert" in arguments.stages else ():
        convert(family, arguments)
    for family in arguments.families if "measure" in arguments.stages else ():
        measurements |= measured(family, arguments)
        compare(family, measurements)
        for name in precisions_of(family):
            fitted(name, measurements[name][0], arguments)
    if measurements:
        plot(arguments, measurements)
    for family in arguments.families if "search" in arguments.stages else ():
        searched(family, arguments)
    if "accuracy" in arguments.stages:
        accuracies(arguments)


if __name__ == "__main__":
    main()
