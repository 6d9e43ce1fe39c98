"""What a corpus is like: its size, variety, duplicates and separability.

A contrast that one word decides teaches nothing about features, so the
best single word of every pair of labels is measured like a feature: by the
area under its ROC curve (AUROC) over documents.
"""

import itertools
import re
from collections import Counter

import pandas as pd

WORD = re.compile(r"\w+|[^\w\s]")


def summary(frame: pd.DataFrame, near: int = 1000) -> pd.DataFrame:
    """One row per corpus of a document frame.

    Documents, matched sets and the share of them that are complete,
    characters, distinct-1 and distinct-2 (distinct words and word pairs
    per word, Li et al. 2016), the share of exact duplicates, and of near
    duplicates within a label among its first ``near`` documents.
    """
    rows = {
        name: _summarise(part, near)
        for name, part in frame.groupby("corpus", sort=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("corpus")


def separability(frame: pd.DataFrame) -> pd.DataFrame:
    """The word that best separates each pair of labels by being there.

    One row per pair: label, other, word, auroc, and the share of either
    label's documents that hold the word. With presence as the score,
    AUROC = 1/2 + |share - other's share| / 2.
    """
    found = {
        label: (_document_counts(part["text"]), len(part))
        for label, part in frame.groupby("label", sort=False)
    }
    rows = [
        (one, other, *_best(*found[one], *found[other]))
        for one, other in itertools.combinations(found, 2)
    ]
    names = ["label", "other", "word", "auroc", "share", "other_share"]
    return pd.DataFrame(rows, columns=names)


def near_duplicates(frame: pd.DataFrame, near: int = 1000) -> float:
    """Share of near duplicates of an earlier document of their label."""
    from helpers.text.duplicates import first_of_near_duplicates

    repeated = total = 0
    for _, part in frame.groupby("label", sort=False):
        texts = list(part["text"].head(near))
        repeated += len(texts) - int(first_of_near_duplicates(texts).sum())
        total += len(texts)
    return repeated / total


def token_counts(frame: pd.DataFrame, tokenizer) -> pd.DataFrame:
    """Tokens and characters of each text class, and characters per token.

    Indexed by corpus and label; ``tokenizer`` is a tokenizers.Tokenizer.
    """
    encodings = tokenizer.encode_batch(list(frame["text"]))
    counted = frame[["corpus", "label"]].assign(
        documents=1,
        characters=frame["text"].str.len(),
        tokens=[len(encoding.ids) for encoding in encodings],
    )
    table = counted.groupby(["corpus", "label"], sort=False).sum()
    table["characters per token"] = table["characters"] / table["tokens"]
    table["tokens per document"] = table["tokens"] / table["documents"]
    return table


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks."""
    return WORD.findall(text.lower())


def _summarise(frame: pd.DataFrame, near: int) -> dict:
    sizes = frame.groupby("group").size()
    return {
        "documents": len(frame),
        "matched sets": len(sizes),
        "complete sets": (sizes == frame["label"].nunique()).mean(),
        "characters": int(frame["text"].str.len().sum()),
        **_distinct(frame["text"]),
        "exact duplicates": _exact(frame),
        "near duplicates": near_duplicates(frame, near),
    }


def _distinct(texts: pd.Series) -> dict[str, float]:
    single, double, total = set(), set(), 0
    for text in texts:
        found = words(text)
        total += len(found)
        single.update(found)
        double.update(itertools.pairwise(found))
    return {"distinct-1": len(single) / total,
            "distinct-2": len(double) / total}


def _exact(frame: pd.DataFrame) -> float:
    return frame.duplicated(["label", "text"]).mean()


def _document_counts(texts: pd.Series) -> Counter:
    """In how many documents each word is."""
    counts: Counter = Counter()
    for text in texts:
        counts.update(set(words(text)))
    return counts


def _best(one: Counter, n_one: int, other: Counter, n_other: int) -> tuple:
    def gap(word: str) -> float:
        return abs(one[word] / n_one - other[word] / n_other)

    word = max(sorted(one.keys() | other.keys()), key=gap)
    shares = one[word] / n_one, other[word] / n_other
    return word, 0.5 + gap(word) / 2, *shares
