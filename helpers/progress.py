"""Progress of long work: a bar for a person, lines for the executor.

Under the executor ($BOOK_PROGRESS names a file) a line is appended every
few seconds and nothing reaches the notebook's outputs, so that they stay
the same from run to run; in a live notebook it is a plain text bar.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERVAL = 5.0  # seconds between two lines


class Progress:
    """Counts work done; see ``track``."""

    def __init__(self, label: str, total: float, bar=None, path=None):
        self.label, self.total = label, total
        self.done, self.start = 0.0, time.monotonic()
        self._bar, self._path, self._said = bar, path, self.start

    def update(self, amount: float = 1, note: str = "") -> None:
        """Report ``amount`` more done, with a short note (``loss 3.1``)."""
        self.done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif self._path and time.monotonic() - self._said > INTERVAL:
            self._said = time.monotonic()
            self._say(note)

    def _say(self, note: str) -> None:
        share = min(self.done / self.total, 1) if self.total else 1
        spent = time.monotonic() - self.start
        left = spent / share - spent if share else 0
        line = f"{self.label} {share:4.0%}, {clock(left)} left"
        with open(self._path, "a") as file:
            file.write(line + (f", {note}" if note else "") + "\n")


@contextmanager
def track(label: str, total: float) -> Iterator[Progress]:
    """Follow work of ``total`` units: ``with track(...) as p: p.update()``."""
    if path := os.environ.get("BOOK_PROGRESS"):
        yield Progress(label, total, path=path)
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit_scale=True, leave=False) as bar:
        yield Progress(label, total, bar=bar)


def clock(seconds: float) -> str:
    """Seconds as a person says them: ``45 s``, ``3 min 05 s``.

    >>> clock(185)
    '3 min 05 s'
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min {seconds % 60:02d} s"
