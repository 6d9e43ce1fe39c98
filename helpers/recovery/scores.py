"""Recovery: the best unit of each basis for each target, scored fairly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.errors import InputError
from helpers.recovery.columns import Best, Columns
from helpers.recovery.tables import halves, take
from helpers.recovery.targets import ENTRY, Targets, find_targets, shared

if TYPE_CHECKING:
    from helpers.features import FeatureTable

LEVELS = [0.025, 0.975]  # a central interval of 95%
SCORES = ["precision", "recall", "f1"]


@dataclass(frozen=True)
class Study:
    """What ``recover`` found.

    ``scores``: a row a target and basis, with factor, value, basis, unit and
    threshold (chosen by F1 on the first half), and from the second half
    base_rate, positives, sets, always (F1 of a unit that always fires),
    precision, recall and f1 with _low and _high (95%, bootstrap over
    matched sets), auroc_unit (chosen by AUROC on the first half), auroc;
    behind with behind_low and behind_high: how far its F1 lies below that
    of the first basis, on the same resamples.
    ``units``: a row a basis and unit that can tell any target, with the
    target it tells best (chosen on the first half), f1 and precision of
    that (second half).
    """

    scores: pd.DataFrame
    units: pd.DataFrame


def recover(
    bases: Mapping[str, "FeatureTable"],
    documents: pd.DataFrame,
    *,
    min_sets: int = 10,
    resamples: int = 1000,
    seed: int = 0,
) -> Study:
    """Score the best unit of each basis for every target of a corpus.

    ``bases``: a name -> the table of its units, all on the same
    ``documents``. A target counts if each half has it in ``min_sets``
    matched sets. Raises InputError if no target does, or if the tables are
    of different documents.
    """
    one = next(iter(bases.values()))
    for name, table in bases.items():
        if not np.array_equal(table.documents, one.documents):
            raise InputError(
                f"the table of {name} has other documents than the first; "
                "units are compared on the same text only"
            )
    groups = documents["group"].to_numpy()
    places = halves(groups, seed)
    found = [find_targets(take(one, p), documents.iloc[p]) for p in places]
    choose, score = shared(*found, min_sets)
    if not len(score.names):
        raise InputError(
            f"no factor is in {min_sets} matched sets of both halves; "
            "lower the number or give more documents"
        )
    token_groups = groups[places[1]][take(one, places[1]).document_of]
    draw = _resampling(token_groups, resamples, seed)
    parts = [
        _basis(name, [take(table, p) for p in places], choose, score, draw)
        for name, table in bases.items()
    ]
    return Study(_joined([p[0] for p in parts]), pd.concat([p[1] for p in parts]))


@dataclass(frozen=True)
class _Draw:
    """Matched sets of the tokens of the half that is scored, and resamples."""

    group: np.ndarray  # [tokens], from 0
    weights: np.ndarray  # [resamples, sets]: how often each set is drawn

    def count(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens by matched set: [sets]."""
        return np.bincount(self.group[tokens], minlength=self.sets)

    @property
    def sets(self) -> int:
        return self.weights.shape[1]


def _resampling(groups: np.ndarray, resamples: int, seed: int) -> _Draw:
    names, group = np.unique(groups, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(names), share, size=resamples)
    return _Draw(group, weights.astype(np.float32))


def _basis(name, tables, choose: Targets, score: Targets, draw: _Draw):
    """One basis: its rows of ``scores`` (with resamples) and of ``units``."""
    columns = Columns(tables[0])
    top = np.zeros(columns.d_sae), np.zeros(columns.d_sae, int)
    levels = np.full(columns.d_sae, np.inf)
    bests = []
    for target, rows in enumerate(choose.rows):
        found = columns.scores(rows)
        bests.append((found.best("f1"), found.best("auroc")))
        better = found.f1 > top[0][found.units]
        units = found.units[better]
        top[0][units], top[1][units] = found.f1[better], target
        levels[units] = found.threshold[better]
    held = Columns(tables[1])
    own = [Best(u, levels[u], top[0][u]) for u in np.flatnonzero(top[0])]
    told = np.array([top[1][best.unit] for best in own], int)
    units = _specialists(held, own, told, score).assign(basis=name)
    return _score(name, held, bests, score, draw), units


