"""Minimal pairs: what changes within a matched set, and where it shows."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.compare.contrasts import Contrast, live_in
from helpers.compare.permutation import matched_sets, permutation_p
from helpers.errors import InputError, unknown

if TYPE_CHECKING:
    from helpers.features import FeatureTable

LEVEL = 0.95
NAMED = ["contrast", "treatment", "control", "feature", "sets"]
FOUND = ["difference", "low", "high", "d_z", "higher", "lower"]
TESTED = ["p", "p_max", "p_pooled", "q"]


def paired(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    **settings,
) -> pd.DataFrame:
    """``paired_contrast`` of several contrasts, one tidy table."""
    parts = [
        paired_contrast(maxima, documents, contrast, **settings)
        for contrast in contrasts
    ]
    return pd.concat(parts, ignore_index=True)


def paired_contrast(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    *,
    threshold: float = 1e-3,
    min_documents: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Differences within matched sets: a row a live feature.

    Each set gives one difference, treatment minus control (documents of one
    class are averaged). Columns: contrast, treatment, control, feature,
    sets; difference (the mean, equal to the deflection where every set has
    both classes) with low and high (95%, Student's t over sets); d_z, mean
    over standard deviation of the differences (Cohen 1988, section 2.3.5),
    NaN where they are all equal and not 0; higher and lower, shares of the
    sets in which the treatment has more, or less; p, p_max, p_pooled and q
    of ``permutation_p``, which flips the signs of whole sets.

    Raises InputError for a label that is not there, if no feature is live,
    or if fewer than half of the sets have both classes.
    """
    live = live_in(maxima, documents, contrast, threshold, min_documents)
    units = matched_sets(maxima, documents, contrast, live)
    if units.labels is not None:
        raise InputError(
            f"fewer than half of the sets of {contrast.name} have both "
            "classes; compare them with compare_pair, which needs no pairs"
        )
    found = permutation_p(units, permutations, seed)
    return _differences(units.values.astype(np.float64)).assign(
        contrast=contrast.name,
        treatment=contrast.treatment,
        control=contrast.control,
        feature=live,
        **{name: getattr(found, name) for name in TESTED},
    )[NAMED + FOUND + TESTED]


def _differences(values: np.ndarray) -> pd.DataFrame:
    """Summary of differences [sets, d_sae], a row a feature."""
    from scipy.stats import t

    sets = len(values)
    mean = values.mean(0)
    spread = values.std(0, ddof=1) if sets > 1 else np.zeros_like(mean)
    reach = t.ppf((1 + LEVEL) / 2, max(sets - 1, 1)) * spread / np.sqrt(sets)
    undefined = np.where(mean == 0, 0.0, np.nan)
    return pd.DataFrame(
        {
            "sets": sets,
            "difference": mean,
            "low": mean - reach,
            "high": mean + reach,
            "d_z": np.divide(mean, spread, out=undefined, where=spread > 0),
            "higher": (values > 0).mean(0),
            "lower": (values < 0).mean(0),
        }
    )


def twins(
    documents: pd.DataFrame,
    contrast: Contrast,
    by: Sequence[str] = ("group",),
) -> np.ndarray:
    """Row numbers of the pairs of a contrast: [pairs, 2], treatment first.

    Two documents are a pair if they agree in the columns ``by``; documents
    without a partner are left out. Raises InputError for a label that is
    not there and where several documents could be the partner.
    """
    labels = documents["label"].to_numpy()
    sides = []
    for name in (contrast.treatment, contrast.control):
        if name not in labels:
            raise unknown("label", name, dict.fromkeys(labels))
        rows = np.flatnonzero(labels == name)
        keys = documents.iloc[rows][list(by)].reset_index(drop=True)
        if keys.duplicated().any():
            raise InputError(
                f"several documents {name!r} agree in {', '.join(by)}; add "
                "a column that tells them apart"
            )
        sides.append(keys.assign(row=rows))
    both = sides[0].merge(sides[1], on=list(by), suffixes=("_a", "_b"))
    return both[["row_a", "row_b"]].to_numpy()


def divergence(table: "FeatureTable", pairs: np.ndarray) -> pd.DataFrame:
    """Token by token, how far the codes of two twins are apart.

    ``pairs`` [pairs, 2]: documents of the table. Tokens are compared at the
    same position. -> a row a pair and position: pair, offset (tokens after
    the first one that differs; before it negative), same (is it the same
    token?) and difference, sum |f - g| / sum (f + g) over features: 0 where
    the codes are equal, 1 where they share no feature. Pairs of which one is
    the beginning of the other, or equal to it, are left out.
    """
    pairs = np.asarray(pairs)
    counts = np.diff(table.offsets)[pairs].min(1)
    pair = np.repeat(np.arange(len(pairs)), counts)
    position = np.arange(counts.sum()) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
    tokens = table.offsets[pairs[pair]] + position[:, None]
    same = np.equal(*table.token_ids[tokens].T)
    frame = pd.DataFrame({"pair": pair, "offset": position, "same": same})
    first = frame[~same].groupby("pair")["offset"].min()
    frame["offset"] -= frame["pair"].map(first)
    frame["difference"] = _apart(table, tokens)
    frame = frame.dropna().reset_index(drop=True)
    return frame.astype({"offset": int})


def _apart(table: "FeatureTable", tokens: np.ndarray) -> np.ndarray:
    """Relative L1 distance of the codes of two tokens a row: [rows]."""
    matrix = table.matrix()
    first, second = matrix[tokens[:, 0]], matrix[tokens[:, 1]]
    gap = np.asarray(abs(first - second).sum(1), np.float64)
    total = np.asarray((first + second).sum(1), np.float64)
    return np.divide(gap, total, out=np.zeros_like(gap), where=total > 0)


def carried(
    apart: pd.DataFrame,
    groups: np.ndarray,
    *,
    reach: tuple[int, int] = (-5, 12),
    least: int = 10,
) -> pd.DataFrame:
    """How far a difference is carried on: a row a distance in tokens.

    ``apart``: what ``divergence`` returns; ``groups`` [pairs]: their matched
    sets. Of the tokens from the first difference on, only those count that
    are the same in both twins: their codes differ by what came before them
    alone. The first differing token itself, at 0, is the exception. ->
    offset, difference (mean over sets), low and high (95%, Student's t over
    sets), pairs, sets; distances with fewer than ``least`` sets are left out.
    """
    from scipy.stats import t

    kept = apart["same"] | (apart["offset"] == 0)
    frame = apart[kept & apart["offset"].between(*reach)]
    frame = frame.assign(group=np.asarray(groups)[frame["pair"]])
    by_set = frame.groupby(["offset", "group"])["difference"].mean()
    by = by_set.groupby("offset")
    mean, error, sets = by.mean(), by.sem(), by.size()
    wide = t.ppf((1 + LEVEL) / 2, np.maximum(sets - 1, 1)) * error
    curve = pd.DataFrame(
        {
            "difference": mean,
            "low": mean - wide,
            "high": mean + wide,
            "pairs": frame.groupby("offset").size(),
            "sets": sets,
        }
    )
    return curve[curve["sets"] >= max(least, 2)].reset_index()
