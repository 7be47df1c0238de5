"""Measured architectures -> a cost model, with the error that it makes on architectures it has not seen.

The model is the paper's, a bias and one table per layer (SPEC §6); `tunas.cost.regression` says how it is found.
"""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunas.cost.model import PIXEL1_CLASSES, PIXEL1_SIZE, CostModel
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
DRIFT_BLOCK = 25
DRIFT_RATIO = 2.0
"""The errors of consecutive samples go together when the means of blocks vary this much more than independent errors'
would."""
NAMED = 5
"""Unseen choices that the printed report names; the cost model's provenance names all."""


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


@dataclass(frozen=True, eq=False)
class FitReport:
    """What a fitted cost model is worth; every error is on samples that the model which predicted them had not seen.

    Args:
        measured, predicted: milliseconds, `[N]`.
        noise: mean relative error of the measurements themselves, or None where the samples do not say.
        learning_curve: (samples fitted to, mean relative error), the most last.
        unseen: choices of OneOfs that no sample has in use; the model extrapolates there.
        entries, entries_seen: of the tables, and how many of them a sample has used.
        strengths: of the corrections to the physical prior, by group.
    """

    measured: np.ndarray
    predicted: np.ndarray
    noise: float | None
    learning_curve: tuple[tuple[int, float], ...]
    unseen: tuple[str, ...]
    entries: int
    entries_seen: int
    strengths: dict[str, float]

    @property
    def relative_errors(self) -> np.ndarray:
        return np.abs(self.predicted / self.measured - 1)

    @property
    def mean_error(self) -> float:
        return float(self.relative_errors.mean())

    @property
    def p95_error(self) -> float:
        return float(np.quantile(self.relative_errors, 0.95))

    @property
    def r_squared(self) -> float:
        around = self.measured - self.measured.mean()
        return (
            1 - float(((self.predicted - self.measured) ** 2).sum() / (around**2).sum()) if around.any() else math.nan
        )

    @property
    def spearman(self) -> float:
        """Rank correlation; ties share their mean rank."""
        from scipy.stats import spearmanr

        return float(spearmanr(self.predicted, self.measured).statistic)

    @property
    def drift(self) -> float:
        """How much (relative, one standard deviation) the device's speed changed in the course of the file; 0 where it
        did not.

        Means over blocks of consecutive samples tell: they vary more than those of independent errors would.
        """
        errors = self.predicted / self.measured - 1
        blocks = len(errors) // DRIFT_BLOCK
        if blocks < 2:
            return 0.0
        means = errors[: blocks * DRIFT_BLOCK].reshape(blocks, DRIFT_BLOCK).mean(axis=1)
        independent = errors.var() / DRIFT_BLOCK
        return math.sqrt(means.var() - independent) if means.var() > DRIFT_RATIO**2 * independent else 0.0

    @property
    def error_with_twice_the_samples(self) -> float:
        """As much smaller as the last doubling made it, but not below the noise."""
        (_, before), (_, now) = self.learning_curve[-2:]
        return min(now, max(now * now / before, self.noise or 0.0))

    def as_json(self) -> dict[str, Any]:
        """The figures, for the cost model's provenance."""
        return {
            "samples": len(self.measured),
            "held_out_mean_relative_error": self.mean_error,
            "held_out_p95_relative_error": self.p95_error,
            "held_out_r_squared": _finite(self.r_squared),
            "held_out_spearman": _finite(self.spearman),
            "noise_mean_relative_error": self.noise,
            "drift": self.drift,
            "learning_curve": [list(point) for point in self.learning_curve],
            "unseen_choices": list(self.unseen),
            "table_entries": self.entries,
            "table_entries_seen": self.entries_seen,
            "strengths": self.strengths,
        }

    def __str__(self) -> str:
        noise = "unknown (the samples have no half_difference)" if self.noise is None else f"{self.noise:.2%}"
        lines = [
            f"samples                   {len(self.measured)}",
            f"held-out mean error       {self.mean_error:.2%}",
            f"held-out 95th percentile  {self.p95_error:.2%}",
            f"held-out R²               {self.r_squared:.4f}",
            f"held-out Spearman         {self.spearman:.4f}",
            f"measurement noise alone   {noise}",
            f"error by samples fitted   {', '.join(f'{count}: {error:.2%}' for count, error in self.learning_curve)}",
            f"with twice the samples    about {self.error_with_twice_the_samples:.2%}",
            f"table entries             {self.entries}, {self.entries_seen} of them seen; the others follow the "
            f"physical prior",
        ]
        if self.drift:
            lines.append(
                f"drift                     the device's speed changed by some {self.drift:.1%} while it was "
                f"measured; measure again "
                "with nothing else running, or with a larger --group"
            )
        if self.unseen:
            more = f" and {len(self.unseen) - NAMED} more" if len(self.unseen) > NAMED else ""
            lines.append(f"choices never seen        {', '.join(self.unseen[:NAMED])}{more}")
        return "\n".join(lines)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


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
        from tunas.cost.plot import save_fit_plot

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
    from tunas.cost.regression import GROUPS, SpaceFeatures, fitted_times

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
    differences = [sample.half_difference for sample in samples]
    seen = np.unique(features.picked(indices).indices)
    report = FitReport(
        measured=times,
        predicted=predicted,
        noise=None if None in differences else float(np.mean(np.array(differences, np.float64) / 2 / times)),
        learning_curve=curve,
        unseen=_unseen_choices(space, indices),
        entries=int(features.active.sum()),
        entries_seen=int(features.active[seen].sum()),
        strengths=dict(zip(GROUPS, fitted.strengths, strict=True)),
    )
    setup = {name: value for name in SETUP if (value := getattr(samples[0], name)) not in (None, "")}
    written = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    provenance = {
        "source": "tunas fit",
        "date": written,
        **setup,
        "image_size": image_size,
        "num_classes": num_classes,
        **report.as_json(),
        "references": references(samples),
    }
    device = " on ".join(filter(None, (samples[0].backend, samples[0].device)))
    return CostModel(space, fitted.bias, fitted.terms(), "ms", device, provenance), report


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


def _check_enough(features: SpaceFeatures, indices: np.ndarray, folds: int) -> None:
    some = features.space.sample(np.random.default_rng(0), 200)
    needed = max(SAMPLES_PER_COEFFICIENT * num_prior_coefficients(features, some), 2 * folds)
    if len(indices) < needed:
        raise InputError(
            f"{len(indices)} samples are too few to fit {features.space.name}: {needed} are the least with {folds} "
            f"folds, "
            f"and some hundreds are usual (its tables have {int(features.active.sum()):,} entries)"
        )


def _unseen_choices(space: Space, indices: np.ndarray) -> tuple[str, ...]:
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
