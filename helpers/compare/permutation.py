"""Permutation tests that exchange matched sets and never documents."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse

from helpers.compare.contrasts import Contrast, class_rows
from helpers.compare.effects import by_chunk, chunks

ROUNDING = 1e-4  # of a normalised statistic (float32 sums of ~1e3 terms)
RESOLVED = 10  # null statistics above the observed that settle a p-value
TAIL = 2.0  # standard deviations from which null statistics are pooled


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


@dataclass(frozen=True)
class Significance:
    """Two-sided p-values, each [..., d_sae]; see ``permutation_p``."""

    p: np.ndarray
    p_max: np.ndarray
    p_pooled: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """``p_pooled`` after Benjamini and Hochberg (1995).

        The features with q at most 0.05 are a list of which one in twenty,
        on average, is there by chance.
        """
        from scipy.stats import false_discovery_control

        if np.isnan(self.p_pooled).any():
            return np.full_like(self.p_pooled, np.nan)
        return false_discovery_control(self.p_pooled, axis=-1)


def matched_sets(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    features: np.ndarray | None = None,
) -> Units:
    """Reduce documents to their matched sets, for some or all features.

    Sets that have both classes are differenced (sets with only one are
    then left out); if fewer than half have both, the sets count as
    unmatched.
    """
    rows = class_rows(documents, contrast)
    groups = documents["group"].to_numpy()
    (names_a, a), (names_b, b) = (_averages(groups[r]) for r in rows)
    both = np.concatenate(rows)
    shared, in_a, in_b = np.intersect1d(names_a, names_b, return_indices=True)
    if 2 * len(shared) >= max(len(names_a), len(names_b)):
        labels, parts = None, [[a[in_a], -b[in_b]]]
    else:
        labels = np.arange(len(names_a) + len(names_b)) < len(names_a)
        parts = [[a, None], [None, b]]
    weights = scipy.sparse.block_array(parts, format="csr")
    if features is None:
        features = np.arange(maxima.shape[1])
    values = np.empty((weights.shape[0], len(features)), np.float32)
    for c in chunks(len(features)):
        values[:, c] = weights @ maxima[both[:, None], features[c]]
    return Units(values, labels)


def _averages(groups: np.ndarray) -> tuple[np.ndarray, scipy.sparse.csr_array]:
    """Names of sets, and the matrix [sets, documents] that averages them."""
    names, code, count = np.unique(
        groups, return_inverse=True, return_counts=True
    )
    share = (1 / count[code]).astype(np.float32)
    places = code, np.arange(len(groups))
    shape = len(names), len(groups)
    return names, scipy.sparse.csr_array((share, places), shape=shape)


def permutation_p(units: Units, permutations: int, seed: int) -> Significance:
    """Two-sided p-values per feature; NaN for 0 permutations.

    Columns are normalised so that a feature's scale does not matter; the
    normalised difference T is a monotone function of the t statistic,
    whose denominator no permutation changes. ``p`` = (1 + #{|T*| >= |T|})
    / (1 + P), never 0 (Phipson and Smyth 2010); ``p_max`` counts the
    largest |T*| of all features instead (Westfall and Young 1993).

    P permutations cannot tell apart what lies below 1 / (1 + P), and among
    thousands of features that is too coarse for Benjamini-Hochberg. So
    where fewer than RESOLVED of a feature's own T* reach its T, p_pooled
    counts the T* of all features, of which there are P times d_sae;
    elsewhere it equals p.

    Pooling is exact where the statistics have one common distribution.
    Relabelling gives each T* a variance of 1, but one that rests on k
    documents is discrete and ends at sqrt(k), so for sparse codes p_pooled
    is no p-value of the single feature: it is too small for some and too
    large for others. What stays valid is the count: the number of null
    features beyond T is on average at most what the pool predicts, as
    every feature, null or not, adds its own share to the pool. That is all
    that q rests on (Storey and Tibshirani 2003). A generalised Pareto tail
    a feature (Knijnenburg et al. 2009) was tried and left: from 250 of
    1,000 statistics it often puts the end of the tail below T, that is p =
    0, and elsewhere it scatters by more than pooling does.
    """
    if not permutations:
        return Significance(*np.full((3, units.values.shape[1]), np.nan))
    found = relabelled_p(units, identity(units)[None], permutations, seed)
    return Significance(found.p[0], found.p_max[0], found.p_pooled[0])


def relabelled_p(
    units: Units, given: np.ndarray, permutations: int, seed: int
) -> Significance:
    """``permutation_p`` of several labellings at once: [given, d_sae] each.

    ``given`` [given, sets] are weights as ``relabellings`` makes them. One
    set of permutations serves them all.
    """
    width = units.values.shape[1]
    weights = relabellings(units, permutations, seed)

    def part(c: slice) -> tuple[np.ndarray, ...]:
        values = normalised(units, c)
        seen = np.abs(given @ values) - ROUNDING
        size = weights @ values
        np.abs(size, out=size)
        count = [np.count_nonzero(size >= bound, axis=0) for bound in seen]
        return seen, np.stack(count), size.max(1), size[size >= TAIL]

    found = by_chunk(part, width)
    seen, count, highest, tail = zip(*found, strict=True)
    observed, count = np.hstack(seen), np.hstack(count)
    own = (1 + count) / (1 + permutations)
    above = _reaching(np.max(highest, axis=0), observed)
    pooled = _reaching(np.concatenate(tail), np.maximum(observed, TAIL))
    pooled = (1 + pooled) / (1 + permutations * width)
    return Significance(
        own,
        (1 + above) / (1 + permutations),
        np.where(count < RESOLVED, pooled, own),
    )


def _reaching(null: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """How many of ``null`` [n] are at least ``bound``, elementwise."""
    null = np.sort(null)
    return len(null) - np.searchsorted(null, bound)


def normalised(units: Units, c: slice = slice(None)) -> np.ndarray:
    """Columns of unit norm, for some features: float32 [sets, chunk]."""
    values = units.values[:, c].astype(np.float32)
    if units.labels is not None:
        values -= values.mean(0)
    norm = np.sqrt(np.einsum("sf,sf->f", values, values, dtype=np.float64))
    return np.divide(values, norm, out=values, where=norm > 0)


def identity(units: Units) -> np.ndarray:
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


def relabellings(units: Units, count: int, seed: int) -> np.ndarray:
    """Weights [count, sets] of random relabellings."""
    rng = np.random.default_rng(seed)
    shape = (count, len(units.values))
    if units.labels is None:
        signs = rng.integers(0, 2, shape, dtype=np.int8)
        return signs.astype(np.float32) * 2 - 1
    labels = np.broadcast_to(units.labels, shape)
    return _balance(rng.permuted(labels, axis=1))
