"""Quality after equal tokens: FVU at equal L0, known directions found again.

Every version trains on the same batches from the same budget, each with
its own best learning rate from one grid. Where L0 follows from a penalty
(L1, Gated, JumpReLU) the penalty is brought, by the secant of log L0
against its logarithm, to where L0 is nearly k, and log FVU is read off the
line, in log L0, through the two runs nearest to k: each version's own
frontier.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from helpers import metrics
from tests.bench import data
from tests.bench.speed import reason
from tests.bench.versions import Task, Version

GRID = [10 ** (power / 2) for power in range(-9, -2)]  # 3.2e-5 to 3.2e-2
START = (2, 3, 4)  # of the grid; at an edge the search goes on
PENALTY = {"standard": 2.0, "gated": 2.0}  # where the search for L0 starts
NEAR, MOST = 0.1, 5  # in log L0, and runs of one search for L0
HELD = 4  # held-out batches
SCORES = ("fvu", "l0", "mmcs", "mcc")


@dataclass(frozen=True)
class Size:
    """How large the comparison is."""

    d_in: int
    expansion: int
    k: int
    batch: int
    steps: int
    seeds: int

    def task(self, architecture: str, device: str) -> Task:
        """The task of one architecture; k directions fire on a token."""
        return Task(
            architecture, self.d_in, self.d_in * self.expansion, k=self.k,
            batch=self.batch, steps=self.steps, device=device,
            dead_after=self.batch * self.steps // 8,
            coefficient=PENALTY.get(architecture, float(self.k)),
        )  # fmt: skip


DEFAULT = Size(128, 8, 16, 1024, 200, 2)
FULL = Size(512, 8, 32, 4096, 500, 3)


@dataclass
class Material:
    """Batches to train on and to measure with, and what they are made of."""

    source: data.Directions | None
    batches: list[torch.Tensor]
    held: list[torch.Tensor]


@cache
def material(size: Size, seed: int, device: str) -> Material:
    """Sums of 4 d_in directions, k of them a token on average.

    Kept, for the architectures train on the same.
    """
    source = data.Directions(
        size.d_in, 4 * size.d_in, size.k, seed=seed + 1, device=device
    )
    batches = data.bank(source, size.batch, size.steps)
    return Material(source, batches, data.bank(source, size.batch, HELD))


def compare(
    version: Version, task: Task, given: list[Material], most: int
) -> dict:
    """One version's row: scores, a number a seed, at its best rate.

    ``most``: learning rates tried. The rate is chosen on the first seed.
    """
    found = {"library": version.library, "setting": version.setting,
             "ours": version.ours}  # fmt: skip
    tried: dict[float, dict] = {}

    def score(lr: float) -> float:
        how = replace(task, lr=lr)
        if tried:  # the rate before says about where L0 is right
            last = list(tried.values())[-1]["coefficient"]
            how = replace(how, coefficient=last)
        tried[lr] = at_equal_l0(version, how, given[0])
        return tried[lr]["fvu"]

    try:
        lr = search(score, most)
        rows = [tried[lr]]
        start = replace(task, lr=lr, coefficient=tried[lr]["coefficient"])
        for seed, more in enumerate(given[1:], 1):
            rows.append(
                at_equal_l0(version, replace(start, seed=seed), more)
            )
    except Exception as error:  # a row with its reason
        return found | {"error": reason(error)}
    found |= {name: [row[name] for row in rows] for name in SCORES}
    rates = {f"{rate:.1e}": row["fvu"] for rate, row in tried.items()}
    return found | {"lr": lr, "tried": rates}


def search(score: Callable[[float], float], most: int) -> float:
    """The grid's best rate: three, then outwards while the best is last."""
    found = {place: score(GRID[place]) for place in START}
    while len(found) < most:
        best = min(found, key=found.get)
        beyond = {min(found): best - 1, max(found): best + 1}.get(best)
        if beyond is None or not 0 <= beyond < len(GRID):
            break
        found[beyond] = score(GRID[beyond])
    return GRID[min(found, key=found.get)]


def at_equal_l0(version: Version, task: Task, given: Material) -> dict:
    """Scores where L0 is k, and the coefficient that came nearest."""
    if task.architecture not in (*PENALTY, "jumprelu"):
        return run(version, task, given) | {"coefficient": task.coefficient}
    runs = []
    coefficient = task.coefficient
    while len(runs) < MOST:
        how = replace(task, coefficient=coefficient)
        runs.append(run(version, how, given) | {"coefficient": coefficient})
        runs.sort(key=lambda row: abs(_off(row, task.k)))
        if len(runs) > 1 and abs(_off(runs[0], task.k)) < NEAR:
            break
        coefficient = _next(runs, task)
    return read_off(runs[:2], task.k)


def _off(row: dict, k: int) -> float:
    """By how much log L0 misses k."""
    return math.log(max(row["l0"], 0.1) / k)


def _next(runs: list[dict], task: Task) -> float:
    """The coefficient at which log L0 should be right, by the secant."""
    rises = 1.0 if task.architecture == "jumprelu" else -1.0
    slope = rises
    if len(runs) > 1:
        a, b = runs[:2]
        moved = math.log(a["coefficient"] / b["coefficient"])
        slope = (_off(a, task.k) - _off(b, task.k)) / moved
        if not 0.3 < slope * rises < 3:
            slope = rises
    step = -_off(runs[0], task.k) / slope
    step = max(-1.5, min(1.5, step))
    if abs(step) < 0.05:  # a second point is needed all the same
        step = 0.05
    found = runs[0]["coefficient"] * math.exp(step)
    return min(found, task.d_sae) if rises > 0 else found


def read_off(runs: list[dict], k: int) -> dict:
    """Log FVU on the line through two runs, where log L0 = log k.

    Other scores are those of the run nearest to it, which is the first.
    """
    a, b = runs
    x, y = (_off(row, k) for row in runs)
    if abs(x - y) < 1e-6:
        return a
    logs = [math.log(max(row["fvu"], 1e-12)) for row in runs]
    share = x / (x - y)
    return a | {"fvu": math.exp(logs[0] + share * (logs[1] - logs[0]))}


def run(version: Version, task: Task, given: Material) -> dict:
    """Train on all the batches; the scores on held-out ones."""
    trainer = trained(version, task, given.batches)
    try:
        scores = fvu_and_l0(trainer, given.held)
        if given.source is not None:
            rows = trainer.directions().float().cpu()
            scores["mmcs"] = metrics.mmcs(given.source.rows, rows)
            scores["mcc"] = metrics.mcc(given.source.rows, rows)
    finally:
        trainer.close()
    return scores


def trained(version: Version, task: Task, batches: list[torch.Tensor]):
    """A trainer that has done its run."""
    more = {"fits": True} if version.ours else {}
    trainer = version.make(task, **more)
    for x in batches:
        trainer.step(x)
    return trainer


def fvu_and_l0(trainer, held: list[torch.Tensor]) -> dict:
    """Share of variance not explained, and latents active on a token."""
    error, active = 0.0, 0
    for x in held:
        codes = trainer.codes(x)
        error += (trainer.rebuild(codes).float() - x).double().pow(2).sum()
        active += (codes > 0).sum()
    whole = torch.cat(held).double()
    variance = (whole - whole.mean(0)).pow(2).sum()
    return {"fvu": float(error / variance), "l0": float(active / len(whole))}
