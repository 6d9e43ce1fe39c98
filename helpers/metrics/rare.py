"""Are rare latents more alike than others?

Nanda (2023) found that latents which seldom fire share almost one direction
in the encoder. Here each is compared with the mean of the *other* rare
ones, so that it is not part of what it is compared with, and the
difference from the remaining latents with that for shuffled labels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers.errors import InputError, unknown
from helpers.metrics.arrays import table
from helpers.metrics.intervals import Interval, bootstrap

COLUMNS = ["side", "group", "cosine"]
AT_ONCE = 100  # shuffles computed together, which bounds the memory
BAND = (0.1, 0.5, 0.9)  # the quantiles that ``by_density`` gives


class Excess(NamedTuple):
    """How much more alike the rare latents are; see ``rare_excess``."""

    rare: float  # mean cosine of a rare one with the mean of the others
    others: float  # mean cosine of the remaining with the mean rare one
    difference: Interval
    null_low: float  # central 95% of the differences with shuffled labels
    null_high: float
    p: float  # share of shuffles with as large a difference, one-sided

    def flat(self) -> dict[str, float]:
        """The fields in a row, with difference, low and high."""
        row = self._asdict()
        one = row.pop("difference")
        ends = {"difference": one.estimate, "low": one.low, "high": one.high}
        return {"rare": row.pop("rare"), "others": row.pop("others")} | (
            ends | row
        )


def rarest(density: np.ndarray, share: float = 0.1) -> np.ndarray:
    """The ``share`` of the latents that fire which do so least: [d_sae].

    ``density`` [d_sae]; of equal ones the first. At least one, where any
    latent fires; silent ones are never among them.
    """
    live = np.flatnonzero(density)
    order = live[np.argsort(density[live], kind="stable")]
    chosen = np.zeros(len(density), dtype=bool)
    chosen[order[: max(int(share * len(live)), 1)]] = True
    return chosen


def cosines(one, other) -> np.ndarray:
    """Cosine of each row with the same row of ``other``: [d_sae].

    Both [d_sae, d_in], such as encoder columns and decoder rows.
    """
    one, other = table(one, "vectors"), table(other, "vectors")
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / lengths


def rare_cosines(vectors, rare: np.ndarray) -> np.ndarray:
    """Each latent's cosine with the mean of the other rare ones: [d_sae].

    ``vectors`` [d_sae, d_in]: encoder columns (``W_enc.T``) or decoder
    rows; ``rare`` [d_sae] bool. A rare latent is left out of the mean that
    it is compared with. InputError unless two latents or more are rare and
    at least one is not.
    """
    vectors, rare = _checked(vectors, rare)
    return _cosines(vectors, rare[None].astype(float))[0]


def rare_excess(
    vectors, rare: np.ndarray, *, shuffles: int = 999, seed: int = 0
) -> Excess:
    """Mean ``rare_cosines`` of the rare latents minus that of the others.

    Arguments and errors as there. The interval is a bootstrap over latents
    (BCa, 95%) with the mean direction held fixed; the null draws as many
    latents at random and calls those rare.
    """
    vectors, rare = _checked(vectors, rare)
    cosines = _cosines(vectors, rare[None].astype(float))[0]
    sides = rare, ~rare
    sums = np.stack([c for s in sides for c in (cosines * s, s)], axis=1)
    found = bootstrap(sums, _difference, resamples=1000, seed=seed)
    null = _shuffled(vectors, int(rare.sum()), shuffles, seed)
    low, high = np.quantile(null, (0.025, 0.975))
    p = (1 + (null >= found.estimate).sum()) / (1 + shuffles)
    return Excess(
        cosines[rare].mean(), cosines[~rare].mean(), found, low, high, p
    )


def rare_table(
    sides: Mapping[str, np.ndarray],
    chosen: Mapping[str, np.ndarray],
    seed: int = 0,
) -> pd.DataFrame:
    """``rare_excess`` of every side and choice, a row each.

    ``sides``: name -> vectors [d_sae, d_in]; ``chosen``: name -> [d_sae]
    bool, of which those with fewer than two, or all, are left out. Index
    which and side; columns latents (chosen) and the fields of ``Excess``.
    """
    rows = {}
    for which, rare in chosen.items():
        if 2 <= rare.sum() < len(rare):
            for side, vectors in sides.items():
                found = rare_excess(vectors, rare, seed=seed).flat()
                rows[which, side] = {"latents": rare.sum()} | found
    return pd.DataFrame(rows).T.rename_axis(["which", "side"])


def rare_distributions(
    sides: Mapping[str, np.ndarray], rare: np.ndarray
) -> pd.DataFrame:
    """``rare_cosines`` of every side, a row a latent: side, group, cosine.

    group is "rare" or "others". Without a row where they cannot be compared.
    """
    groups = np.where(rare, "rare", "others")
    parts = [
        pd.DataFrame({"side": side, "group": groups,
                      "cosine": rare_cosines(vectors, rare)})
        for side, vectors in sides.items()
        if 2 <= rare.sum() < len(rare)
    ]  # fmt: skip
    return pd.concat(parts) if parts else pd.DataFrame(columns=COLUMNS)


def by_density(
    values: dict[str, np.ndarray], density: np.ndarray, width: float = 0.5
) -> pd.DataFrame:
    """Quantiles of some values of the latents, by how often they fire.

    ``values``: name -> [d_sae]; ``density`` [d_sae]. Latents that fire are
    put into classes of ``width`` on the scale of log10 density. -> a row a
    value and class: value, density (log10, middle of the class), latents,
    low, median, high (the BAND).
    """
    live = density > 0
    place = np.floor(np.log10(density[live]) / width)
    rows = []
    for name, column in values.items():
        for at, part in pd.Series(np.asarray(column)[live]).groupby(place):
            middle = (at + 0.5) * width
            rows.append((name, middle, len(part), *part.quantile([*BAND])))
    columns = ["value", "density", "latents", "low", "median", "high"]
    return pd.DataFrame(rows, columns=columns)


def _checked(vectors, rare) -> tuple[np.ndarray, np.ndarray]:
    vectors, rare = table(vectors, "vectors"), np.asarray(rare, dtype=bool)
    if rare.shape != vectors.shape[:1]:
        raise unknown("shape of rare", rare.shape, [vectors.shape[:1]])
    if not 2 <= rare.sum() < len(rare):
        raise InputError(
            f"{rare.sum()} of {len(rare)} latents are rare; to compare them "
            "with each other and with the rest takes two, and a rest"
        )
    return vectors, rare


def _cosines(vectors: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Cosines with the mean of each set without oneself: [sets, d_sae].

    ``sets`` [sets, d_sae], 1 for members. With s the sum of a set, a member
    w has (s - w).w / (||s - w|| ||w||), which needs s.w and ||s|| alone.
    """
    square = np.square(vectors).sum(1)
    total = sets @ vectors
    dot = total @ vectors.T
    length = np.square(total).sum(1)[:, None] - sets * (2 * dot - square)
    dot -= sets * square
    return dot / np.sqrt(np.maximum(length * square, 1e-30))


def _shuffled(vectors, count: int, shuffles: int, seed: int) -> np.ndarray:
    """Differences for random sets of ``count`` latents: [shuffles]."""
    random, size = np.random.default_rng(seed), len(vectors)
    vectors, found = vectors.astype(np.float32), []
    for start in range(0, shuffles, AT_ONCE):
        n = min(AT_ONCE, shuffles - start)
        sets = np.zeros((n, size), np.float32)
        for row in sets:
            row[random.permutation(size)[:count]] = 1
        cosines = _cosines(vectors, sets)
        inside = (cosines * sets).sum(1)
        outside = cosines.sum(1) - inside
        found.append(inside / count - outside / (size - count))
    return np.concatenate(found)


def _difference(sums: np.ndarray) -> np.ndarray:
    """Mean of the rare minus mean of the others: [..., 4] -> [...]."""
    rare, n, others, m = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore"):  # a sample without a rare latent
        return rare / n - others / m
