"""Bootstrap intervals over documents, or over sets of them.

Tokens of one document are not independent, so whole documents are drawn;
nor are documents of one source or matched set, so where there are such,
whole sets are drawn (Davison and Hinkley 1997, section 3.8).
Every score of this package is a function of sums over documents, which
makes a resample one row of counts times the documents' sums.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from helpers.errors import InputError, unknown
from helpers.metrics.arrays import table

METHODS = ("percentile", "BCa")
CELLS = 2**22  # documents x resamples drawn at a time


class Interval(NamedTuple):
    """A statistic and its interval; arrays if the statistic is one."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


def bootstrap(
    documents,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    method: str = "BCa",
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """An interval for a statistic of sums over documents.

    ``documents`` [documents, columns]: each one's sums (losses, tokens).
    ``statistic``: sums [..., columns] -> [...] or [..., k], the same for
    the sums of a sample as of all. ``groups`` [documents] names the set of
    each: sets are then drawn, and below documents means sets. ``method``:
    "percentile", or "BCa" (Efron 1987), which corrects for bias and skew.
    The draws, and so the interval, are those of ``scipy.stats.bootstrap``.
    With few documents it is too narrow: for 50 with skewed losses, 90%
    intervals hold the truth in some 84% of simulated samples; for 200, in
    88%. InputError for fewer than two documents or an unknown
    method.
    """
    documents = table(documents, "documents")
    if groups is not None:
        documents = _by_set(documents, groups)
    if len(documents) < 2:
        what = "documents" if groups is None else "sets of documents"
        raise InputError(f"an interval needs two {what} or more, not 1")
    if method not in METHODS:
        raise unknown("method of the bootstrap", method, METHODS)
    sums = np.concatenate(list(_resamples(documents, resamples, seed)))
    estimate = np.asarray(statistic(documents.sum(0)))
    values, tail = np.asarray(statistic(sums)), (1 - level) / 2
    tails = np.full((2, *estimate.shape), tail)
    tails[1] = 1 - tail
    if method == "BCa":
        without = np.asarray(statistic(documents.sum(0) - documents))
        tails = _corrected(tails, estimate, values, without)
    low, high = (_percentile(values, part) for part in tails)
    return Interval(estimate[()], low[()], high[()])


def _by_set(documents: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The sums of whole sets: [sets, columns]."""
    if len(groups) != len(documents):
        raise InputError(
            f"there are {len(documents)} documents and {len(groups)} names "
            "of sets; give each document one"
        )
    names, code = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((len(names), documents.shape[1]))
    np.add.at(sums, code, documents)
    return sums


def _resamples(documents, count: int, seed: int) -> Iterator[np.ndarray]:
    """Sums of samples with replacement, [some samples, columns] each."""
    random, size = np.random.default_rng(seed), len(documents)
    step = max(CELLS // size, 1)
    for start in range(0, count, step):
        n = min(step, count - start)
        drawn = random.integers(0, size, (n, size))
        cells = (drawn + size * np.arange(n)[:, None]).ravel()
        times = np.bincount(cells, minlength=n * size).reshape(n, size)
        yield times @ documents


def _corrected(tails, estimate, values, without) -> np.ndarray:
    """The tails that BCa takes instead: [2, ...]."""
    from scipy.special import ndtr, ndtri

    below = (values < estimate).mean(0), (values <= estimate).mean(0)
    bias = ndtri((below[0] + below[1]) / 2)
    apart = without.mean(0) - without
    spread, cubes = np.square(apart).sum(0) ** 1.5, (apart**3).sum(0)
    skew = np.where(spread > 0, cubes / np.where(spread > 0, spread, 1), 0) / 6
    moved = bias + ndtri(tails)
    return ndtr(bias + moved / (1 - skew * moved))


def _percentile(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The quantile of each column at its own share: [...]."""
    columns = values.reshape(len(values), -1).T
    found = [
        np.quantile(column, share) if np.isfinite(column).all() else np.nan
        for column, share in zip(columns, shares.ravel(), strict=True)
    ]
    return np.reshape(found, shares.shape)
