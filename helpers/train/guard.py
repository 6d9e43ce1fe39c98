"""What may end a run early: a signal, a broken loss, too little memory."""

import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from helpers import artifacts, ranks
from helpers.errors import InputError
from helpers.progress import track
from helpers.train.checkpoint import Checkpoints, Run
from helpers.train.meter import Diverged


class Stop:
    """A SIGTERM or SIGINT that waits until a step is done.

    The first one is noted; a second finds the handlers that stood before
    and leaves at once. Outside the main thread nothing is caught.
    """

    def __init__(self):
        self.number, self._before = 0, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number, _frame):
        self.number = number
        self.__exit__()

    def leave(self, number: int) -> None:
        """Leave as if the signal came only now."""
        self.__exit__()
        signal.raise_signal(number)
        raise KeyboardInterrupt


class Keeper:
    """Keeps what a run finds: log, progress, metrics, checkpoints.

    A checkpoint is written when its time has come, with a line of log
    (which waits for the device anyway), or when a signal came; over several
    ranks a signal waits for a line too, since all must know of it.
    """

    def __init__(self, run: Run, kept: Checkpoints | None, stop: Stop, bar):
        self.run, self.kept, self.stop, self.bar = run, kept, stop, bar
        self.clock, self.from_tokens = time.monotonic(), run.meter.tokens
        if kept:
            kept.start_metrics(run.step)
        bar.update(run.meter.tokens)

    def after_step(self, line: dict | None) -> None:
        """``line``: the line of log that the step ended, if it did."""
        if line:
            self._tell(line)
        if self.kept is None:
            return
        number = self.stop.number
        if ranks.count() > 1:
            device = self.run.model.W_dec.device
            number = ranks.largest(number, device) if line else 0
        if number or (line and self.kept.is_due()):
            self.kept.save(self.run)
        if number:
            self.stop.leave(number)

    def _tell(self, line: dict) -> None:
        self.run.log.append(line)
        now, tokens = time.monotonic(), line["tokens"]
        rate = (tokens - self.from_tokens) / max(now - self.clock, 1e-9)
        self.clock, self.from_tokens = now, tokens
        self.bar.update(
            tokens - self.bar.done,
            f"{rate:,.0f} tokens/s, FVU {line['fvu']:.3f}, "
            f"L0 {line['l0']:.1f}, dead {line['dead']:.1%}",
        )
        if self.kept:
            self.kept.write_line(line | {"tokens_per_second": round(rate)})


@contextmanager
def keeping(run: Run, kept: Checkpoints | None) -> Iterator[Keeper]:
    """Watch over a run: signals wait, and what breaks it is one sentence.

    Raises InputError for a loss that broke or exploded (with the last good
    checkpoint) and for too little memory (with a batch that fits).
    """
    label = f"training {run.model.architecture}"
    with (
        track(label, run.meter.settings.activations) as bar,
        Stop() if kept else nullcontext() as stop,
    ):
        try:
            yield Keeper(run, kept, stop, bar)
        except Diverged as error:
            raise InputError(f"{error}{_last(kept)}") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # what they hold
            raise InputError(_advice(run)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that there was no memory left."""
    said = ("not enough memory", "DefaultCPUAllocator", "out of memory")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or any(s in str(error) for s in said)


def largest_batch(run: Run, below: int) -> int:
    """The largest power of two under ``below`` whose step fits, or 0."""
    weight = run.model.W_dec
    size = 2 ** ((below - 1).bit_length() - 1) if below > 1 else 0
    while size:
        try:
            x = torch.zeros(size, run.model.d_in, device=weight.device)
            run.model.gradients(x, torch.float32)
            return size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
    return 0


def _advice(run: Run) -> str:
    batch = run.meter.settings.batch
    fits = largest_batch(run, batch)
    said = f"out of memory at step {run.step + 1} with a batch of {batch}; "
    if fits:
        return said + f"a batch of {fits} fits"
    return said + "no batch fits: make the dictionary smaller"


def _last(kept: Checkpoints | None) -> str:
    newest = kept.newest if kept else None
    if not newest:
        return "; no checkpoint was written yet" if kept else ""
    return f"; the last good checkpoint is {artifacts.show(newest)}"

