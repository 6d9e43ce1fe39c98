"""Parts of a feature table, and the tables of random directions."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import InputError

if TYPE_CHECKING:
    from helpers.features import FeatureTable

ROWS = 8192  # tokens that are dense at a time


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``[s, s + 1, ..., s + c - 1]`` of each start and count, in one row.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - ends + counts, counts) + np.arange(total)


def take(table: "FeatureTable", kept: np.ndarray) -> "FeatureTable":
    """A table of some documents only, by their place in this one."""
    lengths = np.diff(table.offsets)[kept]
    tokens = ranges(table.offsets[kept], lengths)
    counts = np.diff(table.indptr)[tokens]
    entries = ranges(table.indptr[tokens], counts)
    return dataclasses.replace(
        table,
        values=table.values[entries],
        indices=table.indices[entries],
        indptr=_starts(counts),
        token_ids=table.token_ids[tokens],
        documents=table.documents[kept],
        offsets=_starts(lengths),
        char_start=table.char_start[tokens],
        char_end=table.char_end[tokens],
    )


def sample_sets(
    table: "FeatureTable", groups: np.ndarray, tokens: int, seed: int = 0
) -> np.ndarray:
    """Places of the documents of random matched sets: at most ``tokens``.

    ``groups`` [documents]: the set of each document of the table. Whole
    sets only, drawn in a random order until the next would be too many.
    """
    lengths = np.diff(table.offsets)
    names, place = np.unique(groups, return_inverse=True)
    size = np.bincount(place, weights=lengths)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = order[np.cumsum(size[order]) <= tokens]
    return np.flatnonzero(np.isin(place, chosen))


def halves(groups: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places of the documents of two random halves of the matched sets.

    Raises InputError for fewer than four sets.
    """
    names = np.unique(groups)
    if len(names) < 4:
        raise InputError(
            f"there are {len(names)} matched sets; to choose on one half "
            "and to score on the other takes at least 4"
        )
    shuffled = np.random.default_rng(seed).permutation(names)
    first = np.isin(groups, shuffled[: len(names) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def random_directions(
    neurons: "FeatureTable", count: int, seed: int = 0
) -> "FeatureTable":
    """The table of random directions in the space of the neurons.

    A direction is a random unit vector (uniform on the sphere); its
    activation is what the centred neurons have along it, where that is
    positive: what the encoder of an SAE computes before any training.
    """
    random = np.random.default_rng(seed)
    rows = random.standard_normal((neurons.d_sae, count)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=0)
    matrix = neurons.matrix()
    shift = (matrix.mean(0) @ rows).astype(np.float32)
    parts = [
        _positive(matrix[start : start + ROWS].toarray() @ rows - shift)
        for start in range(0, neurons.n_tokens, ROWS)
    ]
    values, indices, counts = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    return dataclasses.replace(
        neurons,
        d_sae=count,
        values=values,
        indices=indices,
        indptr=_starts(counts),
    )


def _positive(dense: np.ndarray):
    """Positive values, their columns, how many there are in each row."""
    values = dense.astype(np.float16)
    kept = values > 0
    columns = np.nonzero(kept)[1].astype(np.int32)
    return values[kept], columns, kept.sum(1)


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
