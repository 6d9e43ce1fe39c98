"""Seconds of a training step: versions by turns, in one process.

A row is an architecture at one size. In each round every version does some
steps on the same batch, one version after the other, so that a change in
the machine's speed falls on all of them. Beside them stand the matrix
products that the architecture needs, done dense and in the fast precision:
the floor of a dense step, which a sparse one may pass.
"""

import itertools
import logging
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch

from helpers.devices import find_precision
from helpers.train import Settings
from tests.bench import data
from tests.bench.versions import Task, Trainer, Version, takes

COMPILE = 240  # seconds that the first step of a version may take
SLOW = 4  # times the fastest peer: such a version runs in one round only
SHORT = 0.25  # seconds a version runs in a round, at least one step
PARTS = 20  # of a whole run, with one step of each peer after each
# Times that all codes go to the decoder and back in a step; Gated's twice.
# Where codes are ranked only the encoder's product is dense.
PASSES = {"standard": 1, "jumprelu": 1, "gated": 2}


for name in ("torch._dynamo", "torch._subclasses", "torch._inductor"):
    logging.getLogger(name).setLevel(logging.CRITICAL)  # a row says it


class TooSlow(Exception):
    """A first step that did not end in time."""


def row(
    task: Task, versions: list[Version], rounds: int, regime: str = "",
    batches: list[torch.Tensor] | None = None,
) -> list[dict]:  # fmt: skip
    """Measure one architecture at one size; a dict a version.

    ``regime`` (of ``standard``): "dense", as training starts, or "sparse":
    encoder biases at which k latents fire on a token. The last dict is the
    floor's. ``seconds``: of a step, a number a round; None where a version
    was left out.
    """
    batches = batches or bank(task)
    ready, found = {}, {}
    for version in takes(versions, task.architecture):
        found[version] = {
            "library": version.library, "setting": version.setting,
            "ours": version.ours, "note": version.note, "seconds": [],
        }  # fmt: skip
        try:
            ready[version] = _start(version, task, regime, batches[0])
        except Exception as error:  # a peer's failure is a row with a reason
            found[version]["error"] = reason(error)
    versions_ready = {v: (t.step, first) for v, (t, first) in ready.items()}
    floor = dense_floor(task, regime)
    floor(batches[0])
    _rounds(task, versions_ready, floor, found, rounds, batches)
    for trainer, _ in ready.values():
        trainer.close()
    return list(found.values())


def bank(task: Task, count: int = 4) -> list[torch.Tensor]:
    """Batches for timing: 8 times as many directions as dimensions."""
    source = data.Directions(
        task.d_in, 8 * task.d_in, task.k, seed=1, device=task.device
    )
    return data.bank(source, task.batch, count)


def _start(version, task, regime, x) -> tuple[Trainer, float]:
    """A trainer after its first steps, and the seconds of the last."""
    trainer = version.make(task)
    if regime == "sparse":
        trainer.set_bias(sparse_bias(trainer, x, task.k))
    with limit(COMPILE):
        trainer.step(x)
    return trainer, timed(trainer.step, x)


def sparse_bias(trainer: Trainer, x: torch.Tensor, k: int) -> float:
    """The encoder bias at which k latents fire on a token of x."""
    ends = [-64.0, 64.0]
    for _ in range(30):
        middle = sum(ends) / 2
        trainer.set_bias(middle)
        many = (trainer.codes(x[:256]) > 0).sum() > k * 256
        ends[int(many)] = middle
    return middle


def _rounds(task, ready, floor, found, rounds, batches) -> None:
    """Time the versions by turns, into ``found``; the floor goes last."""
    peers = [first for v, (_, first) in ready.items() if not v.ours]
    bound = SLOW * min(peers, default=float("inf"))
    found["floor"] = {"library": "floor", "setting": "dense products",
                      "ours": False, "note": "", "seconds": []}  # fmt: skip
    turns = {**ready, "floor": (floor, timed(floor, batches[0]))}
    for number, x in zip(range(rounds), itertools.cycle(batches),
                         strict=False):  # fmt: skip
        for version, (step, first) in turns.items():
            if number and first > bound:
                found[version]["seconds"].append(None)
                continue
            steps = max(int(SHORT / first), 1)
            spent = timed(lambda: [step(x) for _ in range(steps)])  # noqa: B023
            found[version]["seconds"].append(spent / steps)


def whole_run(
    task: Task, ours: Version, peers: list[Version], activations: int
) -> list[dict]:
    """Our loop over a run with default settings, peers by turns with it.

    ``seconds`` are of a step, a number for each of the run's parts: the
    mean of our steps in it, and one step of each peer after it.
    """
    steps = activations // task.batch
    how = vars(task) | {"lr": Settings().lr, "steps": steps}
    how |= {"dead_after": Settings().dead_after}
    loop = ours.make(Task(**how), fits=True)
    batches = bank(task, 16)
    turns = {v: _start(v, task, "", batches[0])[0] for v in peers}
    found = {
        v: {"library": v.library, "setting": v.setting, "ours": v.ours,
            "note": "", "seconds": []}
        for v in (ours, *peers)
    }  # fmt: skip
    given = itertools.cycle(batches)
    for part in range(PARTS):
        count = steps * (part + 1) // PARTS - steps * part // PARTS
        spent = timed(lambda: [loop.step(next(given)) for _ in range(count)])  # noqa: B023
        found[ours]["seconds"].append(spent / count)
        for version, trainer in turns.items():
            seconds = timed(trainer.step, next(given))
            found[version]["seconds"].append(seconds)
    active = (loop.codes(batches[0]) > 0).sum(1).float()
    found[ours]["l0"] = float(active.mean())
    loop.close()
    return list(found.values())


def dense_floor(task: Task, regime: str) -> Callable:
    """A function of a batch that does a step's dense products alone."""
    dtype = find_precision(task.device)
    shape = (task.d_sae, task.d_in)
    rows = torch.randn(shape, device=task.device).to(dtype)
    passes = 0 if regime == "sparse" else PASSES.get(task.architecture, 0)

    def products(x):
        error = x.to(dtype)
        codes = error @ rows.T
        for _ in range(passes):
            error = codes @ rows
            codes = error @ rows.T
        if passes:  # the gradients of encoder and decoder
            codes.T @ error
            codes.T @ error

    return products


def timed(work: Callable, *given) -> float:
    """Seconds that a call takes, on the CPU or a GPU."""
    start = time.perf_counter()
    work(*given)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def limit(seconds: int):
    """Raise TooSlow in the main thread once the time is over."""

    def over(_number, _frame):
        raise TooSlow(f"its first step took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def reason(error: Exception) -> str:
    """The first line of what went wrong, not too long."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]
