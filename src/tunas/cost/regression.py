"""Times of whole networks -> times of their layers: ridge regression around a physical prior.

There are far more table entries than measurements, so the time of an entry is a sum of parts, from what all layers
share to what is its own:

    entry = Σ_q (c_q + d_q) · amount_q  +  Σ_q e_q · fine_q  +  prior · (Σ_p main[p, choice] + own[entry])

- `amount_q` are physical quantities of the layer (`tunas.cost.features.physical_quantities`): multiply-accumulates,
  numbers moved, calls, by kind of operation. `prior = Σ_q c_q · amount_q` with c ≥ 0, by non-negative least squares;
- `d`, `e`, `main` and `own` are corrections, shrunk towards zero, each of these four groups with a strength of its
  own. `fine_q` splits the quantities by kernel size and resolution; `main` has one number for each choice of each
  OneOf that the layer depends on, `own` one for each entry.

An entry that no sample uses keeps the physical prior and what its relatives taught. Errors count relative to the
measured time. For given strengths the solution is exact (the dual form of ridge regression, one N×N system), and so is
the error of leaving out each sample in turn, by which the strengths are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, sparse

from tunas.cost.catalog import PIXEL1_CLASSES, PIXEL1_SIZE
from tunas.cost.features import FINE_MARK, LayerTable, Placed, layer_tables, physical_quantities
from tunas.cost.model import CostTerm
from tunas.space import Space, Tower

GROUPS = ("general", "fine", "main", "own")
STRENGTHS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""What is tried for the variance of a group's corrections over the variance of the noise."""
STRENGTH_ROUNDS = 2
"""How often each group's strength is chosen, given the others'."""
CHOOSING_ROWS = 500
"""Further samples do not take part in choosing the strengths, which takes time ∝ N³: with 300, 500 or 1,000 of 1,200
samples the fitted models err alike (benchmarks/README.md#devices)."""
PRIOR_FLOOR = 0.01
"""Least prior of a layer that does anything, as a part of the mean layer's, so that it can be corrected at all."""


class SpaceFeatures:
    """What every table entry of a space amounts to, in one long list of entries over all layers.

    Args:
        space: the space.
        image_size: pixels a side of a tower's images; of a model of one's own where it has no example.
        num_classes: outputs of a tower's classifier.

    Attributes:
        amounts: physical quantities, `[entries, quantities]`.
        is_fine: which quantities are the finer versions, bool `[quantities]`.
        active: entries of layers that do anything, bool `[entries]`.
        main: which (layer, OneOf, choice) an entry belongs to, 0 or 1, sparse `[entries, choices]`.
    """

    def __init__(self, space: Space, image_size: int | None, num_classes: int | None):
        self.space = space
        if isinstance(space.structure, Tower):
            self.names, self.tables = _tower_quantities(space, image_size or PIXEL1_SIZE, num_classes or PIXEL1_CLASSES)
        else:
            self.names, self.tables = _leaf_quantities(space, image_size)
        self.is_fine = np.array([FINE_MARK in name for name in self.names], bool)
        self.shapes = [table.values.shape[:-1] for table in self.tables]
        self.starts = np.cumsum([0, *(int(np.prod(shape)) for shape in self.shapes)])
        self.amounts = np.concatenate([table.values.reshape(-1, len(self.names)) for table in self.tables])
        self.active: np.ndarray = np.asarray(self.amounts.any(axis=1))
        self.main = _main_effects(self.shapes)

    def picked(self, indices: np.ndarray) -> sparse.csr_matrix:
        """Which entries architectures `[N, num_choices]` use: 0 or 1, sparse `[N, entries]`."""
        number = len(indices)
        entries = np.empty((number, len(self.tables)), np.int64)
        for column, (table, shape) in enumerate(zip(self.tables, self.shapes, strict=True)):
            chosen = tuple(indices[:, position] for position in table.positions)
            entries[:, column] = self.starts[column] + (np.ravel_multi_index(chosen, shape) if shape else 0)
        rows = np.repeat(np.arange(number), len(self.tables))
        return sparse.csr_matrix((np.ones(entries.size), (rows, entries.ravel())), (number, self.starts[-1]))


def _tower_quantities(space: Space, image_size: int, num_classes: int) -> tuple[tuple[str, ...], list[LayerTable]]:
    """Names of the physical quantities, and a table of them for each alternative of each layer."""
    found: dict[str, None] = {}

    def note_names(placed: Placed) -> list[float]:
        found.update(dict.fromkeys(physical_quantities(placed)))
        return []

    layer_tables(space, note_names, image_size)
    names = tuple(found)
    return names, layer_tables(
        space, lambda placed: _vector(names, physical_quantities(placed)), image_size, num_classes
    )


