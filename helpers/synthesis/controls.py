"""Controls: corpora on which a real difference must vanish, or stay.

Word-shuffled copies keep the words and lose their order; length-matched
subsets take document length away as an explanation; a null pair is one
class split in two, between which nothing may be found.
"""

import random

import pandas as pd


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


def _shuffle(text: str, rng: random.Random) -> str:
    found = text.split()
    rng.shuffle(found)
    return " ".join(found)
