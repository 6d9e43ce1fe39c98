"""Items made ahead of their use, by a thread of their own."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
WAIT = 0.05  # seconds after which a waiting thread asks whether to go on


def ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """The same items in the same order, up to ``size`` of them made before
    they are asked for.

    What their making raises is raised here, in its place. When the iterator
    is closed (or forgotten) its thread ends, after the item in hand.
    """
    ready: queue.Queue = queue.Queue(size)
    stop = threading.Event()
    maker = threading.Thread(
        target=_make, args=(items, ready, stop), daemon=True
    )
    maker.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()
        maker.join()


def _make(items: Iterable, ready: queue.Queue, stop: threading.Event) -> None:
    """Put (item, None) for each item and (None, error) at the end."""
    try:
        for item in items:
            if not _put(ready, (item, None), stop):
                return
        _put(ready, (None, StopIteration()), stop)
    except BaseException as error:  # the one who waits is to have it
        _put(ready, (None, error), stop)
    finally:
        if hasattr(items, "close"):
            items.close()


def _put(ready: queue.Queue, value: tuple, stop: threading.Event) -> bool:
    """Wait for room; False if nobody wants it any more."""
    while not stop.is_set():
        try:
            ready.put(value, timeout=WAIT)
            return True
        except queue.Full:
            pass
    return False
