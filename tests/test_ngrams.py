"""The n-gram baselines against hand-worked cases and their definition."""

from collections import Counter

import numpy as np
import pytest

from helpers.ngrams import Bigram, Unigram


def test_unigram_by_hand():
    # Counts 2, 1, 0, 1 of 4 tokens, plus one each: 3, 2, 1, 2 of 8.
    unigram = Unigram.fit(np.array([0, 1, 0, 3], np.uint16), vocab_size=4)
    losses = unigram(np.array([[3, 0, 2]]))
    assert losses == pytest.approx(-np.log([[3 / 8, 1 / 8]]))


def test_bigram_by_hand():
    # Pairs of 0 1 0 1 0 2: (0,1) and (1,0) twice, (0,2) once.
    bigram = Bigram.fit(np.array([0, 1, 0, 1, 0, 2], np.uint16), 3)
    d = 1 / (1 + 2 * 2)
    # Distinct pairs that end in 0, 1, 2: one each, plus one: all 2 of 6.
    assert bigram.discount == pytest.approx(d)
    assert bigram.q == pytest.approx([1 / 3] * 3)
    p = bigram.probability(0, np.arange(3))
    left = d * 2 / 3 / 3
    expected = [left, (2 - d) / 3 + left, (1 - d) / 3 + left]
    assert p == pytest.approx(expected)
    # 2 is never followed by anything: the lower order alone.
    assert bigram.probability(2, np.arange(3)) == pytest.approx([1 / 3] * 3)


def test_bigram_equals_its_definition():
    random = np.random.default_rng(0)
    stream = (random.zipf(1.5, 3000) % 50).astype(np.uint16)
    bigram = Bigram.fit(stream, 60)
    neighbours = np.stack([stream[:-1], stream[1:]], 1).tolist()
    pairs = Counter(map(tuple, neighbours))
    seen = Counter(pairs.values())
    d = seen[1] / (seen[1] + 2 * seen[2])
    rows = random.integers(0, 60, (4, 30))
    losses = bigram(rows)
    for row, found in zip(rows.tolist(), losses, strict=True):
        for i, (v, w) in enumerate(zip(row[:-1], row[1:], strict=True)):
            total = sum(c for (a, _), c in pairs.items() if a == v)
            kinds = sum(a == v for a, _ in pairs)
            ends = sum(b == w for _, b in pairs)
            q = (ends + 1) / (len(pairs) + 60)
            p = (max(pairs[v, w] - d, 0) + d * kinds * q) / total \
                if total else q
            assert found[i] == pytest.approx(-np.log(p))


def test_probabilities_sum_to_one():
    stream = np.random.default_rng(1).integers(0, 30, 500)
    bigram = Bigram.fit(stream, 35)
    before, after = np.arange(35)[:, None], np.arange(35)[None]
    sums = bigram.probability(before, after).sum(1)
    assert sums == pytest.approx(np.ones(35))
    assert np.exp(Unigram.fit(stream, 35).log_p).sum() == pytest.approx(1)


def test_every_pair_seen_once_keeps_some_probability():
    losses = Bigram.fit(np.arange(5), 6)(np.array([[0, 1, 5, 0]]))
    assert np.isfinite(losses).all()
