"""Near duplicates, by MinHash and locality-sensitive hashing.

Two documents are near duplicates when the Jaccard similarity of their sets
of word 5-grams is at least ``THRESHOLD`` (Broder 1997, "On the resemblance
and containment of documents"). MinHash only proposes pairs: each is then
checked on the sets themselves, so nothing is removed by chance.
"""

import functools

import numpy as np

from helpers.progress import track

THRESHOLD = 0.7
WORDS = 5  # words in a shingle
# 25 bands of 5 hashes: a pair at the threshold is proposed with probability
# 1 - (1 - 0.7^5)^25 = 99%, one at half the threshold with 12%.
BANDS, ROWS = 25, 5


def first_of_near_duplicates(texts: list[str]) -> np.ndarray:
    """bool [n_texts]: whether no near duplicate was kept before a text.

    The first of a family in order stays, so the answer depends on nothing
    but the texts and their order.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    sets = shingles(texts)
    keep = np.ones(len(texts), bool)
    with track("removing near duplicates", len(texts)) as progress:
        for i, own in enumerate(sets):
            sketch = _sketch(own)
            keep[i] = not any(
                jaccard(own, sets[j]) >= THRESHOLD
                for j in index.query(sketch)
            )
            if keep[i]:
                index.insert(i, sketch, check_duplication=False)
            progress.update()
    return keep


def shingles(texts: list[str]) -> list[np.ndarray]:
    """Each text's distinct word 5-grams as sorted uint64 hashes.

    A text of fewer words is one shingle, all of it.
    """
    ids: dict[str, int] = {}
    words = [
        np.array([ids.setdefault(w, len(ids)) for w in text.split()], int)
        for text in texts
    ]
    # A polynomial hash: random 64-bit word values times odd constants.
    random = np.random.default_rng(0)
    values = random.integers(0, 2**64, len(ids), np.uint64)
    factors = random.integers(0, 2**63, WORDS, np.uint64) * 2 + 1
    return [_shingles(values[w], factors) for w in words]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard similarity of two sets (sorted arrays without repeats)."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _shingles(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    count = max(len(values) - WORDS + 1, 1)
    total = np.zeros(count, np.uint64)
    for shift, factor in enumerate(factors):
        part = values[shift : shift + count]
        total[: len(part)] += part * factor
    return np.unique(total)


def _sketch(hashes: np.ndarray):
    from datasketch import MinHash

    sketch = MinHash(
        BANDS * ROWS,
        hashfunc=_itself,
        scheme="affine32",
        permutations=_permutations(),
    )
    sketch.update_batch((hashes >> np.uint64(32)).tolist())
    return sketch


@functools.cache
def _permutations():
    """Drawn once: drawing them takes longer than using them."""
    from datasketch import MinHash

    return MinHash(BANDS * ROWS, scheme="affine32").permutations


def _itself(value: int) -> int:
    return value
