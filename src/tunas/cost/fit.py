"""Measured architectures -> a cost model, with the error that it makes on architectures it has not seen.

The model is the paper's, a bias and one table per layer (docs/algorithm.md#cost-models); `tunas.cost.regression` says
how it is found.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.cost.catalog import PIXEL1_CLASSES, PIXEL1_SIZE
from tunas.cost.fit_report import FitReport
from tunas.cost.model import CostModel
from tunas.cost.plot import save_fit_plot
from tunas.cost.samples import SETUP, Sample, read_samples, references
from tunas.errors import InputError
from tunas.files import check_writable, make_directory, writing_to
from tunas.needs import has_package, need_packages
from tunas.space import Space, active_positions, get_space

if TYPE_CHECKING:
    from tunas.cost.regression import SpaceFeatures

SAMPLES_PER_COEFFICIENT = 2
"""Samples needed for each coefficient of the physical prior."""
LEARNING_FRACTIONS = (0.125, 0.25, 0.5)
"""Parts of the samples that models are fitted to, to see how the error falls with their number."""


@dataclass(frozen=True)
class FitConfig:
    """Fits a cost model to measured architectures, and reports its error on architectures that it has not seen."""

    samples: str
    """CSV file that `tunas measure` wrote, or a manifest of `tunas measure --export` with the times filled in."""

    ssd: str
    """Search space that the samples are of."""

    out: str
    """JSON file to write the cost model to: what --cost_model takes."""

    plot: str | None = None
    """PNG of predicted against measured times. Next to the cost model where left out, if matplotlib is installed."""

    image_size: int | None = None
    """Pixels a side, where the samples have no column for it: 224 where left out."""

    num_classes: int | None = None
    """Outputs of the classifier that was measured, where the samples have no column for it: 1,000 where left out."""

    folds: int = 10
    """Parts of the samples, each of which is predicted by a model fitted to the others."""

    seed: int = 0
    """Which samples come into which part."""

    def __post_init__(self) -> None:
        for name, least in (("folds", 2), ("image_size", 1), ("num_classes", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")


def fit(config: FitConfig) -> tuple[CostModel, FitReport]:
    """Reads samples, fits and checks a cost model, and writes it and its plot.

    Raises:
        InputError: where the samples are wrong (see `read_samples`) or too few, or a plot is asked for without
        matplotlib.
    """
    plot = _plot_path(config)
    check_writable(config.out)
    if plot is not None:
        check_writable(plot)
    space = get_space(config.ssd)
    samples = read_samples(config.samples, space)
    model, report = fit_samples(
        space, samples, config.image_size, config.num_classes, folds=config.folds, seed=config.seed
    )
    make_directory(Path(config.out).parent)
    with writing_to(Path(config.out)):
        model.save(config.out)
    if plot is not None:
        make_directory(plot.parent)
        with writing_to(plot):
            save_fit_plot(report, plot, title=f"{space.name}, {model.device}")
    return model, report


def _plot_path(config: FitConfig) -> Path | None:
    """Where the plot goes; None, with a word, where there is no matplotlib and none was asked for."""
    if config.plot is not None:
        if Path(config.plot).suffix.lower() != ".png":
            raise InputError(f"the plot is a PNG file: give --plot a name that ends in .png, unlike {config.plot}")
        need_packages("--plot", "matplotlib", install="tunas-torch[devices]")
        return Path(config.plot)
    if not has_package("matplotlib"):
        print("no plot: matplotlib is not installed (pip install 'tunas-torch[devices]')", file=sys.stderr)
        return None
    return Path(config.out).with_suffix(".png")


def fit_samples(
    space: Space,
    samples: Sequence[Sample],
    image_size: int | None = None,
    num_classes: int | None = None,
    *,
    folds: int = 10,
    seed: int = 0,
) -> tuple[CostModel, FitReport]:
    """The cost model of all samples, and a report on models that were each fitted without a part of them.

    Args:
        space: the samples' space.
        samples: at least twice as many as the physical prior has coefficients.
        image_size, num_classes: pixels a side and outputs of the classifier, where the samples do not say: 224 and
            1,000 where left out.
        folds: parts that are held out in turn.
        seed: which samples come into which part.

    Raises:
        InputError: where there are too few samples, or they say another image size or number of classes.
    """
    from tunas.cost.regression import SpaceFeatures, fitted_times

    if space.example is None:
        image_size = _condition(samples, "image_size", image_size, PIXEL1_SIZE)
        num_classes = _condition(samples, "num_classes", num_classes, PIXEL1_CLASSES)
    features = SpaceFeatures(space, image_size, num_classes)
    indices = np.array([space.architecture(sample.indices).indices for sample in samples], np.int64).reshape(
        -1, space.num_choices
    )
    times = np.array([sample.milliseconds for sample in samples])
    _check_enough(features, indices, folds)
    predicted, curve = held_out(features, indices, times, folds, seed)
    fitted = fitted_times(features, indices, times)
    seen = np.unique(features.picked(indices).indices)
    report = FitReport(
        measured=times,
        predicted=predicted,
        noise=_noise(samples),
        learning_curve=curve,
        unseen=_unseen_choices(space, indices),
        entries=int(features.active.sum()),
        entries_seen=int(features.active[seen].sum()),
        strengths=fitted.strengths_by_group(),
    )
    provenance = _provenance(samples, {"image_size": image_size, "num_classes": num_classes}, report)
    device = " on ".join(filter(None, (samples[0].backend, samples[0].device)))
    return CostModel(space, fitted.bias, fitted.terms(), "ms", device, provenance), report


def _noise(samples: Sequence[Sample]) -> float | None:
    """Mean relative error of the measurements themselves; None where a sample does not say."""
    differences = [sample.half_difference for sample in samples]
    if None in differences:
        return None
    times = np.array([sample.milliseconds for sample in samples])
    return float(np.mean(np.array(differences, np.float64) / 2 / times))


def _provenance(samples: Sequence[Sample], conditions: dict[str, int | None], report: FitReport) -> dict[str, Any]:
    """Where a fitted model's numbers come from, and what they are worth."""
    setup = {name: value for name in SETUP if (value := getattr(samples[0], name)) not in (None, "")}
    return {
        "source": "tunas fit",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **setup,
        **conditions,
        **report.as_json(),
        "references": references(samples),
    }


