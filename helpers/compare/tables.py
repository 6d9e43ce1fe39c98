"""From document maxima to tidy tables, a row a feature."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from helpers.compare.contrasts import (
    Contrast,
    class_rows,
    live_in,
    pairs,
)
from helpers.compare.effects import auroc, by_chunk
from helpers.compare.intervals import effects
from helpers.compare.permutation import matched_sets, permutation_p

STRONG = 0.9  # an AUROC at least this far to either side is "strong"
EFFECTS = ["deflection", "cohens_d", "auroc", "rank_biserial"]
COLUMNS = (
    ["contrast", "treatment", "control", "feature"]
    + [name + end for name in EFFECTS for end in ("", "_low", "_high")]
    + ["mean_treatment", "mean_control", "fires_treatment", "fires_control"]
    + ["n_treatment", "n_control", "p", "p_max", "p_pooled", "q"]
)


def compare(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    **settings,
) -> pd.DataFrame:
    """``compare_pair`` of several contrasts, one tidy table.

    ``settings`` are the keyword arguments of ``compare_pair``.
    """
    parts = [compare_pair(maxima, documents, c, **settings) for c in contrasts]
    return pd.concat(parts, ignore_index=True)


def compare_pair(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    *,
    threshold: float = 1e-3,
    min_documents: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row for each feature that is live in the contrast's documents.

    Columns: contrast, treatment, control, feature; mean_treatment and
    mean_control (poster's definition) and their difference ``deflection``,
    in units of activation; cohens_d; auroc and rank_biserial
    (= 2 auroc - 1); the ends of their 95% intervals, deflection_low,
    deflection_high and so on (see ``intervals.effects``); fires_treatment
    and fires_control (share of documents above ``threshold``);
    n_treatment, n_control; p (two-sided permutation by matched set), p_max
    (the same, corrected over all rows by the maximum statistic; Westfall
    and Young 1993), p_pooled (p, its tail counted in the null statistics
    of all rows) and q (p_pooled after Benjamini and Hochberg 1995). With
    ``permutations`` 0 these four are missing (NaN).

    Raises InputError for a label that the documents do not have, and if
    no feature is live.
    """
    live = live_in(maxima, documents, contrast, threshold, min_documents)
    rows = class_rows(documents, contrast)
    groups = documents["group"].to_numpy()[np.concatenate(rows)]

    def measured(c: slice) -> pd.DataFrame:
        a, b = (maxima[r[:, None], live[c]] for r in rows)
        return _measured(a, b, groups, threshold)

    parts = by_chunk(measured, len(live))
    units = matched_sets(maxima, documents, contrast, live)
    found = permutation_p(units, permutations, seed)
    return pd.concat(parts, ignore_index=True).assign(
        contrast=contrast.name,
        treatment=contrast.treatment,
        control=contrast.control,
        feature=live,
        n_treatment=len(rows[0]),
        n_control=len(rows[1]),
        p=found.p,
        p_max=found.p_max,
        p_pooled=found.p_pooled,
        q=found.q,
    )[COLUMNS]


def _measured(a, b, groups, threshold) -> pd.DataFrame:
    """Means, effect sizes and firing shares, a row a column of a and b."""
    return pd.DataFrame(effects(a, b, groups)).assign(
        fires_treatment=(a > threshold).mean(0),
        fires_control=(b > threshold).mean(0),
    )


