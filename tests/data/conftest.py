from __future__ import annotations

import functools
from pathlib import Path

import pytest

from support.rendered import WRITERS, Rendered, rendered

cached_rendering = functools.cache(rendered)


@pytest.fixture(scope="session")
def pictures() -> Rendered:
    return cached_rendering("PNG")


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(layout, PNG or JPEG) -> directory. Read only."""
    root = tmp_path_factory.mktemp("datasets")
    kinds = ("PNG", "JPEG")
    return {
        (layout, kind): write(root / kind / layout, cached_rendering(kind))
        for layout, write in WRITERS.items()
        for kind in kinds
    }
