"""One basis against another over all targets, and a verdict in words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers.recovery.scores import LEVELS, Study

OPEN = "not decided by its interval"
SPARSER = 0.5  # of the active neurons that a penalty may at most leave


class Gap(NamedTuple):
    """A difference and its 95% interval."""

    value: float
    low: float
    high: float


def contest(studies: Sequence[Study], first: str, second: str) -> Gap:
    """The mean F1 of one basis minus that of another, over all targets.

    ``studies``: of several corpora, with both bases. Both are taken on the
    same resamples of the matched sets; corpora are drawn independently.
    """
    gaps, drawn = [], []
    for study in studies:
        by = study.scores.set_index("basis")["f1"]
        gaps.append(by.loc[[first]].to_numpy() - by.loc[[second]].to_numpy())
        drawn.append(study.drawn[first] - study.drawn[second])
    low, high = np.quantile(np.concatenate(drawn, axis=1).mean(1), LEVELS)
    return Gap(float(np.concatenate(gaps).mean()), float(low), float(high))


def median_gap(
    a: np.ndarray, b: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Gap:
    """The median of ``a`` minus that of ``b``, bootstrapped.

    Both [units], each drawn by itself: an interval for the units of these
    two models, not for models in general.
    """
    random = np.random.default_rng(seed)
    medians = [
        np.median(x[random.integers(0, len(x), (resamples, len(x)))], axis=1)
        for x in (a, b)
    ]
    low, high = np.quantile(medians[0] - medians[1], LEVELS)
    return Gap(float(np.median(a) - np.median(b)), float(low), float(high))


def penalty_verdict(
    active: tuple[float, float], behind: Gap, spread: Gap
) -> dict[str, str]:
    """Did sparsity in training fail where an autoencoder does not?

    ``active``: neurons active on a token without and with the penalty;
    ``behind``: how far the best penalised neurons' F1 lies below that of the
    best features; ``spread``: on how many more classes a penalised neuron is
    strong than a feature. The claim holds as far as both lie above zero with
    their intervals. -> detection and purity, the verdict on each, and
    whole: "reproduced", "not reproduced" or "not comparable", with a reason.
    """
    parts = {"detection": _part(behind), "purity": _part(spread)}
    if active[1] > SPARSER * active[0]:
        why = (
            f"not comparable, because the penalty left {active[1]:.0f} of "
            f"{active[0]:.0f} neurons active on a token"
        )
        return parts | {"whole": why}
    found = {*parts.values()}
    if found == {OPEN}:
        why = "not comparable, because both differences are within intervals"
        return parts | {"whole": why}
    said = " and ".join(f"{name} is {part}" for name, part in parts.items())
    mixed = f"not reproduced as a whole, because {said}"
    return parts | {"whole": found.pop() if len(found) == 1 else mixed}


def _part(gap: Gap) -> str:
    if gap.low > 0:
        return "reproduced"
    if gap.high < 0:
        return "not reproduced"
    return OPEN