def _condition(samples: Sequence[Sample], name: str, given: int | None, usual: int) -> int:
    """What the samples say, or else what was given."""
    said = getattr(samples[0], name) if samples else None
    if said is not None and given is not None and said != given:
        raise InputError(f"the samples were measured with {name} {said}, not {given}; leave --{name} out")
    return said or given or usual


def held_out(
    features: SpaceFeatures, indices: np.ndarray, times: np.ndarray, folds: int, seed: int = 0
) -> tuple[np.ndarray, tuple[tuple[int, float], ...]]:
    """Milliseconds `[N]` that models predict for samples they were not fitted to, and the learning curve.

    The curve's last point is the mean error of these predictions; its others are models of the same folds that were
    given only a part of their samples.
    """
    from tunas.cost.regression import fitted_times

    rng = np.random.default_rng(seed)
    fold_of = rng.permutation(len(times)) % folds
    predicted = np.empty(len(times))
    errors: dict[int, list[float]] = {}
    needed = SAMPLES_PER_COEFFICIENT * num_prior_coefficients(features, indices)
    for fold in range(folds):
        out, rest = np.flatnonzero(fold_of == fold), rng.permutation(np.flatnonzero(fold_of != fold))
        predicted[out] = fitted_times(features, indices[rest], times[rest]).predict(indices[out])
        for fraction in LEARNING_FRACTIONS:
            count = round(fraction * len(times) * (folds - 1) / folds)
            if count >= min(needed, len(times) // 3):
                few = rest[:count]
                errors.setdefault(count, []).extend(
                    abs(fitted_times(features, indices[few], times[few]).predict(indices[out]) / times[out] - 1)
                )
    curve = [(count, float(np.mean(of_all))) for count, of_all in errors.items()]
    curve.append((round(len(times) * (folds - 1) / folds), float(np.mean(np.abs(predicted / times - 1)))))
    return predicted, tuple(curve)


def num_prior_coefficients(features: SpaceFeatures, indices: np.ndarray) -> int:
    """How many coefficients of the physical prior the samples can tell apart, the bias included."""
    amounts = features.picked(indices) @ features.amounts[:, ~features.is_fine]
    scale = np.where(amounts.max(axis=0) == 0, 1.0, amounts.max(axis=0))
    return int(np.linalg.matrix_rank(np.column_stack([np.ones(len(indices)), amounts / scale])))


def fewest_samples(space: Space, image_size: int | None = None, num_classes: int | None = None, folds: int = 10) -> int:
    """How many samples a cost model of the space takes at least."""
    from tunas.cost.regression import SpaceFeatures

    return _fewest(SpaceFeatures(space, image_size, num_classes), folds)


def _fewest(features: SpaceFeatures, folds: int) -> int:
    some = features.space.sample(np.random.default_rng(0), 200)
    return max(SAMPLES_PER_COEFFICIENT * num_prior_coefficients(features, some), 2 * folds)


def _check_enough(features: SpaceFeatures, indices: np.ndarray, folds: int) -> None:
    needed = _fewest(features, folds)
    if len(indices) < needed:
        raise InputError(
            f"{len(indices)} samples are too few to fit {features.space.name}: {needed} are the least with {folds} "
            f"folds, and some hundreds are usual (its tables have {int(features.active.sum()):,} entries)"
        )


def _unseen_choices(space: Space, indices: np.ndarray) -> tuple[str, ...]:
    """Choices that none of the architectures has in use, as `path=choice`."""
    used = [np.zeros(size, bool) for size in space.sizes]
    for row in indices.tolist():
        for position, active in enumerate(active_positions(space, row)):
            if active:
                used[position][row[position]] = True
    return tuple(
        f"{point.path}={choice}"
        for point, of_one in zip(space.points, used, strict=True)
        for choice in np.flatnonzero(~of_one)
    )
