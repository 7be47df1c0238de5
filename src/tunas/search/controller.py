"""The controller: one categorical distribution per OneOf, learned with REINFORCE (docs/algorithm.md#controller; Bender
et al. 2020).

NumPy only and batched: N architectures are an int array `[N, C]`, where C is the number of OneOfs, and logits are
padded to `[C, K]`, where K is the size of the largest. No step loops over OneOfs, only over the few levels of nesting.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunas.errors import DivergedError, InputError
from tunas.space import ALL, FILTERS, OP, Architecture, Space, active_positions

BASELINE_MOMENTUM = 0.95
"""Momentum of the moving average of the reward (docs/algorithm.md#controller)."""
ADAM_BETA2 = 0.999
"""Momentum of Adam's second moment; the first has none (docs/algorithm.md#controller)."""
ADAM_EPSILON = 1e-8
PAIRED = 256
"""Single changes of the most likely architecture that are also tried two at a time to meet a cost: the likeliest."""
CHUNK = 2048
"""Architectures drawn at a time, so that the work stays in cache."""


@dataclass(frozen=True, eq=False)
class Samples:
    """N architectures drawn from a controller.

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


class Controller:
    """The distribution over a space's architectures and the state of its optimiser.

    Args:
        space: what is searched; has at least one OneOf.
        momentum: of the reward baseline.
        temperature: probabilities are softmax(logits / temperature).
        beta2: momentum of Adam's second moment.
        epsilon: of Adam.

    Attributes:
        logits: float64 `[C, K]`, zero at the start (uniform); entries outside `valid` stay zero.
        valid: bool `[C, K]`, which entries are choices.

    Raises:
        InputError: where an argument is out of range or there is nothing to choose.
    """

    def __init__(
        self,
        space: Space,
        *,
        momentum: float = BASELINE_MOMENTUM,
        temperature: float = 1.0,
        beta2: float = ADAM_BETA2,
        epsilon: float = ADAM_EPSILON,
    ):
        if not space.num_choices:
            raise InputError(f"there is nothing to search: {space.name} has no OneOf")
        for name, value in (("momentum", momentum), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise InputError(f"the controller's {name} must be at least 0 and below 1, not {value}")
        for name, value in (("temperature", temperature), ("epsilon", epsilon)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"the controller's {name} must be a positive number, not {value}")
        self.space = space
        self.momentum = momentum
        self.temperature = temperature
        self.beta2 = beta2
        self.epsilon = epsilon

        sizes = np.array(space.sizes)
        self.valid = np.arange(sizes.max()) < sizes[:, None]
        self.logits = np.zeros(self.valid.shape)
        self.second_moment = np.zeros(self.valid.shape)
        self.num_updates = 0
        self.reward_average = 0.0  # biased towards 0; `baseline` takes the bias out

        self._is_op = np.array([point.oneof.tag == OP for point in space.points])
        self._enabled_index = np.full(space.num_choices, ALL)
        for position, widest in space.widest_indices.items():
            self._enabled_index[position] = widest
        self._levels = _nesting_levels(space)
        self._row_starts = np.arange(space.num_choices) * self.valid.shape[1]

    @property
    def baseline(self) -> float:
        """Moving average of the mean reward, without the bias towards its start (zero-debiased); 0 before the first
        update."""
        return self.reward_average / (1 - self.momentum**self.num_updates) if self.num_updates else 0.0

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

    def cost_gradient(
        self,
        rng: np.random.Generator,
        n: int,
        cost_reward: Callable[[np.ndarray], np.ndarray],
        op_probability: float = 0.0,
        filters_probability: float = 0.0,
    ) -> np.ndarray:
        """float64 `[C, K]`: unbiased estimate of the gradient of the expected `cost_reward` from `n` architectures that
        never run.

        For a reward that is a sum of quality and a term of the cost alone (`abs`): pricing is cheap, so the gradient of
        the cost's part need not come from the few architectures that run. Each is compared with the mean of the others.

        Args:
            rng: where the architectures come from.
            n: how many; at least 2.
            cost_reward: indices `[n, C]`, which may hold `ALL`, -> the cost's part of the reward, `[n]`.
            op_probability: as for `sample`.
            filters_probability: as for `sample`.

        Raises:
            InputError: where `n` is below 2.
        """
        if n < 2:
            raise InputError(f"a cost gradient takes at least 2 architectures, not {n}")
        samples = self.sample(rng, n, op_probability, filters_probability)
        rewards = np.asarray(cost_reward(samples.indices), np.float64)
        advantages = (rewards - rewards.mean()) * n / (n - 1)
        weights = (samples.active & ~samples.enabled) * (advantages / (n * self.temperature))[:, None]
        entries = np.where(samples.enabled, 0, samples.indices) + self._row_starts
        taken = np.bincount(entries.ravel(), weights.ravel(), self.logits.size).reshape(self.logits.shape)
        return taken - weights.sum(axis=0)[:, None] * self.probabilities()

    def update(
        self,
        samples: Samples,
        rewards: np.ndarray,
        learning_rate: float,
        entropy_regularization: float = 0.0,
        cost_gradient: np.ndarray | None = None,
    ) -> dict[str, float]:
        """One step of REINFORCE on the architectures that the replicas ran.

        The baseline takes in the mean reward first; then each replica's gradient is its reward's distance from the
        baseline times its log-probability's gradient. Adam without a first moment, in TensorFlow's form, follows their
        mean, and its second moment averages the replicas' squares. All moments move even while the learning rate is 0.
        The entropy bonus, of the branches that the replicas sampled, is plain gradient ascent with the same learning
        rate.

        Args:
            samples: drawn with the present logits.
            rewards: `[N]`, one per sample, larger is better; with `cost_gradient`, the quality alone.
            learning_rate: of this step.
            entropy_regularization: weight of `branch_entropies` in what is maximised.
            cost_gradient: `[C, K]` as from `cost_gradient`; added to every replica's gradient.

        Returns:
            What to log: step_baseline (mean reward), baseline, advantage, log_prob, empirical_loss (means over
            replicas), entropy (of the whole distribution) and entropy_loss (of the bonus), all from before the step.

        Raises:
            InputError: where there is not one reward per sample.
            DivergedError: where a reward is not finite.
        """
        rewards = np.asarray(rewards, np.float64)
        step_baseline = self._take_in(samples, rewards)
        advantages = rewards - self.baseline

        gradients = advantages[:, None, None] * self.log_prob_gradient(samples)
        if cost_gradient is not None:
            gradients += cost_gradient
        squares = np.einsum("nck,nck->ck", gradients, gradients) / len(samples)
        found = self._ascend(samples, gradients.mean(axis=0), squares, learning_rate, entropy_regularization)
        return {**_said(step_baseline, self.baseline, advantages, samples), **found}

    def take_in(self, samples: Samples, rewards: np.ndarray) -> dict[str, float]:
        """The first half of `update`, where the second is `follow`: the baseline takes in the rewards of the
        controller's own replicas. Arguments and errors as there; what it returns, but for the entropies."""
        rewards = np.asarray(rewards, np.float64)
        step_baseline = self._take_in(samples, rewards)
        return _said(step_baseline, self.baseline, rewards - self.baseline, samples)

    def follow(
        self,
        own: Samples,
        everyone: Samples,
        advantages: np.ndarray,
        weights: np.ndarray,
        learning_rate: float,
        entropy_regularization: float = 0.0,
        cost_gradient: np.ndarray | None = None,
    ) -> dict[str, float]:
        """The second half of `update`, on the architectures of all replicas, whichever controller sampled them.

        Args:
            own: of `everyone`, what this controller sampled.
            everyone: N architectures.
            advantages: `[N]`.
            weights: `[N, C]` or `[N, 1]`: how much more often this controller draws the choice, or the architecture,
                than the controllers do on average.
            learning_rate, entropy_regularization, cost_gradient: as for `update`.

        Returns:
            entropy and entropy_loss, as `update`.
        """
        shared = 0.0 if cost_gradient is None else cost_gradient
        gradients = advantages[:, None, None] * self.log_prob_gradient(everyone)
        gradient = (weights[:, :, None] * gradients).mean(axis=0) + shared
        gradients += shared
        squares = (weights[:, :, None] * np.square(gradients)).mean(axis=0)
        return self._ascend(own, gradient, squares, learning_rate, entropy_regularization)

    def _take_in(self, samples: Samples, rewards: np.ndarray) -> float:
        """The mean reward, which the baseline takes in."""
        if rewards.shape != (len(samples),) or not len(samples):
            raise InputError(
                f"expected {len(samples)} rewards, one per sample, not an array of shape {list(rewards.shape)}"
            )
        if not np.isfinite(rewards).all():
            raise DivergedError(f"the reward of replica {int(np.argmin(np.isfinite(rewards)))} is not finite")
        step_baseline = float(rewards.mean())
        self.num_updates += 1
        self.reward_average = self.momentum * self.reward_average + (1 - self.momentum) * step_baseline
        return step_baseline

    def _ascend(
        self, own: Samples, gradient: np.ndarray, squares: np.ndarray, learning_rate: float, regularization: float
    ) -> dict[str, float]:
        """One step of Adam, whose second moment takes in `squares` `[C, K]`, and of the entropy bonus."""
        self.second_moment = self.beta2 * self.second_moment + (1 - self.beta2) * squares
        entropy, branches = self.entropy(), float(self.branch_entropies(own).mean())
        bonus = self.branch_entropy_gradient(own) if regularization else 0.0
        debiased_rate = learning_rate * math.sqrt(1 - self.beta2**self.num_updates)
        step = debiased_rate * gradient / (np.sqrt(self.second_moment) + self.epsilon)
        self.logits = self.logits + step + learning_rate * regularization * bonus
        return {"entropy": entropy, "entropy_loss": -regularization * branches}

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
        position, choice = np.nonzero(self.valid & (np.arange(self.valid.shape[1]) != best.T))
        single = best.repeat(len(position), axis=0)
        np.put_along_axis(single, position[:, None], choice[:, None], 1)
        in_use = np.array(active_positions(self.space, most_likely.indices))
        paired = np.lexsort((-self.log_prob(single), ~in_use[position]))[:PAIRED]
        first, second = paired[np.array(np.triu_indices(len(paired), 1))]
        double = single[first]
        np.put_along_axis(double, position[second, None], choice[second, None], 1)
        candidates = np.concatenate([best, single, double])
        outside = np.maximum(np.abs(costs_of(candidates) - target) - allowed, 0.0)
        return Architecture(
            self.space, tuple(candidates[np.lexsort((-self.log_prob(candidates), outside))[0]].tolist())
        )

    def choice_log_probs(self, samples: Samples) -> np.ndarray:
        """float64 `[N, C]`: log-probability of every choice that was drawn, whoever drew it; 0 for OneOfs that are not
        active or were enabled as a whole, which every controller does alike."""
        drawn = samples.active & ~samples.enabled
        log_probs = np.where(self.valid, self.log_probabilities(), 0.0).ravel()
        return drawn * log_probs[np.where(drawn, samples.indices, 0) + self._row_starts]

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on exactly here: arrays (copies) and plain numbers."""
        return {
            "sizes": np.array(self.space.sizes),
            "logits": self.logits.copy(),
            "second_moment": self.second_moment.copy(),
            "num_updates": self.num_updates,
            "reward_average": self.reward_average,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            InputError: where a part is missing or does not fit the space; the controller is then as it was.
        """
        if missing := self.state_dict().keys() - state.keys():
            raise InputError(f"the controller's state lacks {', '.join(sorted(missing))}")
        if np.asarray(state["sizes"]).tolist() != list(self.space.sizes):
            raise InputError(
                f"the controller's state belongs to another space than {self.space.name}: its OneOfs have other sizes"
            )
        arrays = {}
        for name in ("logits", "second_moment"):
            value = np.array(state[name], np.float64)
            if value.shape != self.logits.shape:
                raise InputError(
                    f"the controller's {name} must have shape {list(self.logits.shape)}, not {list(value.shape)}"
                )
            if not np.isfinite(value).all():
                raise InputError(f"the controller's {name} holds a value that is not finite")
            arrays[name] = value
        num_updates, reward_average = int(state["num_updates"]), float(state["reward_average"])
        if num_updates < 0 or not math.isfinite(reward_average) or (arrays["second_moment"] < 0).any():
            raise InputError(
                "the controller's state holds a count or a second moment below 0, or a baseline that is not finite"
            )
        self.logits, self.second_moment = arrays["logits"], arrays["second_moment"]
        self.num_updates, self.reward_average = num_updates, reward_average

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


def _said(step_baseline: float, baseline: float, advantages: np.ndarray, samples: Samples) -> dict[str, float]:
    return {
        "step_baseline": step_baseline,
        "baseline": baseline,
        "advantage": float(advantages.mean()),
        "log_prob": float(samples.log_prob.mean()),
        "empirical_loss": float(-(advantages * samples.log_prob).mean()),
    }


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
