"""`tunas report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ReportConfig:
    """One self-contained HTML page about searches, trainings, studies, designs, exported models and fitted cost models:
    what happened, and what was found."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run directories, directories of studies, designs and exported models, and cost models; several are shown side by
    side."""

    out: str = "report.html"
    """The page. The numbers that it shows go beside it, with .json in place of .html."""


def run(config: ReportConfig) -> None:
    from tunas.report.page import write_page

    print(f"wrote {write_page(config.runs, config.out)}")
