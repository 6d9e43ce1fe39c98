"""Parallel documents: how much of what is active do twins share?"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from helpers.compare.contrasts import Contrast, class_rows, set_means
from helpers.errors import InputError


@dataclass(frozen=True)
class Overlap:
    """Active feature mass shared by twins and by shuffled pairs.

    ``twins`` [sets]: share of each document's mass that lies in features
    also active in its twin; ``shuffled`` [sets]: the same, averaged over
    the twins of all *other* sets. ``p``: one-sided, over re-pairings.
    """

    twins: np.ndarray
    shuffled: np.ndarray
    p: float

    @property
    def excess(self) -> float:
        """Mean share with the twin beyond that with a stranger."""
        return float((self.twins - self.shuffled).mean())


def shared_mass(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    *,
    threshold: float = 1e-3,
    permutations: int = 1000,
    seed: int = 0,
) -> Overlap:
    """How much of a document's feature mass its parallel twin shares.

    The mass of a document is the sum of its features' maxima; the part
    shared with another document is that of the features which fire above
    ``threshold`` there too. Documents of one class and set are averaged.

    Raises InputError if fewer than two sets have both classes.
    """
    groups = documents["group"].to_numpy()
    first, second = class_rows(documents, contrast)
    names_a, a = set_means(maxima[first], groups[first])
    names_b, b = set_means(maxima[second], groups[second])
    shared = np.intersect1d(names_a, names_b)
    if len(shared) < 2:
        raise InputError(
            f"{contrast.name} has {len(shared)} parallel sets; at least 2 "
            "are needed to compare twins with strangers"
        )
    a, b = a[np.isin(names_a, shared)], b[np.isin(names_b, shared)]
    total = np.maximum(a.sum(1, keepdims=True), 1e-12)
    share = (a @ (b > threshold).astype(a.dtype).T) / total
    twins = np.diagonal(share)
    shuffled = (share.sum(1) - twins) / (len(share) - 1)
    return Overlap(twins, shuffled, _pairing_p(share, permutations, seed))


def shared_table(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    *,
    resamples: int = 1000,
    seed: int = 0,
    **settings,
) -> pd.DataFrame:
    """``shared_mass`` of several contrasts, two rows each.

    Columns: contrast, treatment, pair ("twin" or "stranger"), share (mean
    over sets), low and high (95%, bootstrap over sets), excess and p of
    the contrast.
    """
    rows = []
    for contrast in contrasts:
        found = shared_mass(maxima, documents, contrast, seed=seed, **settings)
        pairs = {"twin": found.twins, "stranger": found.shuffled}
        for pair, shares in pairs.items():
            low, high = _interval(shares, resamples, seed)
            rows.append(
                {
                    "contrast": contrast.name,
                    "treatment": contrast.treatment,
                    "pair": pair,
                    "share": float(shares.mean()),
                    "low": low,
                    "high": high,
                    "excess": found.excess,
                    "p": found.p,
                }
            )
    return pd.DataFrame(rows)


def _interval(values: np.ndarray, resamples: int, seed: int):
    """Central 95% of the bootstrapped mean of ``values`` [sets]."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return float(low), float(high)


def pivots(
    maxima: np.ndarray, documents: pd.DataFrame, **settings
) -> pd.DataFrame:
    """Which class do the twins of all others share most with?

    -> indexed by class, most shared first: ``excess``, the mean over the
    other classes of the mass they share with their twin in this class,
    beyond what they share with strangers of this class.
    """
    labels = list(dict.fromkeys(documents["label"]))
    excess = {
        hub: np.mean(
            [
                shared_mass(
                    maxima,
                    documents,
                    Contrast(name, hub),
                    permutations=0,
                    **settings,
                ).excess
                for name in labels
                if name != hub
            ]
        )
        for hub in labels
    }
    frame = pd.DataFrame({"excess": excess})
    return frame.sort_values("excess", ascending=False, kind="stable")


def _pairing_p(share: np.ndarray, permutations: int, seed: int) -> float:
    """How often a random re-pairing shares as much as the true one."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(share))
    totals = [
        share[rows, rng.permutation(len(share))].sum()
        for _ in range(permutations)
    ]
    above = (np.array(totals) >= np.trace(share) - 1e-9).sum()
    return float((1 + above) / (1 + permutations))
