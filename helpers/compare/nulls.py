"""What a comparison finds where there is nothing, or something known."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from helpers.compare.contrasts import Contrast, class_rows, live_in
from helpers.compare.effects import cohens_d
from helpers.compare.permutation import (
    Significance,
    matched_sets,
    permutation_p,
    relabelled_p,
    relabellings,
)
from helpers.compare.tables import compare_pair
from helpers.errors import InputError

LEVEL = 0.05  # what counts as a discovery: p_max or q at most this
AT_ONCE = 50  # null splits that share their permutations


def halve(documents: pd.DataFrame, control: str, seed: int) -> pd.DataFrame:
    """The null pair: the control's documents, split in half by set.

    -> a frame like ``documents`` whose control rows are relabelled
    ``"<control>, half 1"`` and ``"... half 2"``; other rows keep theirs,
    so the rows still match the document maxima.

    Raises InputError if the control has fewer than four matched sets.
    """
    rows = (documents["label"] == control).to_numpy()
    groups = np.unique(documents["group"].to_numpy()[rows])
    if len(groups) < 4:
        raise InputError(
            f"the control {control!r} has {len(groups)} matched sets; "
            "a null pair needs at least 4"
        )
    shuffled = np.random.default_rng(seed).permutation(groups)
    first = np.isin(documents["group"], shuffled[: len(groups) // 2])
    names = [_half(control, side) for side in (0, 1)]
    label = documents["label"].to_numpy(object).copy()
    label[rows] = np.where(first[rows], names[0], names[1])
    return documents.assign(label=label)


def _half(control: str, side: int) -> str:
    return f"{control}, half {side + 1}"


def null_contrast(control: str) -> Contrast:
    """The contrast between the two halves that ``halve`` names."""
    return Contrast(_half(control, 0), _half(control, 1))


def null_pair(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrasts: Iterable[Contrast],
    *,
    seed: int = 0,
    **settings,
) -> pd.DataFrame:
    """``compare`` on the null pair of each contrast's control.

    -> the same columns; ``contrast`` keeps the real contrast's name, so
    the two tables join. ``settings`` are those of ``compare_pair``.
    """
    contrasts, parts = list(contrasts), {}
    for contrast in contrasts:
        control = contrast.control
        if control not in parts:
            parts[control] = compare_pair(
                maxima,
                halve(documents, control, seed),
                null_contrast(control),
                seed=seed,
                **settings,
            )
    return pd.concat(
        [parts[c.control].assign(contrast=c.name) for c in contrasts],
        ignore_index=True,
    )


def null_splits(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    controls: Iterable[str],
    *,
    splits: int = 200,
    threshold: float = 1e-3,
    min_documents: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How often random halves of a control differ: a row a control.

    Each of ``splits`` times the control's matched sets are split in half
    and the halves compared as ``null_pair`` does. Columns: control, sets,
    live, splits; any_max and any_fdr, the shares of splits with any p_max
    or any q at most LEVEL; bound, the share that a level of LEVEL exceeds
    in one series of splits out of a hundred (binomial). Fifty splits
    share their permutations, which adds about 5% to the variance.
    """
    from scipy.stats import binom

    rows = []
    for control in controls:
        pair, halved = null_contrast(control), halve(documents, control, seed)
        live = live_in(maxima, halved, pair, threshold, min_documents)
        units = matched_sets(maxima, halved, pair, live)
        drawn = relabellings(units, splits, seed + 1)
        found = [
            relabelled_p(units, part, permutations, seed + 2 + place)
            for place, part in enumerate(_parts(drawn))
        ]
        any_max = [p for part in found for p in part.p_max.min(1) <= LEVEL]
        any_fdr = [q for part in found for q in part.q.min(1) <= LEVEL]
        row = control, len(units.values), len(live), splits
        rows.append((*row, np.mean(any_max), np.mean(any_fdr)))
    names = ["control", "sets", "live", "splits", "any_max", "any_fdr"]
    bound = binom.ppf(0.99, splits, LEVEL) / splits
    return pd.DataFrame(rows, columns=names).assign(bound=bound)