def _leaf_quantities(space: Space, image_size: int | None) -> tuple[tuple[str, ...], list[LayerTable]]:
    """The same of a model of one's own, with a table for each leaf module."""
    from tunas.cost.own import counted_leaves, example_of

    leaves = counted_leaves(space, example_of(space, None, image_size))
    names = leaves.names()
    return names, leaves.tables(lambda counts: _vector(names, counts))


def _vector(names: tuple[str, ...], quantities: Mapping[str, float]) -> np.ndarray:
    return np.array([quantities.get(name, 0.0) for name in names])


def _main_effects(shapes: list[tuple[int, ...]]) -> sparse.csr_matrix:
    """`SpaceFeatures.main` for tables of these shapes, with a column more for each layer as a whole."""
    blocks = []
    for shape in shapes:
        coordinates = np.indices(shape).reshape(len(shape), int(np.prod(shape)))
        effects = [
            sparse.csr_matrix(np.eye(size)[coordinate]) for size, coordinate in zip(shape, coordinates, strict=True)
        ]
        blocks.append(sparse.hstack([sparse.csr_matrix(np.ones((coordinates.shape[1], 1))), *effects]))
    return sparse.block_diag(blocks, format="csr")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A regression's result.

    Args:
        features: of the space.
        bias: milliseconds of every network.
        entries: milliseconds of every table entry, in the order of the features.
        prior: the part of `entries` that is the physical prior.
        strengths: of the four groups of corrections.
    """

    features: SpaceFeatures
    bias: float
    entries: np.ndarray
    prior: np.ndarray
    strengths: tuple[float, ...]

    def predict(self, indices: np.ndarray) -> np.ndarray:
        """Milliseconds `[N]` of architectures `[N, num_choices]`."""
        return self.bias + self.features.picked(indices) @ self.entries

    def strengths_by_group(self) -> dict[str, float]:
        """Name of a group of corrections -> its strength."""
        return dict(zip(GROUPS, self.strengths, strict=True))

    def terms(self) -> list[CostTerm]:
        """The entries as tables of a cost model, without those of layers that do nothing."""
        found = []
        for table, shape, start in zip(self.features.tables, self.features.shapes, self.features.starts, strict=False):
            values = self.entries[start : start + int(np.prod(shape))].reshape(shape)
            if values.any():
                found.append(CostTerm(table.positions, values, table.path))
        return found


def fitted_times(features: SpaceFeatures, indices: np.ndarray, times: np.ndarray) -> Fitted:
    """The regression of `times` `[N]` on architectures `[N, num_choices]`."""
    picked = features.picked(indices)
    general = features.amounts[:, ~features.is_fine]
    fine = features.amounts[:, features.is_fine]
    bias, coefficients = physical_prior(picked @ general, times)
    prior = general @ coefficients
    relative = np.where(features.active, np.maximum(prior, PRIOR_FLOOR * prior[features.active].mean()), 0.0)
    scaled = sparse.diags(relative)
    parts = [_per_mean(picked, general), _per_mean(picked, fine), scaled @ features.main, scaled]
    designs = [sparse.csr_matrix(sparse.diags(1 / times) @ (picked @ part)) for part in parts]
    constant = sparse.csr_matrix((1 / times)[:, None] * np.mean(times))
    designs[0] = sparse.hstack([constant, designs[0]], format="csr")
    grams = [_normalised_gram(design) for design in designs]
    residual = 1 - (bias + picked @ prior) / times
    some = slice(CHOOSING_ROWS)
    scaled_designs = [design[some] / np.sqrt(norm) for design, (_, norm) in zip(designs, grams, strict=True)]
    strengths = chosen_strengths(scaled_designs, residual[some])
    dual = ridge_dual(combined([gram for gram, _ in grams], strengths), residual)
    corrections = [
        strength / norm * (design.T @ dual)
        for strength, (_, norm), design in zip(strengths, grams, designs, strict=True)
    ]
    entries = prior + sum(
        part @ correction for part, correction in zip(parts, [corrections[0][1:], *corrections[1:]], strict=True)
    )
    return Fitted(
        features,
        bias + float(corrections[0][0]) * float(np.mean(times)),
        np.where(features.active, entries, 0.0),
        prior,
        strengths,
    )


def physical_prior(amounts: np.ndarray, times: np.ndarray) -> tuple[float, np.ndarray]:
    """(bias, coefficients), none negative, for which bias + amounts @ coefficients has the least error relative to
    `times`.

    Args:
        amounts: physical quantities of each network, `[N, quantities]`.
        times: milliseconds, `[N]`.
    """
    columns = np.column_stack([np.ones(len(times)), amounts])
    scale = columns.mean(axis=0)
    scale[scale == 0] = 1.0
    coefficients, _ = optimize.nnls(columns / scale / times[:, None], np.ones(len(times)))
    return float(coefficients[0] / scale[0]), (coefficients / scale)[1:]


def _per_mean(picked: sparse.csr_matrix, amounts: np.ndarray) -> np.ndarray:
    """`amounts` in units of what the mean network has of them."""
    mean = (picked @ amounts).mean(axis=0)
    return amounts / np.where(mean == 0, np.inf, mean)


def _normalised_gram(design: sparse.csr_matrix) -> tuple[np.ndarray, float]:
    """Products of rows `[N, N]` over their mean diagonal, and that mean."""
    gram = (design @ design.T).toarray()
    norm = float(np.trace(gram)) / len(gram) or 1.0
    return gram / norm, norm


def combined(grams: list[np.ndarray], strengths: tuple[float, ...]) -> np.ndarray:
    """The sum of the groups' products of rows, each times its strength."""
    total = np.zeros_like(grams[0])
    for gram, strength in zip(grams, strengths, strict=True):
        if strength:
            total += strength * gram
    return total


