"""A feature table by columns: every unit's activations in order of size.

From this order the best threshold of *all* units for a target follows from
the target's own tokens alone: F1 can only be largest where the threshold is
the activation of a positive, and how many tokens lie above is a rank that
is known beforehand. The cost is one pass over the entries of the positives,
whatever the number of units, tokens and thresholds.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from helpers.recovery.tables import ranges

if TYPE_CHECKING:
    from helpers.features import FeatureTable


class Best(NamedTuple):
    """The best unit by some score; ``threshold``: fires at or above it."""

    unit: int
    threshold: float
    score: float


class Scores(NamedTuple):
    """What the units with an entry on a target's tokens can reach.

    ``units`` [n]; ``f1`` [n] at each one's best ``threshold`` [n]; ``auroc``
    [n]. The units that are silent on all of the target are left out.
    """

    units: np.ndarray
    f1: np.ndarray
    threshold: np.ndarray
    auroc: np.ndarray

    def best(self, by: str) -> Best:
        """The unit with the highest ``f1`` or ``auroc``; the first of equals.

        With no unit at all: unit 0, at a threshold that it never reaches.
        """
        if not len(self.units):
            return Best(0, np.inf, 0.0 if by == "f1" else 0.5)
        scores = getattr(self, by)
        at = int(np.argmax(scores))
        found = self.units[at], self.threshold[at], scores[at]
        return Best(int(found[0]), float(found[1]), float(found[2]))


class Columns:
    """The entries of a table sorted by unit, then from high to low."""

    def __init__(self, table: "FeatureTable"):
        self.n_tokens, self.d_sae = table.n_tokens, table.d_sae
        self.indptr = np.asarray(table.indptr)
        order, self.unit, self.value = _sorted(table.indices, table.values)
        self.place = np.empty(len(order), np.int32)
        self.place[order] = np.arange(len(order), dtype=np.int32)
        self.token = table.token_of.astype(np.int32)[order]
        counts = np.bincount(self.unit, minlength=self.d_sae)
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self._rank()

    def _rank(self) -> None:
        """How many entries of its unit are as large; the rank from below.

        Equal activations share the mean of their ranks; the tokens on
        which a unit is silent are all equal and lowest.
        """
        new = np.ones(len(self.unit), bool)
        new[1:] = self.value[1:] != self.value[:-1]
        new[self.starts[:-1][np.diff(self.starts) > 0]] = True
        first = np.flatnonzero(new)
        size = np.diff(np.append(first, len(new)))
        above = first - self.starts[self.unit[first]]
        reach = above + size
        rank = self.n_tokens - (above + reach - 1) / 2
        self.reach = np.repeat(reach.astype(np.int32), size)
        self.rank = np.repeat(rank.astype(np.float32), size)

    def column(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and activations of one unit, from high to low."""
        part = slice(self.starts[unit], self.starts[unit + 1])
        return self.token[part], self.value[part]

    def fired(self, unit: int, threshold: float) -> np.ndarray:
        """The tokens on which a unit is active at ``threshold`` or more."""
        tokens, values = self.column(unit)
        return tokens[: np.searchsorted(-values, -threshold, side="right")]

    def scores(self, positives: np.ndarray) -> Scores:
        """F1 and AUROC of every unit for a target, given its tokens.

        F1 = 2 TP / (fired + positives), at the best threshold. AUROC = U /
        (positives * negatives), with U from the sum of ranks (Mann and
        Whitney 1947); ties count one half.
        """
        counts = np.diff(self.indptr)[positives]
        at = self.place[ranges(self.indptr[positives], counts)]
        at.sort()
        units = self.unit[at]
        first = np.flatnonzero(np.diff(units, prepend=-1))
        size = np.diff(np.append(first, len(at)))
        if not len(at):
            empty = np.zeros(0)
            return Scores(units, empty, empty, empty)
        true = np.arange(1, len(at) + 1) - np.repeat(first, size)
        f1 = 2 * true / (self.reach[at] + len(positives))
        top = np.maximum.reduceat(f1, first)
        hit = np.flatnonzero(f1 == np.repeat(top, size))
        hit = hit[np.searchsorted(hit, first)]
        names = units[first]
        sums = np.add.reduceat(self.rank[at].astype(np.float64), first)
        auroc = self._auroc(names, sums, size, len(positives))
        return Scores(names, top, self.value[at[hit]], auroc)

    def auroc(self, unit: int, positive: np.ndarray) -> float:
        """One unit's AUROC; ``positive`` [tokens] marks the target's."""
        part = slice(self.starts[unit], self.starts[unit + 1])
        held = positive[self.token[part]]
        sums = self.rank[part][held].sum(dtype=np.float64)
        count = np.array([held.sum()])
        return float(
            self._auroc(np.array([unit]), sums, count, positive.sum())[0]
        )

    def _auroc(self, units, sums, size, positives) -> np.ndarray:
        """From the ranks' sums over the positives that have an entry."""
        silent = self.n_tokens - (self.starts[units + 1] - self.starts[units])
        total = sums + (positives - size) * (silent + 1) / 2
        u = total - positives * (positives + 1) / 2
        return u / max(positives * (self.n_tokens - positives), 1)


def _sorted(indices, values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries by unit, then from high to low: places, units, values.

    The bits of positive 16-bit floats are in the order of their size, so
    unit, value and place fit into one integer, which sorts fast. Equal ones
    keep their order.
    """
    bits = np.asarray(values, np.float16).view(np.uint16)
    key = np.asarray(indices).astype(np.uint64) << np.uint64(16)
    key |= 0xFFFF - bits
    key <<= np.uint64(31)
    key |= np.arange(len(key), dtype=np.uint64)
    key.sort()
    place = (key & np.uint64(0x7FFFFFFF)).astype(np.int32)
    key >>= np.uint64(31)
    bits = 0xFFFF - (key & np.uint64(0xFFFF)).astype(np.uint16)
    unit = (key >> np.uint64(16)).astype(np.int32)
    return place, unit, bits.view(np.float16).astype(np.float32)
