"""Confidence intervals of effect sizes, clustered by matched set.

All three follow one recipe. To first order an estimate is a sum over
documents of what each contributes (its influence); the documents of a
matched set are added up, since they are not independent, and the sum of
the squares over sets is the variance. For the AUROC this is the estimate
of Obuchowski (1997), which extends DeLong et al. (1988) to clusters.
"""

import numpy as np
from scipy.stats import t

from helpers.compare.effects import Entries, placements, standardised

LEVEL = 0.95


class Clusters:
    """The matched sets of two classes' documents, for standard errors.

    ``groups`` [n + m] names each document's set, treatment first.
    """

    def __init__(self, entries: Entries, groups: np.ndarray):
        names, code = np.unique(groups, return_inverse=True)
        self.entries, self.count = entries, len(names)
        n = entries.size[1, 0]
        parts = code[n:], code[:n]
        self.held = np.stack([np.bincount(p, None, len(names)) for p in parts])
        self.set = code[entries.row]
        key = entries.feature[: entries.stored] * len(names) + self.set
        self.order = np.argsort(key, kind="stable")
        key = key[self.order]
        self.starts = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
        self.starts = self.starts[: len(key)]  # none where nothing is stored

    @property
    def reach(self) -> float:
        """Standard errors on either side: Student's t, sets - 1."""
        return float(t.ppf((1 + LEVEL) / 2, max(self.count - 1, 1)))

    def error(self, influence: np.ndarray, tied: np.ndarray | float = 0.0):
        """Standard error [d_sae] from influences [entries].

        ``tied`` [d_sae] is the influence of a set that is added to them.
        Documents with zeros count as if they all were zero, and the stored
        ones by what they differ from that.
        """
        e = self.entries
        zero = influence[e.stored :].reshape(2, e.width)
        differs = influence[: e.stored] - zero.ravel()[e.cell[: e.stored]]
        feature = e.feature[: e.stored]
        base = (zero[:, feature] * self.held[:, self.set]).sum(0)
        together = np.zeros(0)
        if e.stored:
            together = np.add.reduceat(differs[self.order], self.starts)
        squares = np.einsum("if,ij,jf->f", zero, self.held @ self.held.T, zero)
        squares += np.bincount(feature, 2 * base * differs, e.width)
        at = feature[self.order][self.starts]
        squares += np.bincount(at, together**2, e.width) + tied**2
        scale = self.count / max(self.count - 1, 1)
        return np.sqrt(np.maximum(squares, 0) * scale)


def effects(
    a: np.ndarray, b: np.ndarray, groups: np.ndarray
) -> dict[str, np.ndarray]:
    """Deflection, Cohen's d and AUROC with 95% intervals: [d_sae] each.

    ``a`` [n, d_sae], ``b`` [m, d_sae]: document maxima; ``groups`` [n + m]:
    the documents' matched sets. -> mean_treatment, mean_control;
    deflection, deflection_low, deflection_high and so on for cohens_d,
    auroc and rank_biserial (= 2 auroc - 1). The intervals rest on large
    samples: where a feature fires on a handful of documents, take them as
    a hint.
    """
    entries = Entries(a, b)
    clusters = Clusters(entries, groups)
    found = _means(clusters) | _ranks(clusters)
    for end in ("", "_low", "_high"):
        found[f"rank_biserial{end}"] = 2 * found[f"auroc{end}"] - 1
    return found


def _means(clusters: Clusters) -> dict[str, np.ndarray]:
    """Class means, deflection and Cohen's d, symmetric intervals."""
    e = clusters.entries
    mean, documents = e.mean(e.value), e.size.sum()
    squares = e.squares(mean)
    d = standardised(mean, squares, documents)
    away = e.value - mean.ravel()[e.cell]
    moved = away / np.where(e.treated, e.size[1], -e.size[0])
    # d = difference / s: a document moves the difference and also s^2,
    # by its own squared distance, of which it is one part in n + m. Where a
    # feature is rare the two nearly cancel, and in small samples by too
    # much; so the interval is never shorter than with s taken as known.
    s = np.sqrt(squares.sum(0) / documents)
    s = np.where(s > 0, s, np.nan)
    widened = (away**2 - (squares / e.size).ravel()[e.cell]) / documents
    error = clusters.error(moved)
    tilted = clusters.error(moved - (d / (2 * s))[e.feature] * widened)
    of_d = np.where(squares.any(0), np.maximum(error, tilted) / s, 0.0)
    return (
        {"mean_treatment": mean[1], "mean_control": mean[0]}
        | _interval("deflection", mean[1] - mean[0], error, clusters)
        | _interval("cohens_d", d, of_d, clusters)
    )


def _ranks(clusters: Clusters) -> dict[str, np.ndarray]:
    """AUROC, interval on the scale of arcsin sqrt(AUROC).

    One set is added whose documents tie with all others (as Agresti and
    Caffo 2000 do for proportions): without it the interval of an AUROC of
    0 or 1 would have no width.
    """
    e, sets = clusters.entries, clusters.count
    placed = placements(e)
    area = e.mean(placed)[1]
    shrunk = (sets * area + 0.5) / (sets + 1)
    moved = (placed - area[e.feature]) / np.where(e.treated, *e.size[::-1])
    error = clusters.error(moved, (1 - 2 * shrunk) / sets)
    reach = clusters.reach * error / (2 * np.sqrt(shrunk * (1 - shrunk)))
    angle = np.arcsin(np.sqrt(shrunk))
    low, high = (
        np.sin(np.clip(angle + side * reach, 0, np.pi / 2)) ** 2
        for side in (-1, 1)
    )
    return {
        "auroc": area,
        "auroc_low": np.minimum(low, area),
        "auroc_high": np.maximum(high, area),
    }


def _interval(name, estimate, error, clusters) -> dict[str, np.ndarray]:
    return {
        name: estimate,
        f"{name}_low": estimate - clusters.reach * error,
        f"{name}_high": estimate + clusters.reach * error,
    }
