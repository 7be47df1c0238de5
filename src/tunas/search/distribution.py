"""Which architectures of a space are likely: one categorical distribution per OneOf (docs/algorithm.md#controller).

NumPy only and batched: N architectures are an int array `[N, C]`, where C is the number of OneOfs, and logits are
padded to `[C, K]`, where K is the size of the largest. No step loops over OneOfs, only over the few levels of nesting.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tunas.errors import InputError
from tunas.space import ALL, FILTERS, OP, Architecture, Space, active_positions

PAIRED = 256
"""Single changes of the most likely architecture that are also tried two at a time to meet a cost: the likeliest."""
CHUNK = 2048
"""Architectures drawn at a time, so that the work stays in cache."""


@dataclass(frozen=True, eq=False)
class Samples:
    """N architectures drawn from a distribution.

    Args:
        indices: int64 `[N, C]`; where a OneOf was enabled as a whole, `ALL` for an OP OneOf, the widest choice for a
            FILTERS OneOf.
        enabled: bool `[N, C]`, OneOfs that a warmup enabled as a whole.
        active: bool `[N, C]`, OneOfs inside the choices taken; all that are inside a OneOf enabled as a whole.
        log_prob: float64 `[N]`, summed over active OneOfs, including whether they were enabled.
    """

    indices: np.ndarray
    enabled: np.ndarray
    active: np.ndarray
    log_prob: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


class Distribution:
    """A distribution over the architectures of a space.

    Args:
        space: what is searched; has at least one OneOf.
        temperature: probabilities are softmax(logits / temperature).

    Attributes:
        logits: float64 `[C, K]`, zero at the start (uniform); entries outside `valid` stay zero.
        valid: bool `[C, K]`, which entries are choices.

    Raises:
        InputError: where the temperature is no positive number or there is nothing to choose.
    """

    def __init__(self, space: Space, temperature: float):
        if not space.num_choices:
            raise InputError(f"there is nothing to search: {space.name} has no OneOf")
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"the controller's temperature must be a positive number, not {temperature}")
        self.space = space
        self.temperature = temperature

        sizes = np.array(space.sizes)
        self.valid = np.arange(sizes.max()) < sizes[:, None]
        self.logits = np.zeros(self.valid.shape)

        self._is_op = np.array([point.oneof.tag == OP for point in space.points])
        self._enabled_index = np.full(space.num_choices, ALL)
        for position, widest in space.widest_indices.items():
            self._enabled_index[position] = widest
        self._levels = _nesting_levels(space)
        self._row_starts = np.arange(space.num_choices) * self.valid.shape[1]

    def log_probabilities(self) -> np.ndarray:
        """float64 `[C, K]`: log of the probability of every choice of every OneOf; -inf outside `valid`."""
        scaled = np.where(self.valid, self.logits / self.temperature, -np.inf)
        scaled -= scaled.max(axis=1, keepdims=True)
        return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))

    def probabilities(self) -> np.ndarray:
        """float64 `[C, K]`: the probability of every choice of every OneOf; 0 outside `valid`."""
        return np.exp(self.log_probabilities())

    def sample(
        self, rng: np.random.Generator, n: int, op_probability: float = 0.0, filters_probability: float = 0.0
    ) -> Samples:
        """Draws `n` architectures.

        One number of `rng` per architecture and OneOf, architecture by architecture: the first ones are the same
        however many are drawn, so processes that share a generator's state see the same architectures.

        Args:
            rng: where the numbers come from.
            n: how many.
            op_probability: probability of enabling all ops of an OP OneOf, each drawn on its own.
            filters_probability: the same for the widest choice of a FILTERS OneOf.

        Raises:
            InputError: where a probability is not between 0 and 1.
        """
        for name, probability in (("op", op_probability), ("filters", filters_probability)):
            if not 0 <= probability <= 1:
                raise InputError(f"the probability of the {name} warmup must be between 0 and 1, not {probability}")
        enable = np.where(self._is_op, float(op_probability), float(filters_probability))
        log_probs = self.log_probabilities()
        thresholds = _thresholds(np.exp(log_probs), self.valid, enable)
        # 0 where the logarithm is infinite: such an event does not happen.
        log_enabled = np.log(enable, where=enable > 0, out=np.zeros_like(enable))
        log_disabled = np.log1p(-enable, where=enable < 1, out=np.zeros_like(enable))
        log_taken = (np.where(self.valid, log_probs, 0.0) + log_disabled[:, None]).ravel()

        count = self.space.num_choices
        indices = np.empty((n, count), np.int64)
        enabled = np.zeros((n, count), bool)
        active = np.ones((n, count), bool)
        log_prob = np.empty(n)
        for start in range(0, n, CHUNK):
            rows = slice(start, min(start + CHUNK, n))
            uniform = rng.random((rows.stop - start, count))
            drawn = _interval(uniform, thresholds)
            log_probs_drawn = log_taken[drawn + self._row_starts]
            indices[rows] = drawn
            if enable.any():
                np.less(uniform, enable, out=enabled[rows])
                np.copyto(indices[rows], self._enabled_index, where=enabled[rows])
                np.copyto(log_probs_drawn, log_enabled, where=enabled[rows])
            self._find_active(indices[rows], enabled[rows], active[rows])
            log_prob[rows] = np.einsum("nc,nc->n", log_probs_drawn, active[rows])
        return Samples(indices, enabled, active, log_prob)

    def _find_active(self, indices: np.ndarray, enabled: np.ndarray, active: np.ndarray) -> None:
        """Sets `active`, which is all True, to False outside the choices taken."""
        for positions, parents, parent_choices in self._levels[1:]:
            taken = (indices[:, parents] == parent_choices) | enabled[:, parents]
            active[:, positions] = taken & active[:, parents]

    def most_likely(self) -> Architecture:
        """The architecture of the most likely choice of every OneOf; of equally likely ones the first."""
        return Architecture(self.space, tuple(np.where(self.valid, self.logits, -np.inf).argmax(axis=1).tolist()))

    def log_prob(self, indices: np.ndarray) -> np.ndarray:
        """float64 `[N]`: log-probability of architectures `[N, C]`, summed over active OneOfs."""
        active = np.ones(indices.shape, bool)
        self._find_active(indices, np.zeros(indices.shape, bool), active)
        log_probs = np.where(self.valid, self.log_probabilities(), 0.0).ravel()
        return np.einsum("nc,nc->n", log_probs[indices + self._row_starts], active)

    def likeliest_within(
        self, costs_of: Callable[[np.ndarray], np.ndarray], target: float, tolerance: float
    ) -> Architecture:
        """`most_likely` if its cost is within `tolerance` · `target` of the target; else the likeliest architecture of
        which that is true, of those that differ from it in at most two choices; where it is true of none, the one
        nearest to the target.

        Args:
            costs_of: indices `[N, C]` -> costs `[N]`.
            target: the cost to land on, above 0.
            tolerance: relative to the target, above 0.
        """
        most_likely = self.most_likely()
        best = np.array([most_likely.indices])
        allowed = tolerance * target
        if abs(costs_of(best)[0] - target) <= allowed:
            return most_likely
        candidates = self._near(best)
        outside = np.maximum(np.abs(costs_of(candidates) - target) - allowed, 0.0)
        nearest = candidates[np.lexsort((-self.log_prob(candidates), outside))[0]]
        return Architecture(self.space, tuple(nearest.tolist()))

    def _near(self, best: np.ndarray) -> np.ndarray:
        """`[N, C]`: the architecture `[1, C]` itself, all that differ from it in one choice, and all that differ in two
        of the `PAIRED` likeliest changes."""
        position, choice = np.nonzero(self.valid & (np.arange(self.valid.shape[1]) != best.T))
        single = best.repeat(len(position), axis=0)
        np.put_along_axis(single, position[:, None], choice[:, None], 1)
        in_use = np.array(active_positions(self.space, best[0].tolist()))
        paired = np.lexsort((-self.log_prob(single), ~in_use[position]))[:PAIRED]
        first, second = paired[np.array(np.triu_indices(len(paired), 1))]
        double = single[first]
        np.put_along_axis(double, position[second, None], choice[second, None], 1)
        return np.concatenate([best, single, double])

    def choice_log_probs(self, samples: Samples) -> np.ndarray:
        """float64 `[N, C]`: log-probability of every choice that was drawn, whoever drew it; 0 for OneOfs that are not
        active or were enabled as a whole, which every controller does alike."""
        drawn = samples.active & ~samples.enabled
        log_probs = np.where(self.valid, self.log_probabilities(), 0.0).ravel()
        return drawn * log_probs[np.where(drawn, samples.indices, 0) + self._row_starts]

    def log_prob_gradient(self, samples: Samples) -> np.ndarray:
        """float64 `[N, C, K]`: gradient of each architecture's log-probability with respect to the logits.

        `active and not enabled` · (one-hot − softmax) / temperature. Only for samples drawn with the present logits.
        """
        counts = (samples.active & ~samples.enabled) / self.temperature
        gradient = -counts[:, :, None] * self.probabilities()
        taken = np.where(samples.enabled, 0, samples.indices)[:, :, None]
        np.put_along_axis(gradient, taken, np.take_along_axis(gradient, taken, 2) + counts[:, :, None], 2)
        return gradient

    def entropy(self) -> float:
        """Entropy (nats) of the distribution over architectures, where OneOfs outside the choices taken do not
        count."""
        probs, log_probs = self._probabilities_or_zero()
        # Worth of a choice: its own surprise plus the entropy of everything inside it. Inner OneOfs are added first.
        worth = -log_probs
        for positions, parents, parent_choices in reversed(self._levels[1:]):
            np.add.at(worth, (parents, parent_choices), (probs[positions] * worth[positions]).sum(axis=1))
        return float((probs * worth)[self._levels[0][0]].sum())

    def branch_entropies(self, samples: Samples) -> np.ndarray:
        """float64 `[N]`: the sum of the own entropies (nats) of the OneOfs that each architecture makes active, which
        is what the original's bonus counts (docs/algorithm.md#controller)."""
        probs, log_probs = self._probabilities_or_zero()
        return samples.active @ -(probs * log_probs).sum(axis=1)

    def branch_entropy_gradient(self, samples: Samples) -> np.ndarray:
        """float64 `[C, K]`: gradient of the mean of `branch_entropies` with respect to the logits; the architectures
        count as given."""
        probs, log_probs = self._probabilities_or_zero()
        own = -(probs * log_probs).sum(axis=1, keepdims=True)
        return samples.active.mean(axis=0)[:, None] * -probs * (log_probs + own) / self.temperature

    def _probabilities_or_zero(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and their logarithms, both 0 outside `valid`."""
        log_probs = self.log_probabilities()
        return np.exp(log_probs), np.where(self.valid, log_probs, 0.0)

    def logit_names(self) -> Iterator[tuple[str, float]]:
        """(tag, value) of every logit, by path and by number within its kind: `rlpathlogits/<path>/<choice>` for all,
        then `rltaglogits/<tag>_<n>/<choice>`."""
        path_tags, tag_tags = self._logit_tags
        values = self.logits[self.valid].tolist()
        yield from zip(path_tags, values, strict=True)
        yield from zip(tag_tags, values, strict=True)

    @functools.cached_property
    def _logit_tags(self) -> tuple[list[str], list[str]]:
        counts = {OP: 0, FILTERS: 0}
        paths, tags = [], []
        for point in self.space.points:
            number = counts[point.oneof.tag]
            counts[point.oneof.tag] += 1
            paths += [f"rlpathlogits/{point.path}/{choice}" for choice in range(point.size)]
            tags += [f"rltaglogits/{point.oneof.tag}_{number}/{choice}" for choice in range(point.size)]
        return paths, tags


def _nesting_levels(space: Space) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """OneOfs by how many OneOfs are around them: (positions, parents, choices of the parents), outermost first."""
    depth: dict[int, int] = {}
    for position in reversed(range(space.num_choices)):  # a parent comes after its children
        parent = space.points[position].parent
        depth[position] = 0 if parent is None else depth[parent] + 1
    levels = []
    for level in range(max(depth.values()) + 1):
        positions = [position for position in range(space.num_choices) if depth[position] == level]
        points = [space.points[position] for position in positions]
        parents = [-1 if point.parent is None else point.parent for point in points]
        levels.append((np.array(positions), np.array(parents), np.array([point.parent_choice for point in points])))
    return levels


def _thresholds(probs: np.ndarray, valid: np.ndarray, enable: np.ndarray) -> np.ndarray:
    """`[K - 1, C]`: a uniform number below `enable` enables the OneOf; the rest of 0..1 is divided among the choices at
    these ends."""
    ends = enable[:, None] + (1 - enable[:, None]) * np.cumsum(probs, axis=1)[:, :-1]
    return np.where(valid[:, 1:], ends, np.inf).T.copy()  # no end after the last choice, whatever the rounding


def _interval(uniform: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """int64 `[n, C]`: in which interval between thresholds each number lies."""
    below = np.zeros(uniform.shape, np.int8 if len(thresholds) < 128 else np.int64)
    for row in thresholds:
        below += uniform >= row
    return below.astype(np.int64)