def ridge_dual(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(gram + I)⁻¹ target: ridge coefficients are the design's transpose times this."""
    return linalg.solve(gram + np.eye(len(gram)), target, assume_a="pos")


def left_out_residuals(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """For each sample, target minus what ridge regression on all the others predicts; exact, by one inversion."""
    half = _lower_inverse(gram + np.eye(len(gram)))
    return linalg.blas.dsymv(1.0, half, target, lower=1) / np.diag(half)


def chosen_strengths(designs: list[sparse.csr_matrix], target: np.ndarray) -> tuple[float, ...]:
    """One strength per group, the smallest mean left-out error that changing one at a time finds.

    Args:
        designs: of each group, `[N, columns]`.
        target: `[N]`.
    """
    grams = [(design @ design.T).toarray() for design in designs]
    best = [1.0] * len(designs)
    for _ in range(STRENGTH_ROUNDS):
        for group, design in enumerate(designs):
            best[group] = 0.0
            errors = [
                float(np.abs(residuals).mean())
                for residuals in residuals_along(combined(grams, tuple(best)), design, grams[group], target)
            ]
            best[group] = STRENGTHS[int(np.argmin(errors))]
    return tuple(best)


def residuals_along(
    rest: np.ndarray, design: sparse.csr_matrix, gram: np.ndarray, target: np.ndarray
) -> Iterator[np.ndarray]:
    """`left_out_residuals` of rest + strength · gram for every one of `STRENGTHS`.

    A group of fewer columns than samples needs one inversion and one small decomposition for all of them: with
    A = rest + I and Dᵀ A⁻¹ D = U Λ Uᵀ, (A + s D Dᵀ)⁻¹ is A⁻¹ − W diag(s / (1 + s Λ)) Wᵀ, where W = A⁻¹ D U.
    """
    if 2 * design.shape[1] > len(target):
        yield from (left_out_residuals(rest + strength * gram, target) for strength in STRENGTHS)
        return
    inverse = _inverse(rest + np.eye(len(rest)))
    half = inverse @ design.toarray()
    values, vectors = linalg.eigh(design.T @ half, check_finite=False)
    turned = half @ vectors
    squares, projected = turned**2, turned.T @ target
    solved, diagonal = inverse @ target, np.diag(inverse)
    for strength in STRENGTHS:
        factors = strength / (1 + strength * np.maximum(values, 0.0))
        yield (solved - turned @ (factors * projected)) / (diagonal - squares @ factors)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a symmetric positive definite matrix, at half the cost of a general one."""
    lower = np.tril(_lower_inverse(matrix))
    return lower + np.tril(lower, -1).T


def _lower_inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a symmetric positive definite matrix in the lower triangle; what is above is of no meaning."""
    factor, failed = linalg.lapack.dpotrf(matrix, lower=1)
    inverse, failed = linalg.lapack.dpotri(factor, lower=1) if not failed else (factor, failed)
    return linalg.inv(matrix, check_finite=False) if failed else inverse
