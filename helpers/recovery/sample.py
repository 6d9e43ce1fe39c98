"""Which documents to score on: few, and every factor often enough.

Chosen by labels alone, before any model has read them.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from helpers import artifacts, paths
from helpers.synthesis.artifact import DOCUMENTS, load_corpus
from helpers.synthesis.corpus import generate
from helpers.synthesis.truth import spans

MORE = 0.5  # further sets, as a share of the corpus, where it has too few
MOST = 0.9  # share of the text above which a factor is on nearly all of it
SPARE = 3  # sets more than needed: a span may lie beyond the context


def make_sample(
    profile: str,
    name: str,
    *,
    documents: int,
    min_sets: int,
    seed: int = 0,
) -> Path:
    """Draw held-out documents of a corpus, as the artifact NAME-recovery.

    Whole matched sets at random, about ``documents`` documents; then, for
    each factor with too few of them for two halves of ``min_sets``, further
    held-out sets that have it. Where even these are too few, the grammar
    goes on from where the corpus ended: no model has read those sets. (It
    cannot where a language model wrote the corpus.) The column "origin"
    says where a set is from: "drawn", "added" or "new".
    """
    corpus = paths.corpus(profile, name)

    def make(folder: Path) -> None:
        held = load_corpus(corpus)
        last = held["group"].max()
        held = held[held["split"] == "held_out"]
        needed = 2 * min_sets + SPARE
        how = artifacts.read_manifest(corpus)["parameters"]
        rare = (sets_with(held).sum() < needed).any()
        if rare and "writer" not in how:
            held = pd.concat([held, _further(how, last)])
        sample = choose(held, documents, needed, seed, last)
        sample = sample.assign(split="held_out")  # of new ones too
        sample.to_parquet(folder / DOCUMENTS, index=False)

    return artifacts.produce(
        paths.corpus(profile, f"{name}-recovery"),
        make,
        parameters={
            "documents": documents, "min_sets": min_sets, "seed": seed,
        },
        inputs=[corpus],
    )  # fmt: skip


def sets_with(documents: pd.DataFrame) -> pd.DataFrame:
    """Which matched sets show which factors: bool [sets, factors].

    A factor that nearly all of the text has can only be a target by its
    values: the most frequent one has a column of its own.
    """
    told = spans(documents.reset_index(drop=True))
    length = (told["end"] - told["start"]).groupby(told["factor"]).sum()
    wide = length.index[length > MOST * documents["text"].str.len().sum()]
    top = told[told["factor"].isin(wide)].groupby("factor")["value"]
    top = top.agg(lambda values: values.mode()[0]).rename("value")
    more = told.merge(top.reset_index(), on=["factor", "value"])
    more["factor"] += ": " + more["value"].astype(str)
    told = pd.concat([told, more])
    groups = documents["group"].to_numpy()
    found = pd.crosstab(groups[told["document"]], told["factor"]) > 0
    return found.reindex(np.unique(groups), fill_value=False)


def choose(
    documents: pd.DataFrame, wanted: int, needed: int, seed: int, last: int
) -> pd.DataFrame:
    """The documents of the chosen sets, see ``make_sample``.

    Sets numbered above ``last`` are "new": they are only taken for a factor
    that has fewer than ``needed`` sets without them.
    """
    has = sets_with(documents)
    random = np.random.default_rng(seed)
    held = random.permutation(has.index[has.index <= last])
    new = random.permutation(has.index[has.index > last])
    count = round(wanted * len(has) / len(documents))
    origin = dict.fromkeys(held[:count].tolist(), "drawn")
    for factor in has.sum().sort_values(kind="stable").index:
        found = has.index[has[factor]]
        missing = needed - found.isin(list(origin)).sum()
        rest = [s for s in [*held, *new] if s in found and s not in origin]
        for one in rest[: max(missing, 0)]:
            origin[one] = "new" if one > last else "added"
    chosen = documents.assign(origin=documents["group"].map(origin))
    return chosen.dropna(subset="origin").sort_values("group", kind="stable")


def _further(how: dict, last: int) -> pd.DataFrame:
    """Documents of sets that the corpus would have if it were larger."""
    groups = round((1 + MORE) * how["groups"])
    frame = generate(how["corpus"], groups, how["seed"])
    return frame[frame["group"] > last]
