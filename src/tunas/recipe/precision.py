"""In which precision networks compute."""

from __future__ import annotations

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which `bf16` computes in bfloat16, and `fp32` as usual."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