def _parts(drawn: np.ndarray) -> list[np.ndarray]:
    return [drawn[s : s + AT_ONCE] for s in range(0, len(drawn), AT_ONCE)]


def planted_power(
    maxima: np.ndarray,
    documents: pd.DataFrame,
    contrast: Contrast,
    *,
    effect: float = 0.5,
    planted: int = 50,
    repeats: int = 5,
    threshold: float = 1e-3,
    min_documents: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Are effects of known size found in these very documents?

    In each repeat the labels of every matched set are swapped at random,
    so that nothing is there to be found; then ``planted`` live features
    chosen at random (at most half of them) are made to fire more in the
    treatment (see ``plant``), by a Cohen's d of ``effect``. -> a row a
    repeat: planted (how many), effect (median over them, as the data show
    it), power_max and power_fdr (share of them found, p_max or q at most
    LEVEL), false_max and false_fdr (share of what was found that was not
    planted).
    """
    live = live_in(maxima, documents, contrast, threshold, min_documents)
    planted = min(planted, max(len(live) // 2, 1))
    rows = np.sort(np.concatenate(class_rows(documents, contrast)))
    values, documents = maxima[rows[:, None], live], documents.iloc[rows]
    rng, found = np.random.default_rng(seed), []
    for repeat in range(repeats):
        swapped = _swapped(documents, contrast, rng)
        treated, control = class_rows(swapped, contrast)
        chosen = rng.choice(len(live), planted, replace=False)
        changed = values.copy()
        for feature in chosen:
            raised = plant(values[:, feature], treated, effect, rng)
            changed[:, feature] = raised
        units = matched_sets(changed, swapped, contrast)
        tested = permutation_p(units, permutations, seed + 1 + repeat)
        d = cohens_d(changed[treated][:, chosen], changed[control][:, chosen])
        row = {"planted": planted, "effect": np.median(d)}
        found.append(row | _scored(tested, chosen))
    return pd.DataFrame(found)


def plant(
    values: np.ndarray,
    treated: np.ndarray,
    effect: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Raise treated documents one by one until Cohen's d is ``effect``.

    ``values`` [documents]: a feature's maxima; ``treated``: row numbers.
    Treated documents, in random order, are given an activation drawn from
    the upper half of the feature's own that are not zero, unless theirs is
    larger; d is that of the result against what they were before. Where
    raising all of them does not reach it, all are raised.
    """
    fires = values[values != 0]
    strong = fires[fires >= np.median(fires)]
    order = rng.permutation(treated)
    raised = np.maximum(values[order], rng.choice(strong, len(order)))
    before, after = values[order].astype(np.float64), raised.astype(np.float64)
    gain = np.cumsum(after - before) / len(order)
    mean, variance = before.mean(), before.var()
    square = np.cumsum(after**2 - before**2) / len(order)
    spread = variance + square - gain * (2 * mean + gain)
    reached = gain >= effect * np.sqrt((variance + spread) / 2)
    count = 1 + reached.argmax() if reached.any() else len(order)
    result = values.copy()
    result[order[:count]] = raised[:count]
    return result


def _swapped(documents, contrast, rng) -> pd.DataFrame:
    """The labels of a random half of the matched sets exchanged."""
    groups, code = np.unique(documents["group"], return_inverse=True)
    swap = rng.integers(0, 2, len(groups)).astype(bool)[code]
    other = {
        contrast.treatment: contrast.control,
        contrast.control: contrast.treatment,
    }
    label = documents["label"]
    return documents.assign(label=label.where(~swap, label.map(other)))


def _scored(tested: Significance, chosen: np.ndarray) -> dict[str, float]:
    """Power and share of false finds by either criterion."""
    scores = {}
    for name, p in (("max", tested.p_max), ("fdr", tested.q)):
        found = p <= LEVEL
        hits, finds = int(found[chosen].sum()), int(found.sum())
        scores[f"power_{name}"] = hits / len(chosen)
        scores[f"false_{name}"] = (finds - hits) / max(finds, 1)
    return scores
