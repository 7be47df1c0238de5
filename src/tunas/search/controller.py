"""The controller: a distribution over architectures, learned with REINFORCE (docs/algorithm.md#controller; Bender et
al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tunas.errors import DivergedError, InputError
from tunas.search.distribution import Distribution, Samples
from tunas.space import Space

BASELINE_MOMENTUM = 0.95
"""Momentum of the moving average of the reward (docs/algorithm.md#controller)."""
ADAM_BETA2 = 0.999
"""Momentum of Adam's second moment; the first has none (docs/algorithm.md#controller)."""
ADAM_EPSILON = 1e-8


class Controller(Distribution):
    """The distribution over a space's architectures and the state of its optimiser.

    Args:
        space: what is searched; has at least one OneOf.
        momentum: of the reward baseline.
        temperature: probabilities are softmax(logits / temperature).
        beta2: momentum of Adam's second moment.
        epsilon: of Adam.

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
        super().__init__(space, temperature)
        for name, value in (("momentum", momentum), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise InputError(f"the controller's {name} must be at least 0 and below 1, not {value}")
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise InputError(f"the controller's epsilon must be a positive number, not {epsilon}")
        self.momentum = momentum
        self.beta2 = beta2
        self.epsilon = epsilon
        self.second_moment = np.zeros(self.logits.shape)
        self.num_updates = 0
        self.reward_average = 0.0  # biased towards 0; `baseline` takes the bias out

    @property
    def baseline(self) -> float:
        """Moving average of the mean reward, without the bias towards its start (zero-debiased); 0 before the first
        update."""
        return self.reward_average / (1 - self.momentum**self.num_updates) if self.num_updates else 0.0

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
        """The first half of `update`, which `follow` completes: the baseline takes in the rewards of the controller's
        own replicas.

        Returns:
            What `update` does but for the entropies; arguments and errors are the same.
        """
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
        entropy_regularization: float,
        cost_gradient: np.ndarray | None,
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


def _said(step_baseline: float, baseline: float, advantages: np.ndarray, samples: Samples) -> dict[str, float]:
    """What to log of a baseline that has taken in rewards."""
    return {
        "step_baseline": step_baseline,
        "baseline": baseline,
        "advantage": float(advantages.mean()),
        "log_prob": float(samples.log_prob.mean()),
        "empirical_loss": float(-(advantages * samples.log_prob).mean()),
    }
