"""`tunas quickstart`: a design with other defaults."""

from __future__ import annotations

from dataclasses import dataclass

from tunas.design.config import DesignConfig


@dataclass(frozen=True)
class QuickstartConfig(DesignConfig):
    """`tunas design` on the embedded handwritten digits for a Pixel-1 time, in minutes on two processors, compared with
    random architectures of the same time."""

    out: str = "runs/quickstart"
    """Directory of the design: every part is a run in it."""

    cost_model: str | None = "pixel1"
    """Price with this: pixel1, params, macs, peak_memory, flash, or a file that `tunas fit` wrote."""

    random: int = 3
    """Random architectures of the same cost, trained as the winner is, to see what the search was worth."""

    workers: int = 2
    """Trainings at a time, in processes of this machine."""


def run(config: QuickstartConfig) -> int:
    from tunas.cli import design

    return design.run(config)
