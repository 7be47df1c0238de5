"""What the devices of this machine call themselves."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor_name() -> str:
    """What the processor calls itself, and how many cores this process may use."""
    name = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name or platform.processor() or platform.machine()}, {cores} cores"


def gpu_name() -> str:
    """What the CUDA GPU calls itself."""
    import torch

    return torch.cuda.get_device_name()


def no_gpu() -> str | None:
    """Why nothing can run on a CUDA GPU, as the end of a sentence; None where there is one."""
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA GPU, and torch sees none"
