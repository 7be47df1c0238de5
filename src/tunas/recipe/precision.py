"""In which precision networks compute."""

from __future__ import annotations

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which `bf16` computes in bfloat16, and `fp32` as usual."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def multiplies_bf16() -> bool:
    """Whether this machine's processor multiplies bfloat16 numbers by itself, and is not slower with them."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in every version of torch
    known = capabilities() if capabilities else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
