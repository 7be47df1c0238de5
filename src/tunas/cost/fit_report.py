"""What a fitted cost model is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

DRIFT_BLOCK = 25
DRIFT_RATIO = 2.0
"""The errors of consecutive samples go together when the means of blocks vary this much more than independent errors'
would."""
NAMED = 5
"""Unseen choices that the printed report names; the cost model's provenance names all."""


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
        """Distance of predicted over measured time from 1, `[N]`."""
        return np.abs(self.predicted / self.measured - 1)

    @property
    def mean_error(self) -> float:
        """Mean of the relative errors."""
        return float(self.relative_errors.mean())

    @property
    def p95_error(self) -> float:
        """95th percentile of the relative errors."""
        return float(np.quantile(self.relative_errors, 0.95))

    @property
    def p95_over(self) -> float:
        """The 95th percentile of measured over predicted time, minus 1."""
        return float(np.quantile(self.measured / self.predicted - 1, 0.95))

    @property
    def r_squared(self) -> float:
        """Part of the variance that the predictions explain; nan where all times are the same."""
        around = self.measured - self.measured.mean()
        if not around.any():
            return math.nan
        return 1 - float(((self.predicted - self.measured) ** 2).sum() / (around**2).sum())

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
        """The mean error, were it to fall as much again as it did with the last doubling; not below the noise."""
        (_, before), (_, now) = self.learning_curve[-2:]
        return min(now, max(now * now / before, self.noise or 0.0))

    def as_json(self) -> dict[str, Any]:
        """The figures, for the cost model's provenance."""
        return {
            "samples": len(self.measured),
            "held_out_mean_relative_error": self.mean_error,
            "held_out_p95_relative_error": self.p95_error,
            "held_out_p95_over": self.p95_over,
            "held_out_r_squared": _finite(self.r_squared),
            "held_out_spearman": _finite(self.spearman),
            "noise_mean_relative_error": self.noise,
            "drift": self.drift,
            "learning_curve": [list(point) for point in self.learning_curve],
            "unseen_choices": list(self.unseen),
            "table_entries": self.entries,
            "table_entries_seen": self.entries_seen,
            "strengths": self.strengths,
            "held_out": {"measured": self.measured.tolist(), "predicted": self.predicted.tolist()},
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
                f"measured; measure again with nothing else running, or with a larger --group"
            )
        if self.unseen:
            more = f" and {len(self.unseen) - NAMED} more" if len(self.unseen) > NAMED else ""
            lines.append(f"choices never seen        {', '.join(self.unseen[:NAMED])}{more}")
        return "\n".join(lines)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
