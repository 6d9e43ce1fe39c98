"""What a corpus is like: its size, variety, duplicates and separability.

A contrast that words alone decide teaches nothing about features, so the
best single word of every pair of labels, and all its words together, are
measured like a feature: by the area under the ROC curve (AUROC) over
documents, which is the chance that a document of one label scores above
one of the other (Hanley & McNeil 1982).
"""

import concurrent.futures
import functools
import hashlib
import itertools
import json
import multiprocessing
import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

WORD = re.compile(r"\w+|[^\w\s]")
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse regularisation, tried in turn


def of_each(measure: Callable, frames: Iterable[pd.DataFrame]) -> list:
    """``measure`` of each frame, in order, on all cores.

    ``measure`` is a function of a module (processes import it), or a
    ``functools.partial`` of one.
    """
    frames = list(frames)
    workers = min(os.cpu_count() or 1, len(frames))
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn")
    ) as pool:
        return list(pool.map(measure, frames))


def summary(frame: pd.DataFrame, near: int | None = None) -> pd.DataFrame:
    """One row per corpus of a document frame.

    Documents, labels, and the balance between them (smallest over largest
    label); matched sets, and the share of them with every label that their
    split has; characters; distinct-1 and distinct-2 (distinct words and
    word pairs per word, Li et al. 2016); the share of exact duplicates
    (same label, same text), and of near duplicates (``near_duplicates``).
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


def bag_of_words(
    frame: pd.DataFrame, factor: str, documents: int = 10_000
) -> pd.DataFrame:
    """How well words tell each pair of labels apart in unseen sentences.

    ``factor`` names the label's factor, whose spans mark the sentences that
    carry it. Their wordings are dealt into two halves. A logistic
    regression on which words are there (not how often) is trained on
    documents written in one half and scored on those written in the other,
    both ways round; its regularisation is chosen inside the training half,
    by the same division once more. Only the first ``documents`` of each
    label are used.

    One row per pair: label, other, auroc (mean of both ways; NaN if a label
    has but one wording), scored (how many documents were).
    """
    from sklearn.feature_extraction.text import CountVectorizer

    frame = frame.groupby("label", sort=False).head(documents)
    # A word of one document has nothing to say about another.
    vectorizer = CountVectorizer(analyzer=words, binary=True, min_df=2)
    present = vectorizer.fit_transform(frame["text"])
    quarters = _quarters(frame, factor)
    labels, rows = frame["label"].to_numpy(), []
    for one, other in itertools.combinations(frame["label"].unique(), 2):
        pair = (labels == one) | (labels == other)
        found = _transfers(present[pair], labels[pair] == one, quarters[pair])
        rows.append((one, other, *found))
    return pd.DataFrame(rows, columns=["label", "other", "auroc", "scored"])


def detectors(frame: pd.DataFrame) -> pd.DataFrame:
    """``separability`` and ``bag_of_words`` of a corpus, one below another.

    corpus, label, other, detector ("best word" or "bag of words"), auroc,
    and the word of the first. Pairs without a bag of words are left out.
    """
    from helpers.synthesis.corpus import load_grammar

    name = frame["corpus"].iloc[0]
    bags = bag_of_words(frame, load_grammar(name).label_factor)
    single = separability(frame).assign(detector="best word", corpus=name)
    bags = bags.assign(detector="bag of words", word="", corpus=name)
    columns = ["corpus", "label", "other", "detector", "word", "auroc"]
    found = pd.concat([single, bags], ignore_index=True)[columns]
    return found.dropna(subset="auroc")


def wordings(text: str, spans: list, factor: str) -> set[str]:
    """The sentences that carry ``factor``, with {name} for each slot.

    ``spans`` are the document's; of nested slots the outermost is taken
    out. An article agrees with what follows, so "an {x}" is "a {x}".
    """
    found = set()
    for name, _, start, end in spans:
        if name == factor:
            inner = sorted(
                (left, -right, slot) for slot, _, left, right in spans
                if start <= left and right <= end
                and right - left < end - start
            )
            found.add(_wording(text, start, end, inner))
    return found


def near_duplicates(frame: pd.DataFrame, near: int | None = None) -> float:
    """Share of near duplicates of an earlier document of their label.

    Only the first ``near`` documents of each label are looked at; None
    looks at all. What is near is defined in ``helpers.text.duplicates``.
    """
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


def _summarise(frame: pd.DataFrame, near: int | None) -> dict:
    counts = frame["label"].value_counts()
    return {
        "documents": len(frame),
        "labels": len(counts),
        "balance": counts.min() / counts.max(),
        "matched sets": frame["group"].nunique(),
        "complete sets": _complete(frame),
        "characters": int(frame["text"].str.len().sum()),
        **_distinct(frame["text"]),
        "exact duplicates": _exact(frame),
        "near duplicates": near_duplicates(frame, near),
    }


def _complete(frame: pd.DataFrame) -> float:
    """A split may leave labels out on purpose; its sets then lack them."""
    due = frame.groupby("split")["label"].nunique()
    found = frame.groupby(["split", "group"])["label"].nunique()
    return (found == due.reindex(found.index, level="split")).mean()


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


def _wording(text: str, start: int, end: int, slots: list) -> str:
    parts = []
    for left, right, name in slots:
        if left >= start:
            parts.append(f"{text[start:left]}{{{name}}}")
            start = -right
    parts.append(text[start:end])
    return re.sub(r"\ban {", "a {", "".join(parts).lower())


def _quarters(frame: pd.DataFrame, factor: str) -> np.ndarray:
    """int [n]: the quarters (sum of 1, 2, 4, 8) of each document's wordings.

    Each label's wordings are dealt in the order of their hashes, to either
    half in turn (1 and 2, or 4 and 8), so that both halves have some.
    """
    found = [
        wordings(text, json.loads(spans), factor)
        for text, spans in zip(frame["text"], frame["spans"], strict=True)
    ]
    label_of: dict[str, str] = {}
    for label, sentences in zip(frame["label"], found, strict=True):
        for sentence in sentences:
            label_of.setdefault(sentence, label)
    order = sorted(label_of, key=lambda s: (
        label_of[s], hashlib.sha256(s.encode()).digest()
    ))
    quarter = {s: (1, 4, 2, 8)[i % 4] for i, s in enumerate(order)}
    return np.array([
        functools.reduce(operator.or_, map(quarter.get, sentences), 0)
        for sentences in found
    ])


def _transfers(*data) -> tuple[float, int]:
    """AUROC of both halves, each scored by a fit on the other half."""
    score = functools.partial(_transfer, *data)
    aurocs, scored = zip(*(
        score(train, test, _strength(score, train))
        for train, test in ((1 | 2, 4 | 8), (4 | 8, 1 | 2))
    ), strict=True)
    return float(np.mean(aurocs)), sum(scored)


def _strength(score, half: int) -> float:
    """The best regularisation between the two quarters of a half."""
    one, other = half & (1 | 4), half & (2 | 8)
    return max(STRENGTHS, key=lambda strength: np.nansum([
        score(one, other, strength)[0], score(other, one, strength)[0]
    ]))


def _transfer(present, target, quarters, train, test, strength) -> tuple:
    """AUROC in the quarters ``test`` of a fit in ``train``, and on how many."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    fit, score = _within(quarters, train), _within(quarters, test)
    if min(len(set(target[fit])), len(set(target[score]))) < 2:
        return np.nan, 0
    model = LogisticRegression(C=strength, max_iter=500)
    model.fit(present[fit], target[fit])
    scores = model.decision_function(present[score])
    return roc_auc_score(target[score], scores), int(score.sum())


def _within(quarters, wanted: int):
    """bool: which documents have all their sentences in these quarters."""
    return (quarters > 0) & (quarters & ~wanted == 0)
