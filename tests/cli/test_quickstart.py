"""The quickstart is a design with other defaults."""

import dataclasses

from tunas import DesignConfig
from tunas.cli import design
from tunas.cli.quickstart import QuickstartConfig, run


def test_the_quickstart_is_a_design_for_a_pixel_1_compared_with_random_architectures(monkeypatch):
    told = []
    monkeypatch.setattr(design, "run", lambda config: told.append(config) or 3)
    assert run(QuickstartConfig(seed=1)) == 3
    wanted = DesignConfig(out="runs/quickstart", cost_model="pixel1", random=3, workers=2, seed=1)
    assert dataclasses.asdict(told[0]) == dataclasses.asdict(wanted)
