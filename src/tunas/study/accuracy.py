"""Accuracy as a function of the architecture, fitted to architectures that were trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunas.cost.catalog import load_cost_model
from tunas.cost.model import CostModel, CostTerm
from tunas.errors import InputError
from tunas.space import Space

STRENGTHS = np.logspace(-1, 4, 21)
"""Candidates for the ridge, of which leaving each sample out in turn chooses."""
FOLDS = 10
FEWEST = 2 * FOLDS
"""Architectures that a fit takes."""


@dataclass(frozen=True)
class AccuracyFit:
    """A model of accuracy and how well it does on architectures that it was not fitted to.

    Args:
        model: accuracy of any architecture of the space, as tables; `unit` is `accuracy`.
        rank_correlation: Spearman, between accuracies and what models of the other nine tenths predict.
        error: mean absolute difference between the two.
        spread: standard deviation of the accuracies.
    """

    model: CostModel
    rank_correlation: float
    error: float
    spread: float


def fitted_accuracy(space: Space, indices: np.ndarray, accuracies: np.ndarray) -> AccuracyFit:
    """Ridge regression on which entry of each table of the space's parameter count an architecture picks, and on each
    of the table's axes alone.

    Args:
        indices: `[N, num_choices]`.
        accuracies: 0 to 1, `[N]`.

    Raises:
        InputError: where there are too few architectures.
    """
    from scipy.stats import spearmanr
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    if len(indices) < FEWEST:
        raise InputError(
            f"a model of accuracy takes at least {FEWEST} trained architectures of {space.name}, not {len(indices)}"
        )
    tables = [_Table(space, term) for term in load_cost_model("params", space).terms]  # type: ignore[union-attr]
    every = np.concatenate([table.columns(indices) for table in tables], axis=1)
    varies = every.any(axis=0) & ~every.all(axis=0)
    design = every[:, varies]
    regression = RidgeCV(STRENGTHS, gcv_mode="eigen")
    folds = KFold(min(FOLDS, len(indices)), shuffle=True, random_state=0)
    predicted = cross_val_predict(regression, design, accuracies, cv=folds)
    regression.fit(design, accuracies)
    coefficients = np.zeros(every.shape[1])
    coefficients[varies] = regression.coef_
    parts = np.split(coefficients, np.cumsum([table.width for table in tables])[:-1])
    terms = [table.term(part) for table, part in zip(tables, parts, strict=True)]
    model = CostModel(
        space,
        float(regression.intercept_),
        terms,
        unit="accuracy",
        device="fitted to trained architectures",
        provenance={"samples": len(indices), "strength": float(regression.alpha_)},
    )
    correlation = float(spearmanr(accuracies, predicted).statistic)
    return AccuracyFit(model, correlation, float(np.abs(accuracies - predicted).mean()), float(np.std(accuracies)))


class _Table:
    """Columns for one table: its entries, and each of its axes alone. What lies inside a choice not taken counts as the
    first choice, so that a skipped layer is one column."""

    def __init__(self, space: Space, term: CostTerm):
        self.positions, self.shape, self.path = term.positions, term.values.shape, term.path
        self._parents = [
            (self.positions.index(point.parent), point.parent_choice) if point.parent in self.positions else None
            for point in (space.points[position] for position in self.positions)
        ]
        self.width = int(np.prod(self.shape)) + sum(self.shape)

    def _canonical(self, picked: np.ndarray) -> np.ndarray:
        """`[N, axes]` with 0 in place of what is not in use."""
        canonical = picked.copy()
        for axis in reversed(range(len(self.positions))):  # a OneOf comes after those inside it
            parent = self._parents[axis]
            if parent is not None:
                canonical[picked[:, parent[0]] != parent[1], axis] = 0
        return canonical

    def _hot(self, picked: np.ndarray) -> np.ndarray:
        """int `[N, 1 + axes]`: the columns that are 1."""
        canonical = self._canonical(picked)
        starts = int(np.prod(self.shape)) + np.cumsum([0, *self.shape[:-1]])
        entry = np.ravel_multi_index(tuple(canonical.T), self.shape)
        return np.column_stack([entry, canonical + starts])

    def columns(self, indices: np.ndarray) -> np.ndarray:
        """`[N, width]` of zeros and ones."""
        found = np.zeros((len(indices), self.width))
        np.put_along_axis(found, self._hot(indices[:, self.positions]), 1.0, axis=1)
        return found

    def term(self, coefficients: np.ndarray) -> CostTerm:
        """The table of what the coefficients `[width]` add up to."""
        every = np.indices(self.shape).reshape(len(self.shape), -1).T
        return CostTerm(self.positions, coefficients[self._hot(every)].sum(axis=1).reshape(self.shape), self.path)
