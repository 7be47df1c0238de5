from __future__ import annotations

import functools
from pathlib import Path

import pytest
from rendered import WRITERS, Rendered, rendered

from tunas.data import Data, DataConfig, open_data

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


def opened(directory: Path | str, cache: Path | None = None, **settings: object) -> Data:
    """The dataset at 32 pixels, decoded by this process, unless told otherwise."""
    config = {"image_size": 32, "num_workers": 0, "cache_dir": str(cache) if cache else None} | settings
    return open_data(DataConfig(dataset_dir=str(directory), **config))  # type: ignore[arg-type]
