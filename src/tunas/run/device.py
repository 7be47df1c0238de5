"""What a run runs on: the device, and the processes of a `torchrun` job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tunas.errors import DivergedError, InputError

BUCKET_BYTES = 64 * 2**20
"""Gradients are exchanged in pieces of this size, large enough that latency does not matter."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, longer than the first one takes to decode ImageNet's held-out part. One that
ends is noticed at once; this is for one that hangs."""
FAREWELL = timedelta(seconds=5)
"""How long a process that ends with an error waits for others that may end with the same one."""

T = TypeVar("T")


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
        """Whether this is the first process, which writes."""
        return self.rank == 0

    def sum_(self, vector: Tensor) -> None:
        """Replaces a contiguous 1-D tensor by its sum over the processes."""
        if self.size > 1:
            handles = [
                dist.all_reduce(piece, async_op=True) for piece in vector.split(BUCKET_BYTES // vector.element_size())
            ]
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
        """Whether `flag` is set in any process; waits for all of them."""
        if self.size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(count)
        return bool(count.item())

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone does it, handed to all.

        Raises:
            InputError, DivergedError: in every process, where the first one raises it.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except (InputError, DivergedError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        result, failure = outcome
        if failure is not None:
            failure.told = not self.is_main  # once is enough
            raise failure
        return result

    @torch.no_grad()
    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each floating tensor by its mean over the processes."""
        wanted = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.size == 1 or not wanted:
            return
        vector = torch.cat([tensor.reshape(-1) for tensor in wanted])
        self.sum_(vector)
        vector /= self.size
        for tensor, mean in zip(wanted, vector.split([tensor.numel() for tensor in wanted]), strict=True):
            tensor.copy_(mean.view_as(tensor))


class Votes:
    """Whether a flag is set in any process, asked at every step without waiting for the others: with several processes
    the answer is that of the step before."""

    def __init__(self, world: World):
        self._world = world
        self._pending: tuple[Tensor, Any] | None = None

    def cast(self, flag: bool) -> bool:
        """Hands in this step's flag; the same answer in every process."""
        if self._world.size == 1:
            return flag
        count = torch.tensor(float(flag), device=self._world.device)
        earlier, self._pending = self._pending, (count, dist.all_reduce(count, async_op=True))
        if earlier is None:
            return False
        earlier[1].wait()
        return bool(earlier[0].item())


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[World]:
    """Joins the job that `torchrun` started, one process a device; alone without it.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        InputError: where there is no such device, or not one for every process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    where = chosen_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if where.type == "cuda":
        torch.cuda.set_device(where)
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = False
    if size > 1 and (":" in device or where.type == "mps"):
        raise InputError(
            f"device {device!r} is one device, but {size} processes run: use --device=cuda, where each takes its "
            f"own, or cpu"
        )
    starts = size > 1 and not dist.is_initialized()
    if starts:
        backend = "nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=_store(rank, size),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
            device_id=where if backend == "nccl" else None,
        )
    try:
        yield World(rank, size, where)
    except Exception as error:
        if starts and not isinstance(error, RuntimeError):  # which is how a broken exchange appears
            _await_others()
        raise
    if starts:  # not after an error: the others may be in the middle of an exchange, which ends when this process does
        dist.destroy_process_group()


def _store(rank: int, size: int) -> dist.Store:
    """Where the processes learn each other's addresses.

    After an elastic restart torchrun's store still holds the addresses of the processes that are gone
    (pytorch/pytorch#135712), so each attempt has names of its own. Over several machines the attempts' numbers may
    differ: docs/cluster.md says what to set.
    """
    store, _, _ = next(iter(dist.rendezvous("env://", rank, size, timeout=PATIENCE)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt-{attempt}", store) if os.environ.get("LOCAL_WORLD_SIZE") == str(size) else store


def _await_others() -> None:
    """Where all processes end for the same reason, none should see another one vanish first and report that instead."""
    if dist.get_backend() == "gloo":
        with contextlib.suppress(RuntimeError):
            dist.monitored_barrier(timeout=FAREWELL)


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
