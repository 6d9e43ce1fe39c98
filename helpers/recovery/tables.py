"""Parts of a feature table, and the tables of directions."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.errors import InputError
from helpers.recovery.sample import sets_with

if TYPE_CHECKING:
    from helpers.features import Directions, FeatureTable

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


def halves(
    documents: pd.DataFrame, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the documents of two halves of the matched sets.

    At random, but for each factor about as many sets in either: sets are
    dealt out in a random order, those with the rarest factors first, each
    to the half that makes the sum of ((n - m) / (n + m))^2 over the factors
    smaller, n and m being the sets of the halves. Only labels decide.
    Raises InputError for fewer than four sets.
    """
    has = sets_with(documents)
    if len(has) < 4:
        raise InputError(
            f"there are {len(has)} matched sets; to choose on one half "
            "and to score on the other takes at least 4"
        )
    side = _dealt(has.to_numpy(), np.random.default_rng(seed))
    of = pd.Series(side, has.index)[documents["group"]].to_numpy()
    return np.flatnonzero(of == 0), np.flatnonzero(of == 1)


def _dealt(has: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A side, 0 or 1, for each row of ``has`` [sets, factors]."""
    has = np.column_stack([has, np.ones(len(has), bool)])  # and all sets
    total = np.maximum(has.sum(0), 1)
    rarest = np.where(has, total, len(has)).min(1)
    order = random.permutation(len(has))
    lead, side = np.zeros(has.shape[1]), np.zeros(len(has), int)
    for one in order[np.argsort(rarest[order], kind="stable")]:
        side[one] = (lead / total**2)[has[one]].sum() > 0
        lead += np.where(side[one], -1, 1) * has[one]
    return side


def along(neurons: "FeatureTable", given: "Directions") -> "FeatureTable":
    """The table of directions, read off the table of the neurons.

    What ``features.make_features`` gives for the directions, without
    another pass of the model (up to the neurons' 16 bits).
    """
    import torch

    matrix = neurons.matrix()
    parts = [
        _positive(
            given.encode(
                torch.from_numpy(matrix[start : start + ROWS].toarray())
            ).numpy()
        )
        for start in range(0, neurons.n_tokens, ROWS)
    ]
    values, indices, counts = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    return dataclasses.replace(
        neurons,
        d_sae=given.d_sae,
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
