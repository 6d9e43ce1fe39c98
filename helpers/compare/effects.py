"""Effect sizes, a column at a time: nothing here knows about corpora."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

CHUNK = 2048  # features at a time: a [2000, 2048] float32 block is 16 MiB
THREADS = 8  # at most: each holds some 100 MB of one chunk
ALIKE = 1e-9  # values this close, relative to their mean, do not vary


class Entries:
    """Two classes of documents as a list of values, for sparse features.

    An entry is one value that is not zero, or all the zeros of a feature
    in a class at once: ``feature``, ``treated`` (class), ``value`` and
    ``weight`` (documents it stands for), each [entries]. The ``stored``
    values come first, in order of feature, with their ``row`` [stored]
    among the documents; the zeros follow, one entry a ``cell``. Cells are
    numbered as [2, d_sae]: control, then treatment.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray):
        x = np.ascontiguousarray(np.concatenate([a, b]).T)
        self.width, place = len(x), np.flatnonzero(x.ravel() != 0)
        self.stored = len(place)
        feature, self.row = np.divmod(place, x.shape[1])
        self.size = np.array([[len(b)], [len(a)]])
        zeros = np.arange(2 * self.width)
        treated = self.row < len(a)
        cell = treated * self.width + feature
        held = np.bincount(cell, minlength=len(zeros)).reshape(2, -1)
        self.cell = np.append(cell, zeros)
        self.feature = np.append(feature, zeros % self.width)
        self.treated = np.append(treated, zeros >= self.width)
        value = x.ravel()[place].astype(np.float64)
        self.value = np.append(value, np.zeros(len(zeros)))
        self.weight = np.append(np.ones(len(cell)), self.size - held)

    def mean(self, quantity: np.ndarray) -> np.ndarray:
        """Mean over documents of a quantity [entries]: [2, d_sae]."""
        return self._sum(self.weight * quantity) / self.size

    def squares(self, mean: np.ndarray) -> np.ndarray:
        """Sum of squared distances from ``mean`` [2, d_sae], likewise."""
        away = self.value - mean.ravel()[self.cell]
        found = self._sum(self.weight * away**2)
        return np.where(found > self.size * (ALIKE * mean) ** 2, found, 0)

    def _sum(self, quantity: np.ndarray) -> np.ndarray:
        total = np.bincount(self.cell, quantity, 2 * self.width)
        return total.reshape(2, self.width)


def cohens_d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Difference of means over the pooled standard deviation (Cohen 1988).

    ``a`` [n, d_sae], ``b`` [m, d_sae] -> [d_sae]. 0 where the means are
    equal, NaN where they differ but neither class varies.
    """
    entries = Entries(a, b)
    mean = entries.mean(entries.value)
    return standardised(mean, entries.squares(mean), len(a) + len(b))


def standardised(
    mean: np.ndarray, squares: np.ndarray, documents: int
) -> np.ndarray:
    """Cohen's d from class means and sums of squares [2, d_sae]."""
    difference = mean[1] - mean[0]
    spread = np.sqrt(squares.sum(0) / max(documents - 2, 1))
    equal = np.abs(difference) <= ALIKE * np.abs(mean).max(0)
    undefined = np.where(equal, 0.0, np.nan)
    return np.divide(difference, spread, out=undefined, where=spread > 0)


def auroc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P(a > b) + P(a = b) / 2, the Mann-Whitney U over n m, per column.

    ``a`` [n, d_sae], ``b`` [m, d_sae] -> [d_sae]; 0.5 means that the
    feature's maximum does not order the two classes.
    """
    scores = []
    for c in chunks(a.shape[1]):
        entries = Entries(a[:, c], b[:, c])
        scores.append(entries.mean(placements(entries))[1])
    return np.concatenate(scores) if scores else np.zeros(0)


def placements(entries: Entries) -> np.ndarray:
    """Where each document stands among those of the other class: [entries].

    Of the treatment, the share of the control below it; of the control,
    the share of the treatment above it; ties count one half. The mean over
    either class is the AUROC (structural components; DeLong et al. 1988).
    """
    order = _by_value(entries)
    feature, value = entries.feature[order], entries.value[order]
    starts = np.append(True, feature[1:] != feature[:-1])
    new = starts | np.append(True, value[1:] != value[:-1])
    tie = np.cumsum(new) - 1
    first = np.flatnonzero(starts[new])  # of the ties of each feature
    belongs = np.cumsum(starts[new]) - 1
    placed = np.empty(len(order))
    for treated, others in ((True, 0), (False, 1)):
        weight = np.where(entries.treated == treated, 0, entries.weight)
        here = np.bincount(tie, weight[order])
        below = np.cumsum(here) - here
        share = below - below[first][belongs] + here / 2
        share = share[tie] / entries.size[others, 0]
        mine = entries.treated[order] == treated
        placed[order[mine]] = share[mine] if treated else 1 - share[mine]
    return placed


def _by_value(entries: Entries) -> np.ndarray:
    """Order of the entries by feature, then value.

    As ``np.lexsort``, in a third of its time: the second sort is by digits
    where features are few enough for 16 bits.
    """
    order = np.argsort(entries.value)
    feature = entries.feature[order]
    feature = feature.astype(np.min_scalar_type(entries.width))
    return order[np.argsort(feature, kind="stable")]


def chunks(width: int) -> list[slice]:
    """Slices over ``width`` features, small enough to stay in memory."""
    return [slice(s, s + CHUNK) for s in range(0, width, CHUNK)]


def by_chunk(work: Callable[[slice], Any], width: int) -> list:
    """``work`` on each of the ``chunks``, on several cores, in their order.

    NumPy lets go of the interpreter in its loops, so threads are enough.
    Every chunk is computed by itself: the cores change no bit.
    """
    slices, cores = chunks(width), min(len(os.sched_getaffinity(0)), THREADS)
    if min(len(slices), cores) < 2:
        return [work(c) for c in slices]
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(work, slices))
