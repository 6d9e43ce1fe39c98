"""Controls: corpora on which a real difference must vanish, or stay.

Word-shuffled copies keep the words and lose their order; length-matched
subsets take document length away as an explanation; a null pair is one
class split in two, between which nothing may be found.
"""

import itertools
import random

import pandas as pd

from helpers.synthesis import quality


def shuffled_words(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Each document with its words (between spaces) in random order.

    The spans of factors no longer apply, so that column is empty lists.
    """
    rng = random.Random(seed)
    texts = [_shuffle(text, rng) for text in frame["text"]]
    return frame.assign(text=texts, spans="[]")


def length_matched(
    frame: pd.DataFrame, lengths: pd.Series | None = None, width: int = 8
) -> pd.DataFrame:
    """The documents whose lengths every label has, equally many of each.

    ``lengths`` counts what is to be matched (characters by default, or
    tokens), in bins of ``width``; earlier documents come first.
    """
    lengths = frame["text"].str.len() if lengths is None else lengths
    bins = (lengths // width).rename("bin")
    counts = pd.crosstab(bins, frame["label"])
    wanted = counts.min(axis=1)
    rank = frame.groupby([bins, frame["label"]]).cumcount()
    return frame[rank < bins.map(wanted)]


def null_pair(
    frame: pd.DataFrame, label: str, seed: int = 0
) -> pd.DataFrame:
    """The documents of one label, relabelled "half 1" and "half 2"."""
    part = frame[frame["label"] == label]
    order = list(range(len(part)))
    random.Random(seed).shuffle(order)
    halves = pd.Series(order, index=part.index) % 2 + 1
    return part.assign(label="half " + halves.astype(str))


def statistics(frame: pd.DataFrame, seed: int = 0) -> pd.Series:
    """What the three controls do to one corpus.

    The AUROC of the best word of the null pair of the first label; that of
    the length in characters for the pair of labels it separates best,
    before and after matching; the shares of documents that matching keeps
    and of pairs of neighbouring words that shuffling keeps.
    """
    null = null_pair(frame, frame["label"].iloc[0], seed)
    matched = length_matched(frame)
    return pd.Series({
        "null pair, best word": quality.separability(null)["auroc"].max(),
        "length": _by_length(frame),
        "length, matched": _by_length(matched),
        "kept when matched": len(matched) / len(frame),
        "word pairs kept when shuffled": _pairs_kept(frame.head(1000), seed),
    })


def _by_length(frame: pd.DataFrame) -> float:
    """AUROC of the length for the pair of labels that it separates best."""
    from scipy.stats import mannwhitneyu

    lengths = [
        part.str.len() for _, part in frame.groupby("label")["text"]
    ]
    areas = [
        mannwhitneyu(one, other).statistic / (len(one) * len(other))
        for one, other in itertools.combinations(lengths, 2)
    ]
    return max((max(area, 1 - area) for area in areas), default=0.5)


def _pairs_kept(frame: pd.DataFrame, seed: int) -> float:
    before, after = (
        [set(itertools.pairwise(text.split())) for text in texts]
        for texts in (frame["text"], shuffled_words(frame, seed)["text"])
    )
    kept = sum(len(a & b) for a, b in zip(before, after, strict=True))
    return kept / max(sum(map(len, before)), 1)


def _shuffle(text: str, rng: random.Random) -> str:
    found = text.split()
    rng.shuffle(found)
    return " ".join(found)
