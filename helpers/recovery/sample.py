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
SPARE = 2  # sets more than needed: a span may lie beyond the context


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
        if (sets_with(held).sum() < needed).any():
            held = pd.concat([held, _further(corpus, last)])
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
    """Which matched sets show which factors: bool [sets, factors]."""
    told = spans(documents.reset_index(drop=True))
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
    held, new = (random.permutation(s) for s in _parted(has.index, last))
    size = len(documents) / len(has)
    origin = dict.fromkeys(held[: round(wanted / size)].tolist(), "drawn")
    for factor in has.sum().sort_values(kind="stable").index:
        rest = [
            s for s in [*held, *new] if has.at[s, factor] and s not in origin
        ]
        missing = needed - has.loc[list(origin), factor].sum()
        for one in rest[: max(missing, 0)]:
            origin[one] = "new" if one > last else "added"
    found = documents.assign(origin=documents["group"].map(origin))
    return found.dropna(subset="origin").sort_values("group", kind="stable")


def _parted(sets, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Sets up to ``last``, and those behind it."""
    sets = sets.to_numpy()
    return sets[sets <= last], sets[sets > last]


def _further(corpus: Path, last: int) -> pd.DataFrame:
    """Documents of sets that the corpus would have if it were larger."""
    made = artifacts.read_manifest(corpus)["parameters"]
    if "writer" in made:
        return pd.DataFrame()
    groups = round((1 + MORE) * made["groups"])
    frame = generate(made["corpus"], groups, made["seed"])
    return frame[frame["group"] > last]
