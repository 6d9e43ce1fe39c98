"""How alike two dictionaries are: MMCS, MCC, uniqueness.

A dictionary is a set of directions, a row each: a decoder's rows, or the
true features of synthetic data. Lengths do not matter. A row of zeros (a
latent that was never used) resembles nothing: its cosines are 0.
"""

from collections.abc import Iterator

import numpy as np

from helpers.errors import InputError
from helpers.metrics.arrays import table

ROWS = 1024  # rows compared at a time, which bounds the memory


def mmcs(reference, learned) -> float:
    """Mean over reference rows of the largest cosine with a learned row.

    ``reference`` [n, d], ``learned`` [m, d]. Mean max cosine similarity
    (Sharkey et al. 2022; Cunningham et al. 2023). Opposite directions do
    not match: no absolute value. Not symmetric: a reference row that was
    not learned costs, a learned row that resembles none does not. The other
    direction is ``mmcs(learned, reference)``.
    """
    largest = [part.max(1) for part in _cosines(reference, learned)]
    return float(np.concatenate(largest).mean())


def mcc(reference, learned) -> float:
    """Mean |cosine| over the best one-to-one matching of the rows.

    ``reference`` [n, d], ``learned`` [m, d]: min(n, m) pairs, chosen by the
    Hungarian algorithm to make the mean as large as possible. Symmetric;
    each row is used once, so that copies do not pay. SAELens'
    ``mean_correlation_coefficient``, after Song et al. 2025.
    """
    from scipy.optimize import linear_sum_assignment

    cosines = np.abs(np.concatenate(list(_cosines(reference, learned))))
    pairs = linear_sum_assignment(cosines, maximize=True)
    return float(cosines[pairs].mean())


def uniqueness(reference, learned) -> float:
    """Distinct best matches of the learned rows, over the learned rows.

    ``reference`` [n, d], ``learned`` [m, d]. The best match of a learned
    row is the reference row with the largest |cosine|. 1 where each learned
    row follows another reference row; never above n / m. SAELens'
    ``feature_uniqueness`` (which takes the learned rows first).
    """
    best = [np.abs(part).argmax(1) for part in _cosines(learned, reference)]
    matched = np.concatenate(best)
    return len(np.unique(matched)) / len(matched)


def _cosines(one, other) -> Iterator[np.ndarray]:
    """Cosines of [n, d] with [m, d]: [some rows, m], top to bottom."""
    one, other = table(one, "a dictionary"), table(other, "a dictionary")
    if one.shape[1] != other.shape[1]:
        raise InputError(
            f"the dictionaries have {one.shape[1]} and {other.shape[1]} "
            "dimensions; only directions of the same space can be compared"
        )
    one, other = _unit(one), _unit(other)
    for start in range(0, len(one), ROWS):
        yield one[start : start + ROWS] @ other.T


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row at unit length; rows of zeros stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, where=lengths > 0, out=rows * 0)
