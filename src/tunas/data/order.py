"""Which examples make up which batch, as a function of the step alone.

Randomness is Philox by its counter (Salmon et al. 2011): a draw depends on the numbers that name it and on nothing
drawn before. Only raw 64-bit output is used, which numpy guarantees to stay the same, never its distributions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

from tunas.errors import InputError

_WORD = 2**64
Order = Iterator[tuple[np.ndarray, np.ndarray]]
"""For every step, epochs and examples (their places in the split), int64 `[n]` each."""
ORDER, AUGMENTATION, GROUP_ORDER = 1, 2, 3
"""Purposes of a draw: streams with different purposes share nothing."""


def random_words(count: int, seed: int, purpose: int, first: int, second: int) -> np.ndarray:
    """uint64 array `[count]`, a function of the arguments; `first` and `second` tell draws of one purpose apart."""
    generator = np.random.Philox(
        key=np.array([seed % _WORD, purpose], np.uint64), counter=np.array([0, first, second, 0], np.uint64)
    )
    return generator.random_raw(count)


def uniform(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from uint64."""
    return (words >> np.uint64(11)) * 2.0**-53


@functools.lru_cache(maxsize=6)
def permutation(size: int, seed: int, split: int, epoch: int) -> np.ndarray:
    """int64 array `[size]`: the order in which an epoch goes through a split. Read-only."""
    order = np.argsort(random_words(size, seed, ORDER, epoch, split), kind="stable")
    order.setflags(write=False)
    return order


WINDOW = 1024
"""Images that are shuffled together where they are stored in groups that are read as a whole."""


def windows(groups: np.ndarray) -> np.ndarray | None:
    """The group of every example of a split, numbered from 0; None where one window holds all, so that groups do not
    matter to the order.

    Args:
        groups: ascending numbers `[size]` of what is read as a whole.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    return numbers if numbers[-1] + 1 > _groups_in_window(numbers) else None


def _groups_in_window(groups: np.ndarray) -> int:
    """How many groups make a window."""
    count = int(groups[-1]) + 1
    return max(2, math.ceil(WINDOW * count / len(groups)))


def windowed_permutation(groups: np.ndarray, seed: int, split: int, epoch: int) -> np.ndarray:
    """int64 array `[size]`: an order of a split in which a stretch of about `WINDOW` examples comes from few groups.

    Groups are shuffled, then the examples of so many groups, which follow each other, as make a window.

    Args:
        groups: as `windows` gives them.
    """
    words = random_words(len(groups), seed, ORDER, epoch, split)
    count = int(groups[-1]) + 1
    place_of = np.empty(count, np.int64)
    place_of[np.argsort(random_words(count, seed, GROUP_ORDER, epoch, split), kind="stable")] = np.arange(count)
    return np.lexsort((words, place_of[groups] // _groups_in_window(groups)))


def check_shard(batch_size: int, shard: tuple[int, int], *, divides: bool) -> None:
    """Refuses a batch size or a shard that cannot be; with `divides`, a batch that shards cannot share equally."""
    part, parts = shard
    if batch_size < 1:
        raise InputError(f"a batch size is at least 1, not {batch_size}")
    if parts < 1 or not 0 <= part < parts:
        raise InputError(f"a shard is (part, parts) with 0 <= part < parts, not ({part}, {parts})")
    if divides and batch_size % parts:
        raise InputError(f"a batch of {batch_size} images cannot be divided equally among {parts} processes")


def stream_order(
    size: int,
    batch_size: int,
    seed: int,
    split: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    groups: np.ndarray | None = None,
) -> Order:
    """Endless (epoch, example) pairs of int64 arrays `[batch_size / parts]`, one pair a step.

    The global batch of step s covers positions [s·B, (s+1)·B) of the epochs' permutations laid end to end; shard (k, n)
    gets the k-th of n equal contiguous parts of it. Where there are `groups` (see `windows`), the permutations keep
    each group's examples close together.
    """
    of_epoch: Callable[[int], np.ndarray]
    if groups is None:
        of_epoch = functools.partial(permutation, size, seed, split)
    else:
        of_epoch = functools.lru_cache(maxsize=2)(functools.partial(windowed_permutation, groups, seed, split))
    check_shard(batch_size, shard, divides=True)
    part, parts = shard
    length = batch_size // parts
    step = start_step
    while True:
        start = step * batch_size + part * length
        epoch, offset = divmod(start, size)
        if offset + length <= size:
            yield np.full(length, epoch), of_epoch(epoch)[offset : offset + length]
        else:
            epochs, offsets = np.divmod(np.arange(start, start + length), size)
            examples = np.empty(length, np.int64)
            for each in range(epochs[0], epochs[-1] + 1):
                here = epochs == each
                examples[here] = of_epoch(int(each))[offsets[here]]
            yield epochs, examples
        step += 1


def shard_range(size: int, shard: tuple[int, int]) -> tuple[int, int]:
    """[start, stop) of the k-th of n nearly equal contiguous parts: over all parts every example exactly once."""
    part, parts = shard
    return part * size // parts, (part + 1) * size // parts
