"""What a run runs on: the device, and the processes of a `torchrun` job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from tunas.errors import InputError

BUCKET_BYTES = 64 * 2**20
"""Gradients are exchanged in pieces of this size, large enough that latency does not matter."""


@dataclass(frozen=True)
class World:
    """This process among those of the job.

    Args:
        rank: from 0; rank 0 writes.
        size: how many processes.
        device: what this one computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, vector: Tensor) -> None:
        """Replaces a contiguous 1-D tensor by its sum over the processes."""
        if self.size > 1:
            handles = [dist.all_reduce(piece, async_op=True) for piece in vector.split(BUCKET_BYTES // vector.element_size())]
            for handle in handles:
                handle.wait()

    def gather(self, values: Tensor) -> Tensor:
        """`[n, …]` of every process, rank by rank, as one `[size · n, …]` tensor on the device."""
        if self.size == 1:
            return values
        pieces = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(pieces, values.contiguous())
        return torch.cat(pieces)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        if self.size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(count)
        return bool(count.item())

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Joins the job that `torchrun` started, one process a device; alone without it.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        InputError: where there is no such device.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    where = chosen_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if where.type == "cuda":
        torch.cuda.set_device(where)
    starts = size > 1 and not dist.is_initialized()
    if starts:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield World(rank, size, where)
    finally:
        if starts:
            dist.destroy_process_group()


def chosen_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device of `--device`; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: where this machine or this build of torch has none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise InputError(f"unknown device {name!r}; known are auto, cpu, cuda, cuda:N and mps")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = int(index) if index else local_rank
        if number >= count:
            raise InputError(f"device {name!r} is not there: this machine shows {count} CUDA devices to torch")
        return torch.device("cuda", number)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError("device 'mps' is not there on this machine")
    return torch.device(kind)
