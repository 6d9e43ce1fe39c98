"""Recovery: the best unit of each basis for each target, scored fairly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.errors import InputError
from helpers.recovery.columns import Best, Columns
from helpers.recovery.tables import halves, take
from helpers.recovery.targets import (
    ENTRY,
    PRESENT,
    Targets,
    find_targets,
    not_shared,
    shared,
)

if TYPE_CHECKING:
    from helpers.features import FeatureTable

LEVELS = [0.025, 0.975]  # a central interval of 95%
SCORES = ["precision", "recall", "f1"]


@dataclass(frozen=True)
class Study:
    """What ``recover`` found.

    ``scores``: a row a target and basis, with corpus, target (its name),
    factor, value, basis, unit and threshold (chosen by F1 on the first
    half); on the second half base_rate, positives, sets, always (F1 of a
    unit that always fires), precision, recall and f1 with _low and _high
    (95%, bootstrap over matched sets), auroc_unit (chosen by AUROC on the
    first half), auroc; behind with behind_low and behind_high: how far its
    F1 lies below that of the first basis, on the same resamples.
    ``units``: a row a basis and unit that beats "always fires" for any
    target, with the target for which it does so most (by skill, on the first
    half); f1, precision and skill of that on the second half. Skill is (f1 -
    always) / (1 - always): 0 for a unit that always fires, 1 for the truth.
    ``left_out``: a row a factor that is no target, nor any value of it, with
    corpus, factor, sets (of the half with fewer) and the reason.
    ``drawn``: by basis, F1 of each resample and target [resamples, targets].
    """

    scores: pd.DataFrame
    units: pd.DataFrame
    left_out: pd.DataFrame
    drawn: dict[str, np.ndarray]


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
    places = halves(documents, seed)
    found = [find_targets(take(one, p), documents.iloc[p]) for p in places]
    choose, score = shared(*found, min_sets)
    if not len(score.names):
        raise InputError(
            f"no factor is in {min_sets} matched sets of both halves; "
            "lower the number or give more documents"
        )
    groups = documents["group"].to_numpy()[places[1]]
    token_groups = groups[take(one, places[1]).document_of]
    draw = _resampling(token_groups, resamples, seed)
    parts = [
        _basis(name, [take(table, p) for p in places], choose, score, draw)
        for name, table in bases.items()
    ]
    rows, units = zip(*parts, strict=True)
    scores, units = _joined(rows), pd.concat(units, ignore_index=True)
    left_out = not_shared(*found, score)
    for frame in (scores, units, left_out):
        frame.insert(0, "corpus", documents["corpus"].iloc[0])
    for frame in (scores, units):
        frame.insert(1, "target", _named(frame))
    drawn = {name: f1 for name, (_, f1) in zip(bases, rows, strict=True)}
    return Study(scores, units, left_out, drawn)


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
        skill = _skill(found.f1, len(rows) / columns.n_tokens)
        better = skill > top[0][found.units]
        units = found.units[better]
        top[0][units], top[1][units] = skill[better], target
        levels[units] = found.threshold[better]
    held = Columns(tables[1])
    own = [Best(u, levels[u], top[0][u]) for u in np.flatnonzero(top[0])]
    told = np.array([top[1][best.unit] for best in own], int)
    units = _specialists(held, own, told, score).assign(basis=name)
    return _score(name, held, bests, score, draw), units


def _always(base_rate):
    """F1 of a unit that fires on every token."""
    return 2 * base_rate / (1 + base_rate)


def _skill(f1, base_rate):
    """How far F1 is on the way from "always fires" to the truth."""
    return (f1 - _always(base_rate)) / (1 - _always(base_rate))


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
        always=_always(score.names["base_rate"]),
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


def _named(frame: pd.DataFrame) -> pd.Series:
    """``factor`` or ``factor: value``."""
    value = (": " + frame["value"]).where(frame["value"] != PRESENT, "")
    return frame["factor"] + value


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
    target = score.names.iloc[frame["target"]]
    frame[ENTRY] = target[ENTRY].to_numpy()
    frame["precision"] = frame["true"] / frame["fired"].clip(lower=1)
    frame["skill"] = _skill(frame["f1"], target["base_rate"].to_numpy())
    columns = ["unit", *ENTRY, "f1", "precision", "skill"]
    return frame[columns].reset_index(drop=True)


def headline(
    scores: pd.DataFrame, left_out: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a target: base rate, then "0.91 [0.88, 0.93]" a basis (F1).

    The factors ``left_out`` come last, with the reason instead of scores.
    """
    keys = ["corpus", "target"]
    shown = scores.assign(text=_texts(scores))
    wide = shown.pivot(index=keys, columns="basis", values="text")
    order = scores.drop_duplicates(keys).set_index(keys)
    wide = wide.reindex(order.index)[list(dict.fromkeys(scores["basis"]))]
    for place, name in enumerate(["sets", "base_rate", "always"]):
        wide.insert(place, name, order[name].round(3))
    wide.columns.name = None
    if left_out is None or not len(left_out):
        return wide
    rest = left_out.rename(columns={"factor": "target"}).set_index(keys)
    rest = rest[["sets"]].assign(**{wide.columns[3]: rest["reason"]})
    return pd.concat([wide, rest]).astype(object).fillna("")


