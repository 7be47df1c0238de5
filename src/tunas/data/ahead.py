"""Making the next batch while the last one is used, and waiting for it such that a run can still be stopped."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

POLL = 0.25
"""Seconds between two looks at whether the run was asked to stop."""
CLOSING = 10.0
"""Seconds that closing waits for the item in the making, after which the thread is left to itself."""
T = TypeVar("T")

_asked_to_stop: Callable[[], bool] = lambda: False  # noqa: E731


class WaitingStopped(Exception):
    """The run was asked to stop while it waited for a batch that did not come."""


@contextlib.contextmanager
def stopped_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Within the context, waiting for a batch ends with `WaitingStopped` once `asked()`."""
    global _asked_to_stop
    old, _asked_to_stop = _asked_to_stop, asked
    try:
        yield
    finally:
        _asked_to_stop = old


def one_ahead(items: Generator[T], left: Callable[[], object] = lambda: None) -> Generator[T]:
    """The same items, the next one being made by a thread while the last one is used. Closing it closes `items`.

    Args:
        items: made one at a time.
        left: called where the item in the making does not come within `CLOSING` seconds of closing, so that the thread
            is left to itself.

    Raises:
        WaitingStopped: where the run is asked to stop while the next item is waited for (see `stopped_when`).
    """
    wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
    made: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # A daemon: the interpreter does not wait for a thread that waits for a storage.
    thread = threading.Thread(target=_make, args=(items, wanted, made), name="tunas-data", daemon=True)
    thread.start()
    try:
        wanted.put(True)
        while True:
            item = _awaited(made)
            if isinstance(item, _Ended):
                if item.error is not None:
                    raise item.error
                return
            wanted.put(True)
            yield item
    finally:
        wanted.put(False)
        if not sys.is_finalizing():  # when the interpreter ends, daemons do not run any more
            thread.join(CLOSING)
            if thread.is_alive():
                left()


class _Ended:
    """Comes in place of an item behind the last one, with what went wrong, if anything did."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def _make(items: Generator[Any], wanted: queue.SimpleQueue[bool], made: queue.SimpleQueue[Any]) -> None:
    """Makes an item for each True in `wanted`; False ends it."""
    try:
        while wanted.get():
            made.put(next(items))
    except StopIteration:
        made.put(_Ended())
    except BaseException as error:
        made.put(_Ended(error))
    finally:
        items.close()


def _awaited(made: queue.SimpleQueue[Any]) -> Any:
    while True:
        try:
            return made.get(timeout=POLL)
        except queue.Empty:
            if _asked_to_stop():
                raise WaitingStopped from None
