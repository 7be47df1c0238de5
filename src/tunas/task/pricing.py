"""What pricing a space takes, as a run took it that is read back. Imports no torch where it can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cost_arguments(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What pricing a space takes beside its name, as the run with these parameters took it."""
    if params.get("task"):
        from tunas.task.opening import named_task

        return named_task(params["task"]).cost_arguments
    return {name: params[name] for name in ("image_size", "num_classes") if name in params}
