"""How long a run still takes, where its steps do not all take the same time."""

from __future__ import annotations

import numpy as np

FORWARD_WORK = 1 / 6
"""What a forward pass alone takes of a training step on as many examples. Multiply-accumulates would make it a third;
on processors 0.1 to 0.2 was measured, as nothing is kept for a backward pass and shares are larger."""
PRIOR_STEPS = 5.0
"""Measured steps that weigh as much as what is assumed beforehand of the parts of a step."""
MEMORY = 30
"""Steps that tell how fast the machine is at present."""


class TimeLeft:
    """Learns from the time that steps took how long a unit of each of their parts takes.

    In a search the first steps run every operation of a choice at once, those after them measure no accuracy, the rest
    do: the mean of the steps so far says little about those to come. What a step consists of is known beforehand, and
    about what each part costs; the times of the steps put that right (ridge regression towards what was assumed).

    Args:
        work: `[steps, parts]`, what each step of the run consists of, in any unit that is about the same for all parts.
        start: steps done before.
    """

    def __init__(self, work: np.ndarray, start: int = 0):
        self.work = np.asarray(work, np.float64)
        parts = self.work.shape[1]
        self._to_come = np.zeros((len(self.work) + 1, parts))
        self._to_come[:-1] = self.work[::-1].cumsum(axis=0)[::-1]
        self._products, self._times = np.zeros((parts, parts)), np.zeros(parts)
        self._seconds = self._amount = self._recent = self._recent_expected = 0.0
        self.done = start

    def took(self, seconds: float) -> None:
        """Notes how long the next step took."""
        row = self.work[self.done]
        self.done += 1
        self._products += np.outer(row, row)
        self._times += row * seconds
        self._seconds += seconds
        self._amount += row.sum()
        keep = 1 - 1 / MEMORY
        self._recent = keep * self._recent + seconds
        self._recent_expected = keep * self._recent_expected + float(row @ self._rates())

    def _rates(self) -> np.ndarray:
        """Seconds for a unit of each part."""
        if not self._amount:
            return np.zeros(self.work.shape[1])
        mean = self._seconds / self._amount
        steady = PRIOR_STEPS * np.diag(np.square(self.work).mean(axis=0) + 1e-12)
        off = np.linalg.solve(self._products + steady, self._times - self._products.sum(axis=1) * mean)
        return np.maximum(mean + off, 0.0)

    def seconds(self) -> float | None:
        """How long the steps that are left take; None while nothing is known."""
        if not self._recent_expected:
            return None
        return float(self._to_come[self.done] @ self._rates()) * self._recent / self._recent_expected


def in_words(seconds: float | None) -> str:
    """`1:02:03 left`, `4:05 left`; nothing where nothing is known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"
