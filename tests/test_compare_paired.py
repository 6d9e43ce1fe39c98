"""Paired contrasts against scipy, by enumeration, and by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers import compare, features
from helpers.compare import Contrast
from helpers.errors import InputError

PAIR = Contrast("passive", "active")


def corpus(sets, labels=("passive", "active")):
    """One document a set and label, in set order."""
    return pd.DataFrame(
        {
            "label": list(labels) * sets,
            "group": np.repeat(np.arange(sets), len(labels)),
        }
    )


def draws(sets, width=6, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=(2 * sets, width))


def test_difference_and_interval_are_those_of_the_paired_t_test():
    maxima = draws(14).astype(np.float32)
    found = compare.paired_contrast(
        maxima, corpus(14), PAIR, min_documents=1, permutations=9
    )
    wide = maxima.astype(float)
    test = stats.ttest_rel(wide[::2], wide[1::2])
    low, high = test.confidence_interval()
    assert found["low"].to_numpy() == pytest.approx(low, abs=1e-6)
    assert found["high"].to_numpy() == pytest.approx(high, abs=1e-6)
    d_z = test.statistic / np.sqrt(14)
    assert found["d_z"].to_numpy() == pytest.approx(d_z, rel=1e-5)
    plain = compare.compare_pair(
        maxima, corpus(14), PAIR, min_documents=1, permutations=0
    )
    assert found["difference"].to_numpy() == pytest.approx(
        plain["deflection"], abs=1e-6
    )


def test_p_is_that_of_all_sign_flips_of_whole_sets():
    """Two documents a class and set: the set flips, not the document."""
    documents = pd.concat([corpus(6)] * 2, ignore_index=True)
    maxima = draws(12, 3).astype(np.float32)
    maxima[documents["label"] == "passive"] += 0.8
    found = compare.paired_contrast(
        maxima, documents, PAIR, min_documents=1, permutations=20_000
    )
    sides = [
        maxima[documents["label"] == name].reshape(2, 6, 3).mean(0)
        for name in ("passive", "active")
    ]
    gaps = sides[0] - sides[1]
    signs = np.array(list(itertools.product([1, -1], repeat=6)))
    exact = (abs(signs @ gaps) >= abs(gaps.sum(0)) - 1e-6).mean(0)
    assert found["p"].to_numpy() == pytest.approx(exact, abs=0.015)
    assert (found["sets"] == 6).all()


def test_p_agrees_with_scipys_exact_test():
    maxima = draws(7, 4, seed=2).astype(np.float32)
    found = compare.paired_contrast(
        maxima, corpus(7), PAIR, min_documents=1, permutations=20_000
    )
    exact = [
        stats.permutation_test(
            (gap,), np.sum, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        for gap in (maxima[::2] - maxima[1::2]).T
    ]
    assert found["p"].to_numpy() == pytest.approx(exact, abs=0.015)


def test_p_is_uniform_where_nothing_differs():
    """Pairs share most of what they are, as minimal pairs do."""
    rng = np.random.default_rng(6)
    p = []
    for seed in range(200):
        content = np.repeat(rng.gamma(2.0, size=(30, 1)), 2, axis=0)
        maxima = content + 0.1 * rng.random((60, 1))
        found = compare.paired_contrast(
            maxima.astype(np.float32), corpus(30), PAIR, permutations=999,
            min_documents=1, seed=seed,
        )
        p.append(found["p"].iloc[0])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_pairs_find_what_the_spread_of_content_hides():
    rng = np.random.default_rng(7)
    content = np.repeat(10 * rng.random((40, 1)), 2, axis=0)
    maxima = (content + 0.05 * rng.random((80, 1))).astype(np.float32)
    maxima[::2] += 0.1
    found = compare.paired_contrast(maxima, corpus(40), PAIR).iloc[0]
    assert found["p"] <= 0.01 and found["higher"] == 1 and found["lower"] == 0
    area = compare.auroc(maxima[::2], maxima[1::2])[0]
    assert area == pytest.approx(0.5, abs=0.1)


def test_equal_pairs_by_hand():
    maxima = np.array([[1, 2, 3], [1, 1, 3], [1, 4, 1], [1, 3, 1]], np.float32)
    found = compare.paired_contrast(
        maxima, corpus(2), PAIR, min_documents=1, permutations=99
    )
    assert found["difference"].tolist() == [0, 1, 0]
    assert found["higher"].tolist() == [0, 1, 0]
    assert found["d_z"][0] == 0 and np.isnan(found["d_z"][1])
    assert found["p"][0] == found["p"][2] == 1


def test_unpaired_documents_are_refused():
    documents = corpus(4).assign(group=np.arange(8))
    with pytest.raises(InputError, match="fewer than half of the sets"):
        compare.paired_contrast(draws(4), documents, PAIR, min_documents=1)


def test_paired_is_one_table():
    documents = corpus(9, ("passive", "active", "cleft"))
    several = [PAIR, Contrast("cleft", "active")]
    maxima = np.random.default_rng(0).random((27, 4)).astype(np.float32)
    found = compare.paired(maxima, documents, several, permutations=9)
    assert found["contrast"].tolist() == (
        ["passive vs active"] * 4 + ["cleft vs active"] * 4
    )


def test_twins():
    documents = corpus(3)
    assert compare.twins(documents, PAIR).tolist() == [[0, 1], [2, 3], [4, 5]]
    lonely = documents.drop(index=3)
    assert compare.twins(lonely, PAIR).tolist() == [[0, 1], [3, 4]]
    twice = pd.concat([documents, documents], ignore_index=True)
    with pytest.raises(InputError, match="several documents 'passive'"):
        compare.twins(twice, PAIR)
    twice["side"] = np.repeat(["a", "b"], 6)
    assert len(compare.twins(twice, PAIR, ("group", "side"))) == 6
    with pytest.raises(InputError, match="did you mean 'passive'"):
        compare.twins(documents, Contrast("passiv", "active"))


def table(tokens, codes):
    """A feature table of some documents: their token ids, their codes."""
    dense = np.concatenate(codes).astype(np.float32)
    at = np.nonzero(dense)
    counts = (dense != 0).sum(1)
    ids = np.concatenate(tokens)
    return features.FeatureTable(
        dense.shape[1], 1e-3, dense[at], at[1],
        np.concatenate([[0], np.cumsum(counts)]), ids,
        np.arange(len(tokens)),
        np.concatenate([[0], np.cumsum([len(t) for t in tokens])]),
        np.zeros(len(ids), int), np.ones(len(ids), int),
    )  # fmt: skip


def test_divergence_by_hand():
    tokens = [[5, 6, 7, 8], [5, 9, 7], [5, 6, 7, 8]]
    codes = [
        np.array([[1, 0], [2, 0], [3, 1], [4, 0]]),
        np.array([[1, 0], [0, 2], [1, 1]]),
        np.array([[1, 0], [2, 0], [3, 1], [4, 0]]),
    ]
    apart = compare.divergence(table(tokens, codes), np.array([[0, 1], [0, 2]]))
    assert apart["pair"].tolist() == [0, 0, 0]  # the second are equal
    assert apart["offset"].tolist() == [-1, 0, 1]
    assert apart["same"].tolist() == [True, False, True]
    # |3 - 1| + |1 - 1| over 3 + 1 + 1 + 1
    assert apart["difference"].tolist() == [0, 1, pytest.approx(2 / 6)]


def test_divergence_agrees_with_a_loop():
    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, 3, rng.integers(3, 9)) for _ in range(20)]
    codes = [
        rng.random((len(t), 5)) * (rng.random((len(t), 5)) < 0.5)
        for t in tokens
    ]
    pairs = np.arange(20).reshape(10, 2)
    found = compare.divergence(table(tokens, codes), pairs)
    expected = []
    for number, (a, b) in enumerate(pairs):
        length = min(len(tokens[a]), len(tokens[b]))
        same = tokens[a][:length] == tokens[b][:length]
        if same.all():
            continue
        first = np.flatnonzero(~same)[0]
        for at in range(length):
            f, g = codes[a][at], codes[b][at]
            total = (f + g).sum()
            gap = abs(f - g).sum() / total if total else 0
            expected.append((number, at - first, same[at], gap))
    assert found["pair"].tolist() == [row[0] for row in expected]
    assert found["offset"].tolist() == [row[1] for row in expected]
    assert found["same"].tolist() == [row[2] for row in expected]
    gaps = [row[3] for row in expected]
    assert found["difference"].to_numpy() == pytest.approx(gaps, abs=1e-6)


def test_carried_averages_sets_and_skips_words_that_differ():
    apart = pd.DataFrame(
        {
            "pair": [0, 1, 2, 0, 1, 2, 0, 1],
            "offset": [0, 0, 0, 1, 1, 1, 2, 2],
            "same": [False] * 3 + [True, True, True, True, False],
            "difference": [1.0, 1.0, 1.0, 0.2, 0.4, 0.6, 0.5, 0.5],
        }
    )
    curve = compare.carried(apart, np.array([8, 8, 9]), least=2)
    assert curve["offset"].tolist() == [0, 1]  # at 2 one set is left
    assert curve["difference"].tolist() == [1, pytest.approx(0.45)]
    low, high = stats.t.interval(0.95, 1, 0.45, stats.sem([0.3, 0.6]))
    assert curve["low"][1] == pytest.approx(low)
    assert curve["high"][1] == pytest.approx(high)
    assert curve["pairs"].tolist() == [3, 3]
