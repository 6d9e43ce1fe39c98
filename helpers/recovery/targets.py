"""Targets: for each factor, and each value of it, the tokens that have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from helpers.compare.contrasts import same_length
from helpers.recovery.sample import MOST
from helpers.recovery.tables import ranges
from helpers.synthesis.truth import spans

if TYPE_CHECKING:
    from helpers.features import FeatureTable

PRESENT = "(any)"  # the value of the target "has this factor at all"
ENTRY = ["factor", "value"]


@dataclass(frozen=True)
class Targets:
    """Yes or no for each token, a target at a time.

    ``names``: a row a target, with factor, value (``PRESENT`` for any),
    positives (tokens), sets (matched sets that have one) and base_rate.
    ``rows``: the tokens of each target, in order. ``n_tokens``: of all.
    """

    names: pd.DataFrame
    rows: list[np.ndarray]
    n_tokens: int

    def mask(self, name: Mapping) -> np.ndarray:
        """Which tokens have the target of a row of names: bool [tokens]."""
        place = _keys(self.names).index((name["factor"], name["value"]))
        held = np.zeros(self.n_tokens, bool)
        held[self.rows[place]] = True
        return held

    def pick(self, names: pd.DataFrame) -> "Targets":
        """Those of the given factors and values, in the given order."""
        place = {key: i for i, key in enumerate(_keys(self.names))}
        order = [place[key] for key in _keys(names)]
        return Targets(
            self.names.iloc[order].reset_index(drop=True),
            [self.rows[i] for i in order],
            self.n_tokens,
        )


def find_targets(table: "FeatureTable", documents: pd.DataFrame) -> Targets:
    """Every factor and every value of it in the documents of a table.

    ``documents``: the corpus's frame in the order of the table. A token has
    a factor if it shares a character with its span.
    """
    same_length(table.documents, documents)
    told = spans(documents.reset_index(drop=True))
    told["value"] = told["value"].astype(str)
    present = told.assign(value=PRESENT)
    told = pd.concat([present, told], ignore_index=True)
    code = told.groupby(ENTRY, sort=True).ngroup().to_numpy()
    rows, codes = _tokens(table, told, code)
    names = told[ENTRY].assign(code=code).drop_duplicates("code")
    names = names.sort_values("code")[ENTRY].reset_index(drop=True)
    bounds = np.searchsorted(codes, np.arange(len(names) + 1))
    parts = [rows[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    groups = documents["group"].to_numpy()[table.document_of]
    names["positives"] = [len(part) for part in parts]
    names["sets"] = [len(np.unique(groups[part])) for part in parts]
    names["base_rate"] = names["positives"] / max(table.n_tokens, 1)
    return Targets(names, parts, table.n_tokens)


def shared(
    first: Targets, second: Targets, min_sets: int
) -> tuple[Targets, Targets]:
    """The targets that both halves have often enough, in one order.

    In ``min_sets`` matched sets or more, and on at most ``MOST`` of the
    tokens: what nearly every token has, there is no need to detect. A factor
    with one value only counts once.
    """
    usable = [
        part.names[
            (part.names["sets"] >= min_sets)
            & (part.names["base_rate"] <= MOST)
        ]
        for part in (first, second)
    ]
    both = usable[0][ENTRY].merge(usable[1][ENTRY], on=ENTRY)
    values = first.names[first.names["value"] != PRESENT]
    single = values.groupby("factor").size().reindex(both["factor"]) == 1
    both = both[~(single.to_numpy() & (both["value"] != PRESENT))]
    return first.pick(both), second.pick(both)


def not_shared(
    first: Targets, second: Targets, kept: Targets
) -> pd.DataFrame:
    """Factors of which nothing is in ``kept`` (from ``shared``), and why.

    Columns: factor, sets (of the half with fewer), reason.
    """
    parts = [
        part.names[part.names["value"] == PRESENT].set_index("factor")
        for part in (first, second)
    ]
    sets, rates = (
        pd.concat([part[name] for part in parts], axis=1).fillna(0)
        for name in ("sets", "base_rate")
    )
    frame = pd.DataFrame({"sets": sets.min(axis=1).astype(int)})
    everywhere = rates.max(axis=1) > MOST
    frame["reason"] = np.where(everywhere, "on nearly every token", "too rare")
    missing = ~frame.index.isin(kept.names["factor"])
    return frame[missing].rename_axis("factor").reset_index()


def _keys(names: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(names["factor"], names["value"], strict=True))


def _tokens(table, told, code) -> tuple[np.ndarray, np.ndarray]:
    """Tokens under each span, without repeats, ordered by their code."""
    wide = 1 + int(max(table.char_end.max(initial=0), told["end"].max()))
    place = table.document_of * wide
    left, right = place + table.char_start, place + table.char_end
    document = told["document"].to_numpy(np.int64) * wide
    first = np.searchsorted(right, document + told["start"], side="right")
    last = np.searchsorted(left, document + told["end"], side="left")
    counts = np.maximum(last - first, 0)
    key = np.repeat(code.astype(np.int64), counts) * table.n_tokens
    key = np.unique(key + ranges(first, counts))
    return key % max(table.n_tokens, 1), key // max(table.n_tokens, 1)
