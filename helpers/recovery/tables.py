"""Parts of a feature table, and the tables of random directions."""

import dataclasses
import functools
from collections.abc import Mapping
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


def align(
    tables: Mapping[str, "FeatureTable"], most: int, seed: int = 0
) -> dict[str, "FeatureTable"]:
    """The tables on the documents that all of them have, ``most`` of these.

    They are drawn at random: an even step over a corpus whose labels take
    turns may favour some of them. Raises InputError if the tables have no
    document in common.
    """
    common = functools.reduce(
        np.intersect1d, [table.documents for table in tables.values()]
    )
    if not len(common):
        raise InputError(
            f"the tables of {', '.join(tables)} have no document in common; "
            "make them from the same split of one corpus"
        )
    common = np.random.default_rng(seed).permutation(common)[:most]
    return {
        name: take(table, np.flatnonzero(np.isin(table.documents, common)))
        for name, table in tables.items()
    }


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
