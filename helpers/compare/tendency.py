"""Do features go up as a whole? The poster's claim as a test."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from helpers.compare.contrasts import Contrast, class_means, live_in
from helpers.compare.permutation import (
    ROUNDING,
    identity,
    matched_sets,
    normalised,
    relabellings,
)


@dataclass(frozen=True)
class Tendency:
    """Do features go up as a whole, beyond what relabelling gives?

    ``share``: of the features that move at all, the share that deflect
    upwards; ``low`` and ``high`` bound the central 95% of that share under
    relabelling; ``p`` is two-sided. ``mean``: mean deflection.
    """

    share: float
    low: float
    high: float
    p: float
    mean: float

    @property
    def direction(self) -> str:
        """``more``, ``less`` or ``no more``, at the 5% level."""
        if self.p > 0.05:
            return "no more"
        return "more" if self.share > 0.5 else "less"


def tendency(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    *,
    threshold: float = 1e-3,
    min_documents: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> Tendency:
    """The poster's claim as a statistic: the share of rising features.

    Features move together, so their signs are no independent votes; the
    share is compared with its own distribution over relabelled matched
    sets. Raises InputError if no feature is live.
    """
    live = live_in(maxima, documents, contrast, threshold, min_documents)
    units = matched_sets(maxima, documents, contrast, live)
    values = normalised(units)
    share = _rising(identity(units)[None] @ values)[0]
    null = _rising(relabellings(units, permutations, seed) @ values)
    beyond = (np.abs(null - 0.5) >= abs(share - 0.5) - 1e-9).sum()
    low, high = np.quantile(null, [0.025, 0.975])
    means = class_means(maxima[:, live], documents["label"])
    mean = (means.loc[contrast.treatment] - means.loc[contrast.control]).mean()
    p = (1 + beyond) / (1 + permutations)
    return Tendency(*map(float, (share, low, high, p, mean)))


def tendencies(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    **settings,
) -> pd.DataFrame:
    """``tendency`` of several contrasts: a row each, indexed by class.

    Columns: those of ``Tendency`` and ``direction``; ``settings`` are the
    keyword arguments of ``tendency``.
    """
    contrasts = list(contrasts)
    rows = [tendency(maxima, documents, c, **settings) for c in contrasts]
    return pd.DataFrame(
        [asdict(row) | {"direction": row.direction} for row in rows],
        index=[contrast.treatment for contrast in contrasts],
    )


def verdict(claim: pd.DataFrame) -> str:
    """Does "features rise" hold? A phrase that follows "the claim".

    ``claim``: what ``tendencies`` returns.
    """
    where = {
        name: _listed(claim.index[claim["direction"] == name])
        for name in ("more", "less")
    }
    if not where["more"]:
        turned = f"; for {where['less']} it is reversed"
        return "does not hold here" + (turned if where["less"] else "")
    if (claim["direction"] == "more").all():
        return f"holds here, for {where['more']}"
    rest = _listed(claim.index[claim["direction"] != "more"])
    return f"holds here for {where['more']}, but not for {rest}"


def _listed(names) -> str:
    """``a``, ``a and b``, ``a, b and c``; empty for none."""
    names = [str(name) for name in names]
    if len(names) < 2:
        return "".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]


def _rising(differences: np.ndarray) -> np.ndarray:
    """Share of positive ones among non-zero ones, per row."""
    up = (differences > ROUNDING / 10).sum(1)
    down = (differences < -ROUNDING / 10).sum(1)
    return np.where(up + down > 0, up / np.maximum(up + down, 1), 0.5)
