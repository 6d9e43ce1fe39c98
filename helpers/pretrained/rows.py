"""Rows of a data set on a hub, streamed by ``datasets``, never for long
without a sign of life.

``datasets`` itself tries again for minutes when a hub is gone. Here it does
so in a thread of its own; when no row has come for some seconds the hub is
asked for itself, and if it does not answer either, that is the end.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from helpers.errors import InputError
from helpers.pretrained import hub

QUIET = 3.0  # seconds without a row after which the hub is asked
LONGEST = 120.0  # seconds without a row, though the hub answers
AHEAD = 256  # rows read before they are asked for


def stream(name: str, config: str | None = None) -> Iterator[dict]:
    """The rows of a data set's train split, in its order.

    Raises InputError if the hub is gone; what else goes wrong comes as
    ``datasets`` raises it.
    """
    import datasets

    def rows() -> Iterable[dict]:
        return datasets.load_dataset(
            name, config, split="train", streaming=True
        )

    return watched(rows, lambda: ask(name))


def ask(name: str) -> None:
    """Raise InputError unless the hub answers for a data set."""
    from huggingface_hub import HfApi

    if hub.is_offline():
        raise hub.absent(name, "HF_HUB_OFFLINE is set")
    api = HfApi(endpoint=hub.endpoint())
    with hub.told(name):
        hub.within(
            hub.PATIENCE,
            lambda: api.dataset_info(name, timeout=hub.SILENCE),
        )


def watched(
    make: Callable[[], Iterable[dict]], check: Callable[[], None]
) -> Iterator[dict]:
    """The items of ``make()``, made in a thread; ``check`` is called when
    none came for a while, and may raise."""
    ready: queue.Queue = queue.Queue(AHEAD)
    stop = threading.Event()
    how = {"args": (make, ready, stop), "daemon": True}
    threading.Thread(target=_work, **how).start()
    last = time.monotonic()
    try:
        while True:
            try:
                item, error = ready.get(timeout=QUIET)
            except queue.Empty:
                check()
                if time.monotonic() - last > LONGEST:
                    raise InputError(
                        f"the hub answers, but no row came for {LONGEST:.0f} "
                        "seconds; try again, or name a local file"
                    ) from None
                continue
            if error is not None:
                raise error
            if item is None:
                return
            last = time.monotonic()
            yield item
    finally:
        stop.set()  # a thread that waits for a dead hub is left behind


def _work(make, ready: queue.Queue, stop: threading.Event) -> None:
    try:
        for item in make():
            if not _put(ready, (item, None), stop):
                return
        _put(ready, (None, None), stop)
    except BaseException as error:  # the one who waits is to have it
        _put(ready, (None, error), stop)


def _put(ready: queue.Queue, value: tuple, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(value, timeout=0.1)
            return True
        except queue.Full:
            pass
    return False
