"""Likelihood-ratio proxies: is this token that kind of text?

Towards Monosemanticity scored its features without ground truth, by
log P(s | context) / P(s), the largest over the strings s that end at a token:
how much more probable the string is in Arabic, in DNA, ... than in text at
large. A score above 0 counts as "yes". Our corpora know the truth, so that
the proxies can be judged too.
"""

import re
from typing import TYPE_CHECKING

import numpy as np

from helpers.errors import unknown

if TYPE_CHECKING:
    from helpers.features import FeatureTable

NEVER = 1e-10  # probability of what a context does not allow
SCRIPTS = {  # Unicode blocks of the letters
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff"
    "\ufb50-\ufdff\ufe70-\ufeff",
    "Hebrew": "\u0590-\u05ff\ufb1d-\ufb4f",
    "Korean": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff",
}
ALPHABETS = {  # characters, how many, and tokens that a string must have
    "DNA": ("ACGT", 4, 2),
    "base64": ("A-Za-z0-9+/", 64, 1),
}


def script_proxy(
    table: "FeatureTable", texts: list[str], script: str
) -> np.ndarray:
    """log P(script | token) / P(script) of every token: [tokens].

    By Bayes' rule this is the ratio for the token's own string. P(script |
    token) is 1 if all its characters are in the script's blocks and NEVER if
    not; for a piece of a character it is the share of the piece's
    occurrences in ``texts`` (one a document) whose character is. P(script):
    share of all tokens. Raises InputError for an unknown script.
    """
    if script not in SCRIPTS:
        raise unknown("script", script, SCRIPTS)
    legal = re.compile(f"[{SCRIPTS[script]}]+")
    places = zip(
        table.document_of.tolist(),
        table.char_start.tolist(),
        table.char_end.tolist(),
        strict=True,
    )
    held = np.array(
        [bool(legal.fullmatch(texts[d], a, b)) for d, a, b in places]
    )
    ids = np.asarray(table.token_ids)
    share = np.bincount(ids, held) / np.maximum(np.bincount(ids), 1)
    base = max(held.mean(), NEVER)
    return np.log(np.maximum(share[ids], NEVER)) - np.log(base)


def string_proxy(
    table: "FeatureTable",
    strings: list[str],
    unigram: np.ndarray,
    alphabet: str,
) -> np.ndarray:
    """The largest log P(s | alphabet) / P(s) of strings s ending at a token.

    P(s | alphabet) is 1 / size for each legal character and NEVER for each
    other; P(s) the product of ``unigram`` [vocabulary], the tokens'
    frequencies in text at large. ``strings``: the text of each token of the
    vocabulary. Strings lie within a document and have one token or more,
    for DNA two. -> [tokens]; -inf where no string is long enough. Raises
    InputError for an unknown alphabet.
    """
    if alphabet not in ALPHABETS:
        raise unknown("alphabet", alphabet, ALPHABETS)
    characters, size, least = ALPHABETS[alphabet]
    legal = re.compile(f"[{characters}]")
    good = np.array([len(legal.findall(s)) for s in strings])
    bad = np.array([len(s) for s in strings]) - good
    ratio = bad * np.log(NEVER) - good * np.log(size) - np.log(unigram)
    return _best_suffix(ratio[table.token_ids], table.offsets, least)


def unigram_of(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Frequency of each token in a stream, one added to each: [vocabulary]."""
    counts = np.bincount(tokens, minlength=vocabulary) + 1
    return counts / counts.sum()


def _best_suffix(ratio, offsets, least: int) -> np.ndarray:
    """Largest sum of at least ``least`` (1 or 2) ratios that end here.

    The best run ending here is this ratio, and the best one ending just
    before if that is positive (Kadane); all documents step together.
    """
    best = np.full(len(ratio), -np.inf)
    previous = np.full(len(offsets) - 1, -np.inf)
    lengths = np.diff(offsets)
    for step in range(int(lengths.max(initial=0))):
        here = np.flatnonzero(lengths > step)
        at = offsets[here] + step
        before = previous[here]
        longer = ratio[at] + before
        run = ratio[at] + np.maximum(before, 0)
        best[at] = run if least == 1 else longer
        previous[here] = run
    return best
