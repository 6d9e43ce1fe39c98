"""Several units together: does a factor live in one unit or in some?"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.recovery.columns import Columns, Scores
from helpers.recovery.tables import halves, take
from helpers.recovery.targets import find_targets

if TYPE_CHECKING:
    from helpers.features import FeatureTable

CANDIDATES = 50  # units that are tried, the best by themselves


def together(
    bases: Mapping[str, "FeatureTable"],
    documents: pd.DataFrame,
    names: pd.DataFrame,
    *,
    most: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """F1 of "at least one of n units fires", n from 1 to ``most``.

    ``names``: the targets' factor and value. On the first half of the
    matched sets units are added one by one, each at its own best threshold
    and each the one that raises F1 most, until none does; the second half is
    scored. -> a row a target, basis and n, with f1 (that of fewer units, if
    no further one was added).
    """
    places = halves(documents, seed)
    one = next(iter(bases.values()))
    chosen, scored = (
        find_targets(take(one, p), documents.iloc[p]).pick(names).rows
        for p in places
    )
    rows = []
    for basis, table in bases.items():
        first, second = (Columns(take(table, p)) for p in places)
        for at, (factor, value) in enumerate(names.to_numpy()):
            units = _greedy(first, chosen[at], most)
            f1s = _growing(second, units, scored[at], most)
            for n, f1 in enumerate(f1s, 1):
                rows.append((factor, value, basis, n, f1))
    return pd.DataFrame(rows, columns=["factor", "value", "basis", "n", "f1"])


def _greedy(columns: Columns, positives, most) -> list[tuple[int, float]]:
    """Units and thresholds, in the order in which they are added."""
    truth = np.zeros(columns.n_tokens, bool)
    truth[positives] = True
    tried = _candidates(columns.scores(positives))
    fires = np.zeros((len(tried), columns.n_tokens), bool)
    for row, (unit, threshold) in enumerate(tried):
        fires[row, columns.fired(unit, threshold)] = True
    union = np.zeros(columns.n_tokens, bool)
    units, reached = [], 0.0
    while len(tried) and len(units) < most:
        new = fires & ~union
        true = (new & truth).sum(1) + (union & truth).sum()
        fired = new.sum(1) + union.sum()
        f1 = 2 * true / (fired + truth.sum())
        best = int(f1.argmax())
        if f1[best] <= reached:
            break
        reached, union = f1[best], union | fires[best]
        units.append(tried[best])
    return units


def _candidates(scores: Scores) -> list[tuple[int, float]]:
    order = np.argsort(-scores.f1, kind="stable")[:CANDIDATES]
    units = scores.units[order].tolist()
    return list(zip(units, scores.threshold[order].tolist(), strict=True))


def _growing(columns: Columns, units, positives, most) -> list[float]:
    """F1 of the first unit, the first two, ... on other tokens: [most]."""
    truth, union = np.zeros((2, columns.n_tokens), bool)
    truth[positives] = True
    found = [0.0]
    for unit, threshold in units:
        union[columns.fired(unit, threshold)] = True
        true = (union & truth).sum()
        found.append(float(2 * true / max(union.sum() + truth.sum(), 1)))
    held = found[1:] or found
    return held + held[-1:] * (most - len(held))