def summary(
    table: pd.DataFrame, null: pd.DataFrame, alpha: float = 0.05
) -> pd.DataFrame:
    """How much a contrast finds, beside its null pair: a row a contrast.

    Columns: live, found (p_max at most ``alpha``), found_fdr (q at most
    ``alpha``), beyond_null (deflection larger in size than any in the null
    pair), largest (size of the largest deflection); null_live, null_found,
    null_found_fdr, null_largest.
    """
    rows = {}
    for name, part in table.groupby("contrast", sort=False):
        control = null[null["contrast"] == name]
        size, null_size = part["deflection"].abs(), control["deflection"].abs()
        highest = null_size.max() if len(control) else 0.0
        rows[name] = {
            "live": len(part),
            "found": int((part["p_max"] <= alpha).sum()),
            "found_fdr": int((part["q"] <= alpha).sum()),
            "beyond_null": int((size > highest).sum()),
            "largest": float(size.max()),
            "null_live": len(control),
            "null_found": int((control["p_max"] <= alpha).sum()),
            "null_found_fdr": int((control["q"] <= alpha).sum()),
            "null_largest": float(highest),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def strongest(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """The ``count`` rows of each contrast that tell its classes apart best.

    Ordered by the AUROC's distance from 0.5, larger deflections first
    among equals.
    """
    order = table.assign(
        tells=(table["auroc"] - 0.5).abs().round(6),
        size=table["deflection"].abs(),
    ).sort_values(["tells", "size"], ascending=False, kind="stable")
    top = order.groupby("contrast", sort=False).head(count)
    names = list(dict.fromkeys(table["contrast"]))
    place = top["contrast"].map(names.index)
    return top.iloc[np.argsort(place, kind="stable")][list(table.columns)]


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """A comparison to be read: estimates with their 95% intervals as text.

    -> contrast, feature, n (documents of both classes), deflection,
    cohens_d and auroc as ``0.71 [0.66, 0.75]``, p_max and q.
    """
    shown = table[["contrast", "feature"]].copy()
    shown["n"] = table["n_treatment"] + table["n_control"]
    for name in ("deflection", "cohens_d", "auroc"):
        ends = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        shown[name] = [
            f"{x:.2f} [{low:.2f}, {high:.2f}]" for x, low, high in ends
        ]
    for name in ("p_max", "q"):
        shown[name] = [f"{p:.2g}" for p in table[name]]
    return shown.reset_index(drop=True)


def best_unit(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    seed: int = 0,
) -> tuple[int, float]:
    """The unit that best tells two classes apart, judged fairly.

    The best of 4,096 looks better than the best of 512 by luck alone, so a
    unit is chosen on one half of the matched sets and scored on the other,
    both ways; a unit that falls counts as much as one that rises.
    -> (best unit over all documents, mean AUROC of the two halves).
    """
    groups = np.unique(documents["group"])
    shuffled = np.random.default_rng(seed).permutation(groups)
    half = np.isin(documents["group"], shuffled[: len(groups) // 2])
    scores = [
        _auroc_rows(maxima, documents, contrast, h) for h in (half, ~half)
    ]
    held = []
    for chosen_on, scored_on in (scores, scores[::-1]):
        unit = np.abs(chosen_on - 0.5).argmax()
        rises = chosen_on[unit] >= 0.5
        held.append(scored_on[unit] if rises else 1 - scored_on[unit])
    overall = sum(scores) / 2
    return int(np.abs(overall - 0.5).argmax()), float(np.mean(held))


def best_units(
    maxima: np.ndarray, documents: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """The single unit that best tells each pair of labels apart.

    -> a row a pair: contrast, unit, auroc (of the best over all documents,
    the luck of the choice included), held_out (see ``best_unit``).
    """
    rows = []
    everywhere = np.ones(len(documents), bool)
    for contrast in pairs(dict.fromkeys(documents["label"])):
        scores = _auroc_rows(maxima, documents, contrast, everywhere)
        unit = np.abs(scores - 0.5).argmax()
        auroc_of_best = 0.5 + abs(scores[unit] - 0.5)
        _, held_out = best_unit(maxima, documents, contrast, seed)
        rows.append((contrast.name, int(unit), auroc_of_best, held_out))
    names = ["contrast", "unit", "auroc", "held_out"]
    return pd.DataFrame(rows, columns=names)


def _auroc_rows(maxima, documents, contrast, mask) -> np.ndarray:
    first, second = class_rows(documents, contrast)
    return auroc(maxima[first[mask[first]]], maxima[second[mask[second]]])


def side_by_side(
    bases: dict[str, np.ndarray],
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    *,
    threshold: float = 1e-3,
    min_documents: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Features and neurons on the same contrasts.

    ``bases`` maps a name ("features") to its document maxima [documents,
    units]. -> one row a contrast and basis: live (units), best (unit),
    auroc (of the best, held out; see ``best_unit``), strong (units with an
    AUROC of at least STRONG either way, all documents), strong_share (of
    the live ones).
    """
    rows = []
    for contrast in contrasts:
        for basis, maxima in bases.items():
            best, held = best_unit(maxima, documents, contrast, seed)
            table = compare_pair(
                maxima,
                documents,
                contrast,
                threshold=threshold,
                min_documents=min_documents,
                permutations=0,
            )
            strong = (table["auroc"] - 0.5).abs() >= STRONG - 0.5
            rows.append(
                {
                    "contrast": contrast.name,
                    "basis": basis,
                    "live": len(table),
                    "best": best,
                    "auroc": held,
                    "strong": int(strong.sum()),
                    "strong_share": float(strong.mean()),
                }
            )
    return pd.DataFrame(rows)


def leads(side: pd.DataFrame, margin: float = 0.01) -> str:
    """Which basis has the best single unit, contrast by contrast, in words.

    ``side``: what ``side_by_side`` returns for two bases; differences in
    AUROC up to ``margin`` are ties.
    """
    wide = side.pivot(index="contrast", columns="basis", values="auroc")
    first, second = dict.fromkeys(side["basis"])
    gap = wide[first] - wide[second]
    ahead, behind = int((gap > margin).sum()), int((gap < -margin).sum())
    return (
        f"{first} lead in {ahead} of {len(gap)} contrasts, {second} in "
        f"{behind}, and {len(gap) - ahead - behind} are ties"
    )
