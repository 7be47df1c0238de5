"""Held-out accuracy during a training, and the best weights so far.

The rows of `summary.csv` are kept in every checkpoint, so that a training that goes on writes the same file as one that
was never interrupted. The best weights lie in `best-<step>.safetensors`, written before the checkpoint that knows of
them; what is older is removed after it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunas.errors import InputError
from tunas.run.checkpoint import write_checkpoint
from tunas.run.scores import Row, is_due, write_summary
from tunas.train.evaluation import Evaluation
from tunas.train.weights import AVERAGED, PLAIN

BEST = "best-*.safetensors"


def best_path(directory: Path, step: int) -> Path:
    """Where the best weights lie that were taken after `step` steps."""
    return directory / f"best-{step:010d}.safetensors"


def best_checkpoint(directory: Path) -> Path:
    """The best weights that a training has kept.

    Raises:
        InputError: where it kept none.
    """
    found = sorted(directory.glob(BEST))
    if not found:
        raise InputError(
            f"{directory} holds no best weights: they are kept where accuracy is measured during the training "
            f"(--mode=train_and_eval, --eval_every)"
        )
    return found[-1]


class Scoring:
    """The scores of a training, in one process.

    Args:
        directory: of the run.
        steps: of the whole training.
        every: steps between two scorings; None scores at the end alone.
        epochs_per_step: part of the training examples that a step goes through.
        quality: name of the metric by which one evaluation is better than another, larger being better.
        evaluate: scores the weights as they are, in every process.
    """

    def __init__(
        self,
        directory: Path,
        steps: int,
        every: float | None,
        epochs_per_step: float,
        quality: str,
        evaluate: Callable[[], Evaluation],
    ):
        self.directory, self.steps, self.every, self.epochs_per_step = directory, steps, every, epochs_per_step
        self.quality, self.evaluate = quality, evaluate
        self.rows: list[Row] = []
        self.last: Evaluation | None = None
        self.best_step: int | None = None

    def resume(self, rows: list[Row]) -> None:
        """Goes on with the rows of a checkpoint."""
        self.rows = list(rows)
        kept = [row for row in rows if best_path(self.directory, row["step"]).exists()]
        self.best_step = max(kept, key=lambda row: row[f"eval_{self.quality}"])["step"] if kept else None

    def knows(self, done: int) -> bool:
        """Whether the weights after `done` steps have been scored."""
        return any(row["step"] == done for row in self.rows)

    def best_row(self) -> Row | None:
        """The row of the best weights so far; None before the first scoring."""
        return next((row for row in self.rows if row["step"] == self.best_step), None)

    def after(self, done: int, scalars: dict[str, float]) -> dict[str, float] | None:
        """What to log after `done` steps whose last one had these scalars (none where they are not known any more);
        None where no scoring is due."""
        if not is_due(done, self.steps, self.every):
            return None
        self.last = self.evaluate()
        found = self.last.metrics
        best = self.best_row()
        self.rows.append(
            {
                "epoch": round(done * self.epochs_per_step, 4),
                "step": done,
                "train_loss": scalars.get("model/loss"),
                "learning_rate": scalars.get("model/learning_rate"),
                **{f"eval_{name}": value for name, value in found.items()},
            }
        )
        if best is None or found[self.quality] > best[f"eval_{self.quality}"]:
            self.best_step = done
        return {f"eval/{name}": value for name, value in found.items()}

    def write(self, done: int, tensors: Callable[[], dict[str, Any]]) -> None:
        """Writes what the scoring after `done` steps came to: `summary.csv`, and the weights where they are the best.

        Raises:
            InputError, DivergedError: as `write_checkpoint`.
        """
        write_summary(self.directory, self.rows)
        if self.best_step == done:
            weights = {name: value for name, value in tensors().items() if name.startswith((PLAIN, AVERAGED))}
            write_checkpoint(best_path(self.directory, done), done, weights, {"scores": [self.rows[-1]]})

    def tidy(self) -> None:
        """Once a checkpoint knows of the best weights: removes the ones before."""
        for path in self.directory.glob(BEST):
            if self.best_step is None or path != best_path(self.directory, self.best_step):
                path.unlink(missing_ok=True)

    def status(self, split: str) -> str:
        """The last score in words, for the progress line; nothing where there is none."""
        return f" {split} {self.quality} {self.rows[-1][f'eval_{self.quality}']:.3f}" if self.rows else ""
