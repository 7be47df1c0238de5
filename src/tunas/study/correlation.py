"""How two rankings of the same architectures agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 1000
"""How often the architectures are drawn again, with replacement, for the interval of Kendall's correlation."""
CONFIDENCE = 0.95
TOP = (1, 3, 10)
"""Architectures, those that look best with shared weights, whose best one is compared with the best of all."""


@dataclass(frozen=True)
class Correlation:
    """How two rankings of the same architectures agree.

    Args:
        spearman, kendall: -1 to 1 (tau-b); None where all qualities of one side are equal.
        interval: of Kendall's, at 95 %, by drawing the architectures again; None likewise.
        regret: k -> best stand-alone quality of all minus the best among the k that look best with shared weights. Of
            those that look equally good, the worst come first.
    """

    spearman: float | None
    kendall: float | None
    interval: tuple[float, float] | None
    regret: dict[int, float]


def correlation(shared: np.ndarray, alone: np.ndarray, seed: int = 0) -> Correlation:
    """How the qualities `[N]` with shared weights rank the architectures, against those of stand-alone trainings."""
    regret = {count: top_regret(shared, alone, count) for count in TOP if count < len(alone)}
    if np.ptp(shared) == 0 or np.ptp(alone) == 0:
        return Correlation(None, None, None, regret)
    spearman, kendall = stats.spearmanr(shared, alone).statistic, _kendall(shared, alone)
    rows = np.random.default_rng(seed).integers(len(alone), size=(RESAMPLES, len(alone)))
    drawn = [_kendall(shared[each], alone[each]) for each in rows]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])  # nan: one architecture drawn N times over
    return Correlation(float(spearman), kendall, (float(low), float(high)), regret)


def _kendall(first: np.ndarray, second: np.ndarray) -> float:
    return float(stats.kendalltau(first, second).statistic)


def top_regret(shared: np.ndarray, alone: np.ndarray, count: int) -> float:
    """The best of `alone` minus the best of it among the `count` architectures of the largest `shared`.

    Of architectures that are equal there, the worst come first.
    """
    looks_best = np.lexsort((alone, -shared))[:count]
    return float(alone.max() - alone[looks_best].max())
