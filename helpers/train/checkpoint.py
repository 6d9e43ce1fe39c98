"""Checkpoints of a training run, and its metrics as they come.

A checkpoint is one file, written whole or not at all; the newest two are
kept. What is drawn while training comes from the seed and the step, and a
batch from its place in the stream, so that the step stands for the state
of every random generator and for the data position.
"""

import errno
import functools
import json
import os
import shutil
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from helpers import artifacts, ranks, sae
from helpers.kernels.adam import Adam
from helpers.train.meter import Diverged, Meter
from helpers.train.settings import Settings

KEEP = 2  # checkpoints
EVERY = 60.0  # seconds between two
METRICS = "metrics.jsonl"


@dataclass
class Run:
    """All that a step of training changes."""

    model: sae.SAE
    adam: Adam  # or its faster form
    meter: Meter
    scale: float  # multiplies each batch
    log: list[dict] = field(default_factory=list)
    kept: "Checkpoints | None" = None

    @property
    def settings(self) -> Settings:
        """How it is trained."""
        return self.meter.settings

    @property
    def step(self) -> int:
        """Steps done, which is also the batches of the stream used up."""
        return self.meter.step

    def state(self) -> dict:
        """All of it, for a checkpoint. Raises Diverged if it is broken."""
        weights = self.model.state_dict()
        meter = self.meter.state()
        if not all(part.isfinite().all() for part in weights.values()):
            raise Diverged(
                f"the SAE's weights are not finite after step {self.step}; "
                "lower the learning rate"
            )
        return {
            "step": self.step,
            "weights": weights,
            "adam": self.adam.state_dict(),
            "meter": meter,
            "scale": self.scale,
            "log": self.log,
        }

    def restore(self, state: dict) -> None:
        """Go on from a ``state``."""
        self.model.load_state_dict(state["weights"])
        self.adam.load_state_dict(state["adam"])
        self.meter.restore(state["meter"])
        self.scale, self.log = state["scale"], state["log"]


class Checkpoints:
    """The checkpoints of one run, in a folder of its own.

    ``key`` stands for the settings, the data and the code: a checkpoint
    with another key is not gone on from. ``every``: seconds between two.
    ``board``: where TensorBoard, if it is installed, finds the metrics.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        every: float = EVERY,
        board: Path | None = None,
    ):
        self.folder, self.key, self.every = Path(folder), key, every
        self.board, self.writer = board, None
        self.saved, self.full = time.monotonic(), False

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint, or None."""
        return max(self.folder.glob("step-*.pt"), default=None)

    @functools.cached_property
    def state(self) -> dict | None:
        """The state to go on from: the newest whole one with this key."""
        for file in sorted(self.folder.glob("step-*.pt"), reverse=True):
            state = _read(file)
            if state is None:
                warnings.warn(f"{artifacts.show(file)} is damaged and left "
                              "out", stacklevel=2)  # fmt: skip
            elif state["key"] == self.key:
                return state
            else:
                warnings.warn(
                    f"{artifacts.show(self.folder)} holds a run with other "
                    "settings, data or code; training starts anew",
                    stacklevel=2,
                )
                return None
        return None

    def is_due(self) -> bool:
        """Whether the time for the next one has come."""
        return time.monotonic() - self.saved >= self.every

    def save(self, run: Run) -> None:
        """Write a checkpoint and drop all but the newest ones.

        On a full disk training goes on, with a warning (the first time),
        and the earlier checkpoints stay.
        """
        state = run.state() | {"key": self.key}
        self.saved = time.monotonic()
        if ranks.index() > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            _write(self.folder / f"step-{run.step:010d}.pt", state)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._warn(run.step)
        else:
            self._prune(run.step)

    def start_metrics(self, step: int) -> None:
        """Go on with the metrics of a run that stands at a step."""
        if ranks.index() == 0:
            file = self.folder / METRICS
            lines = file.read_text().splitlines() if file.exists() else []
            kept = [line for line in lines if 0 < _step(line) <= step]
            artifacts.write_text(file, "".join(f"{k}\n" for k in kept))
            self.writer = self.board and _summary_writer(self.board, step)

    def write_line(self, line: dict) -> None:
        """Append a line of log to the metrics, at once."""
        if ranks.index() > 0:
            return
        try:
            with open(self.folder / METRICS, "a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._warn(line["step"])
        if self.writer:
            for name in line.keys() - {"step"}:
                self.writer.add_scalar(name, line[name], line["step"])

    def remove(self) -> None:
        """Remove everything: the run is complete."""
        if self.writer:
            self.writer.close()
        if ranks.index() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _warn(self, step: int) -> None:
        if not self.full:
            newest = self.newest
            last = artifacts.show(newest) if newest else "none"
            warnings.warn(
                f"no disk space left for a checkpoint at step {step}; "
                f"training goes on, the last checkpoint is {last}",
                stacklevel=3,
            )
        self.full = True

    def _prune(self, step: int) -> None:
        """Keep the newest two of this run; no remains of a killed one."""
        files = sorted(self.folder.glob("step-*.pt"))
        ours = [file for file in files if _step_of(file) <= step]
        for file in {*files, *self.folder.glob("*.partial")} - {*ours[-KEEP:]}:
            file.unlink(missing_ok=True)


def _write(path: Path, state: dict) -> None:
    """Write a file that is whole once it bears its name."""
    temporary = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict | None:
    """A checkpoint, or None for one that cannot be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch and pickle raise many kinds
        return None


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


def _step(line: str) -> int:
    """The step of a line of metrics, 0 for one that a kill cut short."""
    with suppress(ValueError, KeyError):
        return json.loads(line)["step"]
    return 0


def _summary_writer(board: Path, step: int):
    """A TensorBoard writer where TensorBoard is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(board), purge_step=step + 1)