def _score(name, held: Columns, bests, score: Targets, draw: _Draw):
    """Rows of ``scores``, and F1 by resample [resamples, targets]."""
    counts = np.zeros((3, draw.sets, len(bests)), np.float32)
    aurocs = []
    positive = np.zeros(held.n_tokens, bool)
    for target, (rows, (best, ranked)) in enumerate(
        zip(score.rows, bests, strict=True)
    ):
        positive[rows] = True
        fired = held.fired(best.unit, best.threshold)
        counts[0, :, target] = draw.count(fired[positive[fired]])
        counts[1, :, target] = draw.count(fired)
        counts[2, :, target] = draw.count(rows)
        aurocs.append(held.auroc(ranked.unit, positive))
        positive[rows] = False
    frame = score.names.assign(
        basis=name,
        unit=[best.unit for best, _ in bests],
        threshold=[best.threshold for best, _ in bests],
        always=2 * score.names["base_rate"] / (1 + score.names["base_rate"]),
        auroc_unit=[ranked.unit for _, ranked in bests],
        auroc=aurocs,
    )
    return _with_intervals(frame, counts, draw.weights)


def _with_intervals(frame, counts, weights):
    drawn = _measures(*(weights @ part for part in counts))
    whole = _measures(*counts.sum(1, dtype=np.float64))
    for name in SCORES:
        low, high = np.quantile(drawn[name], LEVELS, axis=0)
        frame[name] = whole[name]
        frame[f"{name}_low"], frame[f"{name}_high"] = low, high
    return frame, drawn["f1"]


def _measures(true, fired, positives) -> dict[str, np.ndarray]:
    """Precision, recall and F1; 0 where nothing fires or is there."""
    return {
        "precision": true / np.maximum(fired, 1),
        "recall": true / np.maximum(positives, 1),
        "f1": 2 * true / np.maximum(fired + positives, 1),
    }


def _joined(parts) -> pd.DataFrame:
    """The bases' rows together, with the distance to the first basis."""
    frames, first = [], parts[0]
    for frame, drawn in parts:
        gap = first[1] - drawn
        low, high = np.quantile(gap, LEVELS, axis=0)
        frames.append(
            frame.assign(
                behind=first[0]["f1"] - frame["f1"],
                behind_low=low,
                behind_high=high,
            )
        )
    return pd.concat(frames, ignore_index=True)


def _specialists(held, own, told, score: Targets) -> pd.DataFrame:
    """Each unit's own best target, scored on the second half."""
    rows = []
    positive = np.zeros(held.n_tokens, bool)
    for target in np.unique(told):
        positive[score.rows[target]] = True
        for at in np.flatnonzero(told == target):
            fired = held.fired(own[at].unit, own[at].threshold)
            true = int(positive[fired].sum())
            total = len(fired) + len(score.rows[target])
            rows.append(
                (own[at].unit, target, 2 * true / total, true, len(fired))
            )
        positive[score.rows[target]] = False
    names = ["unit", "target", "f1", "true", "fired"]
    frame = pd.DataFrame(rows, columns=names).sort_values("unit")
    told_names = score.names[ENTRY].iloc[frame["target"]]
    frame[ENTRY] = told_names.to_numpy()
    frame["precision"] = frame["true"] / frame["fired"].clip(lower=1)
    columns = ["unit", *ENTRY, "f1", "precision"]
    return frame[columns].reset_index(drop=True)


def headline(
    scores: pd.DataFrame, keys: list[str], score: str = "f1"
) -> pd.DataFrame:
    """One row a target: base rate, then "0.91 [0.88, 0.93]" a basis.

    ``keys``: the columns that name a target in ``scores``.
    """
    shown = scores.assign(
        text=[
            f"{v:.2f} [{low:.2f}, {high:.2f}]"
            for v, low, high in scores[
                [score, f"{score}_low", f"{score}_high"]
            ].to_numpy()
        ]
    )
    wide = shown.pivot(index=keys, columns="basis", values="text")
    order = scores.drop_duplicates(keys).set_index(keys)
    wide = wide.reindex(order.index)[list(dict.fromkeys(scores["basis"]))]
    for place, name in enumerate(["sets", "base_rate", "always"]):
        wide.insert(place, name, order[name].round(3))
    wide.columns.name = None
    return wide


def outcome(scores: pd.DataFrame, rival: str) -> pd.Series:
    """Does the first basis win against ``rival``? "ahead", "behind", "even".

    Decided target by target, by the 95% interval of the difference in F1.
    """
    rows = scores[scores["basis"] == rival]
    verdict = np.select(
        [rows["behind_low"] > 0, rows["behind_high"] < 0],
        ["ahead", "behind"],
        "even",
    )
    return pd.Series(verdict, index=rows.index, name=rival)


def specialists(units: pd.DataFrame, scores=(0.5, 0.8)) -> pd.DataFrame:
    """How many units of each basis tell something: a row a basis.

    Columns: units (that can tell any target at all), median (of F1) and the
    number with an F1 of each of ``scores`` or more.
    """
    by = units.groupby("basis", sort=False)["f1"]
    frame = pd.DataFrame({"units": by.size(), "median": by.median()})
    for score in scores:
        frame[f"F1 ≥ {score:g}"] = by.agg(lambda f, s=score: int((f >= s).sum()))
    return frame