def averages(study: Study) -> pd.DataFrame:
    """The mean F1 over the targets of a corpus: a row a basis.

    Columns: corpus, basis, targets, f1 and behind (the first basis's mean
    minus this one's), both with _low and _high (95%: all targets and bases
    are taken on the same resamples of the matched sets), and text.
    """
    scores, rows = study.scores, []
    whole = scores.groupby("basis", sort=False)["f1"].mean()
    drawn = {name: f1.mean(1) for name, f1 in study.drawn.items()}
    for name in whole.index:
        row = {"corpus": scores["corpus"].iloc[0], "basis": name}
        row["targets"] = (scores["basis"] == name).sum()
        first = whole.index[0]
        for key, value, resampled in [
            ("f1", whole[name], drawn[name]),
            ("behind", whole[first] - whole[name], drawn[first] - drawn[name]),
        ]:
            low, high = np.quantile(resampled, LEVELS)
            row |= {key: value, f"{key}_low": low, f"{key}_high": high}
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.assign(text=_texts(frame))


def _texts(frame: pd.DataFrame) -> list[str]:
    """F1 with its interval in each row: "0.91 [0.88, 0.93]"."""
    shown = frame[["f1", "f1_low", "f1_high"]].to_numpy()
    return [f"{f1:.2f} [{low:.2f}, {high:.2f}]" for f1, low, high in shown]


def duel(scores: pd.DataFrame, rival: str) -> pd.DataFrame:
    """The first basis against ``rival``: a row a target.

    Columns: corpus, factor, target, base_rate, always, features and rival
    (F1 of the two), gap (features - rival) with gap_low and gap_high, and
    outcome: "ahead" or "behind" if the 95% interval of the gap leaves out 0,
    else "even".
    """
    rows = scores[scores["basis"] == rival].reset_index(drop=True)
    shared = ["corpus", "factor", "target", "base_rate", "always"]
    frame = rows[shared].assign(
        features=rows["f1"] + rows["behind"],
        rival=rows["f1"],
        gap=rows["behind"],
        gap_low=rows["behind_low"],
        gap_high=rows["behind_high"],
    )
    sides = [frame["gap_low"] > 0, frame["gap_high"] < 0]
    return frame.assign(outcome=np.select(sides, ["ahead", "behind"], "even"))


def tally(duels: pd.DataFrame) -> str:
    """The outcomes of ``duel`` in words: "is ahead on 3 of 10, ..."."""
    count = duels["outcome"].value_counts().reindex(
        ["ahead", "behind", "even"], fill_value=0
    )
    return (
        f"is ahead on {count['ahead']} of {len(duels)}, behind on "
        f"{count['behind']}, and on {count['even']} the difference is within "
        "its interval"
    )


def specialists(units: pd.DataFrame, skill: float = 0.5) -> pd.DataFrame:
    """How many units of each basis tell something: a row a basis.

    Columns: units (that beat "always fires" for any target), median (of
    their best skill, on the half it was not chosen on), able (units with at
    least ``skill``) and targets (different ones among what these tell).
    """
    able = units[units["skill"] >= skill]
    names = able["corpus"] + "/" + able["target"]
    by = units.groupby("basis", sort=False)["skill"]
    frame = pd.DataFrame({"units": by.size(), "median": by.median()})
    frame["able"] = able.groupby("basis").size()
    frame["targets"] = names.groupby(able["basis"]).nunique()
    whole = ["able", "targets"]
    return frame.fillna({w: 0 for w in whole}).astype({w: int for w in whole})
