"""What may end a run early: a signal, a broken loss, too little memory."""

import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from helpers import artifacts, ranks
from helpers.errors import InputError
from helpers.progress import track
from helpers.train.checkpoint import Checkpoints, Run
from helpers.train.meter import Diverged


class Stop:
    """A SIGTERM or SIGINT that waits until a step is done.

    The first one is noted. A second SIGINT finds the handlers that stood
    before and leaves at once; a second SIGTERM changes nothing, since Slurm
    sends one to every process and torchrun then passes its own on. Outside
    the main thread nothing is caught.
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
        if number == signal.SIGINT:
            self.__exit__()

    def leave(self, number: int) -> None:
        """Leave as if the signal came only now."""
        self.__exit__()
        signal.raise_signal(number)
        raise KeyboardInterrupt


class Keeper:
    """Keeps what runs find: log, progress, metrics, checkpoints.

    A checkpoint is written when its time has come, with a line of log
    (which waits for the device anyway), or when a signal came. Over several
    ranks there is none within a line, of which each rank knows its share
    only: a signal waits until all runs stand between two lines.
    """

    def __init__(self, runs: Sequence[Run], stop: Stop | None, bar):
        self.runs, self.stop, self.bar = runs, stop, bar
        self.run = runs[0]  # the one at work
        self.said = {}  # of each run, when it last spoke and of how much
        for run in runs:
            if run.kept:
                run.kept.start_metrics(run.step)
            self.said[id(run)] = time.monotonic(), run.meter.tokens
            bar.update(run.meter.tokens)

    def each(self) -> Iterator[Run]:
        """The runs, one after another."""
        for run in self.runs:
            self.run = run
            yield run

    def after_step(self) -> None:
        """Do what is due after a step of the run at work."""
        run = self.run
        line = run.meter.line() if run.meter.is_due else None
        if line:
            self._tell(run, line)
        if line and run.kept and run.kept.is_due():
            self.save([run])

    def after_batch(self) -> None:
        """Leave if a signal came; all runs have the batch behind them."""
        number = self.stop.number if self.stop else 0
        if ranks.count() > 1:
            device = self.run.model.W_dec.device
            whole = all(run.meter.is_whole for run in self.runs)
            number = ranks.largest(number, device) if whole else 0
        if number:
            self.save(self.runs)
            self.stop.leave(number)

    def save(self, runs: Sequence[Run]) -> None:
        """Write a checkpoint of each that can have one."""
        for run in runs:
            self.run = run
            if run.kept and (ranks.count() == 1 or run.meter.is_whole):
                run.kept.save(run)

    def name(self) -> str:
        """Which run is at work, where there are several."""
        if len(self.runs) == 1 or not self.run.kept:
            return ""
        return f"{self.run.kept.folder.name}: "

    def _tell(self, run: Run, line: dict) -> None:
        run.log.append(line)
        now, tokens = time.monotonic(), line["tokens"]
        clock, before = self.said[id(run)]
        rate = (tokens - before) / max(now - clock, 1e-9)
        self.said[id(run)] = now, tokens
        self.bar.update(
            tokens - before,
            f"{rate:,.0f} tokens/s, FVU {line['fvu']:.3f}, "
            f"L0 {line['l0']:.1f}, dead {line['dead']:.1%}",
        )
        if run.kept:
            run.kept.write_line(line | {"tokens_per_second": round(rate)})


@contextmanager
def keeping(runs: Sequence[Run]) -> Iterator[Keeper]:
    """Watch over runs: signals wait, and what breaks one is one sentence.

    Raises InputError for a loss that broke or exploded (with the last good
    checkpoint; the other runs write one first) and for too little memory
    (with a batch that fits).
    """
    kinds = {run.model.architecture for run in runs}
    label = f"training {', '.join(sorted(kinds))}"
    total = sum(run.settings.activations for run in runs)
    kept = any(run.kept for run in runs)
    with (
        track(label, total) as bar,
        Stop() if kept else nullcontext() as stop,
    ):
        keeper = Keeper(runs, stop, bar)
        try:
            yield keeper
        except Diverged as error:
            run, name = keeper.run, keeper.name()
            keeper.save([other for other in runs if other is not run])
            raise InputError(f"{name}{error}{_last(run.kept)}") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # what they hold
            raise InputError(keeper.name() + _advice(keeper.run)) from error


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
    batch = run.settings.batch
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

