"""Permutation tests that exchange matched sets and never documents."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from helpers.compare.contrasts import (
    Contrast,
    class_means,
    class_rows,
    live_in,
    set_means,
)
from helpers.compare.effects import chunks

ROUNDING = 1e-4  # of a normalised statistic (float32 sums of ~1e3 terms)


@dataclass(frozen=True)
class Units:
    """What a permutation exchanges.

    Matched (``labels`` is None): ``values`` [sets, d_sae] are treatment
    minus control within a set, and a set's sign may flip. Unmatched:
    ``values`` are means of sets that hold one class each, ``labels``
    [sets] is True for the treatment, and labels may be exchanged.
    """

    values: np.ndarray
    labels: np.ndarray | None = None


def matched_sets(
    maxima: np.ndarray, documents: pd.DataFrame, contrast: Contrast
) -> Units:
    """Reduce documents to their matched sets.

    Sets that have both classes are differenced (sets with only one are
    then left out); if fewer than half have both, the sets count as
    unmatched.
    """
    groups = documents["group"].to_numpy()
    sides = [
        set_means(maxima[rows], groups[rows])
        for rows in class_rows(documents, contrast)
    ]
    (names_a, a), (names_b, b) = sides
    shared = np.intersect1d(names_a, names_b)
    if 2 * len(shared) >= max(len(names_a), len(names_b)):
        return Units(a[np.isin(names_a, shared)] - b[np.isin(names_b, shared)])
    labels = np.arange(len(a) + len(b)) < len(a)
    return Units(np.concatenate([a, b]), labels)


def permutation_p(
    units: Units, permutations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p-values per feature: plain and max-statistic corrected.

    Columns are normalised so that a feature's scale does not matter; the
    normalised difference is a monotone function of the t statistic, whose
    denominator no permutation changes. p = (1 + #{|T*| >= |T|}) / (1 + P),
    never 0 (Phipson and Smyth 2010). -> p [d_sae], p_max [d_sae]; NaN for
    0 permutations.
    """
    if not permutations:
        empty = np.full(units.values.shape[1], np.nan)
        return empty, empty.copy()
    values, observed = _normalised(units)
    weights = _relabelled(units, permutations, seed)
    count = np.zeros(values.shape[1])
    highest = np.zeros(permutations, np.float32)
    for c in chunks(values.shape[1]):
        size = np.abs(weights @ values[:, c])
        count[c] = (size >= observed[c] - ROUNDING).sum(0)
        np.maximum(highest, size.max(1), out=highest)
    highest.sort()
    above = permutations - np.searchsorted(highest, observed - ROUNDING)
    return (1 + count) / (1 + permutations), (1 + above) / (1 + permutations)


def _normalised(units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Columns of unit norm, float32 [sets, d_sae], and |T| [d_sae]."""
    values = units.values.astype(np.float32)
    if units.labels is not None:
        values = values - values.mean(0)
    norm = np.sqrt((values.astype(np.float64) ** 2).sum(0))
    values = np.divide(values, norm, out=values, where=norm > 0)
    return values, np.abs(_identity(units) @ values)


def _identity(units: Units) -> np.ndarray:
    """Weights [sets] whose product with the values is the statistic.

    Scaled so that the statistic has variance about 1 under the null.
    """
    if units.labels is None:
        return np.ones(len(units.values), np.float32)
    return _balance(units.labels)


def _balance(labels: np.ndarray) -> np.ndarray:
    n, m = labels.sum(-1).max(), (~labels).sum(-1).max()
    weights = np.where(labels, 1 / n, -1 / m) * np.sqrt(n * m)
    return weights.astype(np.float32)


def _relabelled(units: Units, permutations: int, seed: int) -> np.ndarray:
    """Weights [permutations, sets] of random relabellings."""
    rng = np.random.default_rng(seed)
    shape = (permutations, len(units.values))
    if units.labels is None:
        signs = rng.integers(0, 2, shape, dtype=np.int8)
        return signs.astype(np.float32) * 2 - 1
    labels = np.broadcast_to(units.labels, shape)
    return _balance(rng.permuted(labels, axis=1))


@dataclass(frozen=True)
class Tendency:
    """Do features go up as a whole, beyond what relabelling gives?

    ``share``: of the features that move at all, the share that deflect
    upwards; ``low`` and ``high`` bound the central 95% of that share under
    relabelling; ``p`` is two-sided. ``mean``: mean deflection.
    """

    share: float
    low: float
    high: float
    p: float
    mean: float

    @property
    def direction(self) -> str:
        """``more``, ``less`` or ``no more``, at the 5% level."""
        if self.p > 0.05:
            return "no more"
        return "more" if self.share > 0.5 else "less"


def tendency(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    *,
    threshold: float = 1e-3,
    min_documents: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> Tendency:
    """The poster's claim as a statistic: the share of rising features.

    Features move together, so their signs are no independent votes; the
    share is compared with its own distribution over relabelled matched
    sets. Raises InputError if no feature is live.
    """
    live = live_in(maxima, documents, contrast, threshold, min_documents)
    units = matched_sets(maxima[:, live], documents, contrast)
    values, _ = _normalised(units)
    share = _rising(_identity(units)[None] @ values)[0]
    null = _rising(_relabelled(units, permutations, seed) @ values)
    beyond = (np.abs(null - 0.5) >= abs(share - 0.5) - 1e-9).sum()
    low, high = np.quantile(null, [0.025, 0.975])
    means = class_means(maxima[:, live], documents["label"])
    mean = (means.loc[contrast.treatment] - means.loc[contrast.control]).mean()
    p = (1 + beyond) / (1 + permutations)
    return Tendency(*map(float, (share, low, high, p, mean)))


def tendencies(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    **settings,
) -> pd.DataFrame:
    """``tendency`` of several contrasts: a row each, indexed by class.

    Columns: those of ``Tendency`` and ``direction``; ``settings`` are the
    keyword arguments of ``tendency``.
    """
    rows = {
        contrast.treatment: tendency(maxima, documents, contrast, **settings)
        for contrast in contrasts
    }
    return pd.DataFrame(
        [asdict(t) | {"direction": t.direction} for t in rows.values()],
        index=list(rows),
    )


def verdict(claim: pd.DataFrame) -> str:
    """Does "features rise" hold? A phrase that follows "the claim".

    ``claim``: what ``tendencies`` returns.
    """
    where = {
        name: _listed(claim.index[claim["direction"] == name])
        for name in ("more", "less")
    }
    if not where["more"]:
        turned = f"; for {where['less']} it is reversed"
        return "does not hold here" + (turned if where["less"] else "")
    if (claim["direction"] == "more").all():
        return f"holds here, for {where['more']}"
    rest = _listed(claim.index[claim["direction"] != "more"])
    return f"holds here for {where['more']}, but not for {rest}"


def _listed(names) -> str:
    """``a``, ``a and b``, ``a, b and c``; empty for none."""
    names = [str(name) for name in names]
    if len(names) < 2:
        return "".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]


def _rising(differences: np.ndarray) -> np.ndarray:
    """Share of positive ones among non-zero ones, per row."""
    up = (differences > ROUNDING / 10).sum(1)
    down = (differences < -ROUNDING / 10).sum(1)
    return np.where(up + down > 0, up / np.maximum(up + down, 1), 0.5)
