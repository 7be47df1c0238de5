"""`tunas design`."""

from __future__ import annotations

from tunas.design.config import DesignConfig


def run(config: DesignConfig) -> int:
    from tunas.design.design import design
    from tunas.errors import NOT_AS_ASKED

    found = design(config)
    if found is None:
        return 0
    if any(row.complaint for row in found.rows):
        return 1
    return 0 if all(row.within for row in found.rows) else NOT_AS_ASKED
