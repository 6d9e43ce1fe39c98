"""Harvest and training together, against each of the two alone.

All four read the specimen's activations with the same order of text: the
harvest only takes batches, the training has them in memory, and the two
together are done one after the other and with the harvest in a thread. They
take turns, ``STEPS`` whole refills of the shuffle buffer at a time.
"""

from contextlib import ExitStack, closing
from itertools import cycle

from helpers import activations
from helpers.devices import find_precision
from tests.bench import data
from tests.bench.speed import timed
from tests.bench.versions import Task, Version

STEPS = 16  # of 4,096 activations: two refills
ROUNDS = 7


def rows(profile: str, version: Version, task: Task) -> list[dict]:
    """A dict for each of the four: ``what`` and ``seconds`` of a step, a
    number a round."""
    network, tokens = data.load(profile)

    def harvest(overlap: bool):
        return activations.stream(
            network, tokens.train, [data.HOOK_POINT], batch=task.batch,
            dtype=find_precision(task.device), overlap=overlap,
        )  # fmt: skip

    with ExitStack() as opened:
        alone, serial, together = (
            opened.enter_context(closing(harvest(overlap)))
            for overlap in (False, False, True)
        )
        memory = [next(alone) for _ in range(STEPS)]
        sources = {
            "harvest alone": (alone, lambda x: None),
            "training alone": (cycle(memory), _trainer(version, task, opened)),
            "one after the other": (serial, _trainer(version, task, opened)),
            "together": (together, _trainer(version, task, opened)),
        }
        times = {what: [] for what in sources}
        for number in range(ROUNDS + 1):
            for what, (source, step) in sources.items():
                spent = timed(_steps, source, step) / STEPS
                if number:  # the first warms up
                    times[what].append(spent)
    return [{"what": k, "seconds": v} for k, v in times.items()]


def _trainer(version: Version, task: Task, opened: ExitStack):
    """The step of a trainer that ends with the measurement."""
    return opened.enter_context(closing(version.make(task))).step


def _steps(source, step) -> None:
    for _ in range(STEPS):
        step(next(source)[data.HOOK_POINT])
