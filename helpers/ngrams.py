"""Unigram and bigram baselines, counted on the training stream.

A transformer that does not beat the bigram has learned nothing that a
table of neighbours does not know.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Unigram:
    """p(w) = (c(w) + 1) / (n + vocabulary): add-one smoothed counts."""

    log_p: np.ndarray  # float64 [vocab], nats

    @classmethod
    def fit(cls, stream: np.ndarray, vocab_size: int) -> "Unigram":
        """Count a stream of tokens [n]."""
        return cls(np.log(_add_one(np.bincount(stream, minlength=vocab_size))))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Cross-entropy of each next token: [batch, pos] -> [batch, pos - 1]
        in nats; the first token of a row is given."""
        return -self.log_p[rows[:, 1:]]


@dataclasses.dataclass(frozen=True)
class Bigram:
    """Interpolated Kneser-Ney (Chen & Goodman 1999, section 3):

    p(w | v) = (max(c(vw) - d, 0) + d t(v) q(w)) / c(v)

    with c(v) how often v was followed by anything, t(v) how many different
    tokens followed it, and q(w) the share of the distinct pairs that end in
    w, add-one smoothed. The discount is d = n1 / (n1 + 2 n2), for n1 and n2
    pairs seen once and twice. A token that was never followed gets q.
    """

    pairs: np.ndarray  # int64 [n_pairs], v * vocab + w, sorted
    counts: np.ndarray  # int64 [n_pairs]
    followed: np.ndarray  # int64 [vocab], c(v)
    kinds: np.ndarray  # int64 [vocab], t(v)
    q: np.ndarray  # float64 [vocab]
    discount: float

    @classmethod
    def fit(cls, stream: np.ndarray, vocab_size: int) -> "Bigram":
        """Count the neighbours in a stream of tokens [n]."""
        before = np.asarray(stream[:-1], np.int64)
        pairs, counts = np.unique(
            before * vocab_size + stream[1:], return_counts=True
        )
        first, second = np.divmod(pairs, vocab_size)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        return cls(
            pairs,
            counts,
            np.bincount(before, minlength=vocab_size),
            np.bincount(first, minlength=vocab_size),
            _add_one(np.bincount(second, minlength=vocab_size)),
            float(once / (once + 2 * twice)) if once else 0.0,
        )

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Cross-entropy of each next token: [batch, pos] -> [batch, pos - 1]
        in nats."""
        rows = np.asarray(rows, np.int64)
        return -np.log(self.probability(rows[:, :-1], rows[:, 1:]))

    def probability(self, before: np.ndarray, after: np.ndarray):
        """p(after | before), for integer arrays that broadcast together."""
        before, after = np.broadcast_arrays(before, after)
        wanted = before * len(self.q) + after
        at = np.searchsorted(self.pairs, wanted).clip(max=len(self.pairs) - 1)
        count = np.where(self.pairs[at] == wanted, self.counts[at], 0)
        total = self.followed[before]
        seen = np.maximum(count - self.discount, 0)
        left = self.discount * self.kinds[before]
        p = (seen + left * self.q[after]) / np.maximum(total, 1)
        return np.where(total > 0, p, self.q[after])


def _add_one(counts: np.ndarray) -> np.ndarray:
    """Add-one smoothed shares: float64, summing to 1."""
    return (counts + 1) / (counts.sum() + len(counts))
