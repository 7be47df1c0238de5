"""TuNAS for PyTorch: neural architecture search that lands on the latency you asked for.

The names below are the public interface; each is imported when first used, so that `import tunas` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Architecture": "tunas.space",
    "Space": "tunas.space",
    "OneOf": "tunas.space",
    "get_space": "tunas.space",
    "register_layer": "tunas.space",
    "register_space": "tunas.space",
    "space_names": "tunas.space",
    "CostModel": "tunas.cost",
    "load_cost_model": "tunas.cost",
    "InputError": "tunas.errors",
    "SuperNet": "tunas.nn",
    "build_network": "tunas.nn",
    "space_around": "tunas.nn.timm_space",
    "SearchConfig": "tunas.search.config",
    "search": "tunas.search.loop",
    "Task": "tunas.task",
    "Metric": "tunas.task",
    "TrainConfig": "tunas.train.config",
    "train": "tunas.train.loop",
    "load_network": "tunas.train.trained",
    "ExportConfig": "tunas.export.config",
    "export": "tunas.export.export",
    "DesignConfig": "tunas.design.config",
    "design": "tunas.design.design",
    "PredictConfig": "tunas.export.predict_config",
    "predict": "tunas.export.predict",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tunas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
