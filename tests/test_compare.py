"""Comparisons against scipy, hand-worked cases and simulated nulls."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers import compare, paths
from helpers.compare import Contrast
from helpers.errors import InputError


def corpus(groups, labels=("positive", "negative", "neutral")):
    """One document per matched set and label, in set order."""
    return pd.DataFrame(
        {
            "label": list(labels) * groups,
            "group": np.repeat(np.arange(groups), len(labels)),
        }
    )


def noise(rows, features, seed=0, sparse=0.0):
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, size=(rows, features)).astype(np.float32)
    return values * (rng.random(values.shape) >= sparse)


POSITIVE = Contrast("positive", "neutral")


def test_class_means_and_deflection_on_a_hand_worked_case():
    documents = corpus(2)
    # positive: 1, 3; negative: 0, 0; neutral: 2, 0
    maxima = np.array([[1.0], [0], [2], [3], [0], [0]], np.float32)
    means = compare.class_means(maxima, documents["label"])
    assert list(means.index) == ["positive", "negative", "neutral"]
    assert means[0].tolist() == [2.0, 0.0, 1.0]
    row = compare.compare_pair(
        maxima, documents, POSITIVE, min_documents=1, permutations=0
    ).iloc[0]
    assert row["deflection"] == 1.0
    # squares within: (1-2)^2 + (3-2)^2 + (2-1)^2 + (0-1)^2 = 4, over 2
    assert row["cohens_d"] == pytest.approx(1 / np.sqrt(2))
    # of the pairs (1,2) (1,0) (3,2) (3,0) three are won
    assert row["auroc"] == 0.75 and row["rank_biserial"] == 0.5
    assert row["fires_treatment"] == 1.0 and row["fires_control"] == 0.5
    assert row["n_treatment"] == row["n_control"] == 2
    assert np.isnan(row["p"]) and np.isnan(row["p_max"])


@pytest.mark.parametrize("sparse", [0.0, 0.8])
def test_auroc_is_mann_whitney_u_over_n_m(sparse):
    a, b = noise(31, 20, 1, sparse), noise(17, 20, 2, sparse) * 1.3
    expected = [
        stats.mannwhitneyu(x.astype(float), y.astype(float)).statistic
        / (31 * 17)
        for x, y in zip(a.T, b.T, strict=True)
    ]
    assert compare.auroc(a, b) == pytest.approx(expected, abs=1e-12)


def test_auroc_in_chunks_is_the_same(monkeypatch):
    a, b = noise(9, 11, 1), noise(8, 11, 2)
    whole = compare.auroc(a, b)
    monkeypatch.setattr("helpers.compare.effects.CHUNK", 4)
    assert compare.auroc(a, b).tolist() == whole.tolist()


def test_cohens_d_is_t_times_the_sample_size_factor():
    a, b = noise(12, 6, 1), noise(20, 6, 2) + 0.5
    t = stats.ttest_ind(a.astype(float), b.astype(float)).statistic
    expected = t * np.sqrt(1 / 12 + 1 / 20)
    assert compare.cohens_d(a, b) == pytest.approx(expected, rel=1e-5)


def test_cohens_d_without_spread():
    a, b = np.ones((3, 2)), np.array([[1.0, 0.0]] * 3)
    d = compare.cohens_d(a, b)
    assert d[0] == 0 and np.isnan(d[1])


def test_identical_classes_do_not_deflect():
    documents = corpus(12, ("positive", "neutral"))
    maxima = np.repeat(noise(12, 30, sparse=0.5), 2, axis=0)
    table = compare.compare_pair(
        maxima, documents, POSITIVE, permutations=99, min_documents=1
    )
    assert len(table) == 30
    assert (table["deflection"] == 0).all() and (table["cohens_d"] == 0).all()
    assert table["auroc"].to_numpy() == pytest.approx(0.5)
    assert (table["p"] == 1).all() and (table["p_max"] == 1).all()


def test_only_live_features_of_the_contrast_are_listed():
    documents = corpus(6)
    maxima = np.zeros((18, 4), np.float32)
    positive = np.flatnonzero(documents["label"] == "positive")
    maxima[positive[:3], 0] = 1.0  # on three documents
    maxima[positive[:2], 1] = 1.0  # on two only
    maxima[positive, 2] = 0.01  # below the threshold
    maxima[documents["label"] == "negative", 3] = 1.0  # elsewhere
    table = compare.compare_pair(
        maxima, documents, POSITIVE, threshold=0.01, min_documents=3
    )
    assert table["feature"].tolist() == [0]


def test_swapping_the_classes_mirrors_the_table():
    documents, maxima = corpus(15), noise(45, 25, sparse=0.4)
    there = compare.compare_pair(maxima, documents, POSITIVE, seed=3)
    back = compare.compare_pair(
        maxima, documents, Contrast("neutral", "positive"), seed=3
    )
    for column in ("deflection", "cohens_d", "rank_biserial"):
        assert there[column].to_numpy() == pytest.approx(-back[column])
    assert there["p"].tolist() == back["p"].tolist()


def test_matched_sets_are_differenced():
    documents = corpus(4).sample(frac=1, random_state=1)
    maxima = noise(12, 3)
    units = compare.matched_sets(maxima, documents, POSITIVE)
    wide = pd.DataFrame(maxima).assign(**documents.reset_index(drop=True))
    expected = [
        wide[(wide["group"] == g) & (wide["label"] == "positive")][
            [0, 1, 2]
        ].to_numpy()[0]
        - wide[(wide["group"] == g) & (wide["label"] == "neutral")][
            [0, 1, 2]
        ].to_numpy()[0]
        for g in range(4)
    ]
    assert units.labels is None
    assert units.values == pytest.approx(np.array(expected))


def test_p_of_sign_flips_is_that_of_full_enumeration():
    rng = np.random.default_rng(4)
    values = rng.normal(0.5, 1, (7, 5))
    exact = [
        stats.permutation_test(
            (column,),
            np.sum,
            permutation_type="samples",
            n_resamples=np.inf,
        ).pvalue
        for column in values.T
    ]
    p = compare.permutation_p(compare.Units(values), 20_000, 0).p
    assert p == pytest.approx(exact, abs=0.02)


def test_p_of_exchanged_labels_is_that_of_full_enumeration():
    rng = np.random.default_rng(5)
    values, labels = rng.normal(size=(10, 4)), np.arange(10) < 4
    values[labels] += 1

    def difference(x, y):
        return abs(np.mean(x) - np.mean(y))

    exact = [
        stats.permutation_test(
            (column[labels], column[~labels]),
            difference,
            alternative="greater",
            n_resamples=np.inf,
        ).pvalue
        for column in values.T
    ]
    p = compare.permutation_p(compare.Units(values, labels), 20_000, 0).p
    assert p == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("matched", [True, False])
def test_p_is_uniform_and_p_max_controlled_under_the_null(matched):
    """200 independent features; then 200 families of 20."""
    rng = np.random.default_rng(6)
    labels = None if matched else np.arange(24) < 12
    units = compare.Units(rng.normal(size=(24, 200)), labels)
    p = compare.permutation_p(units, 999, 0).p
    assert stats.kstest(p, "uniform").pvalue > 0.01
    families = [
        compare.permutation_p(
            compare.Units(rng.normal(size=(24, 20)), labels), 199, seed
        ).p_max.min()
        for seed in range(200)
    ]
    found = (np.array(families) <= 0.05).sum()
    assert found <= stats.binom.ppf(0.995, 200, 0.05)
    assert found >= stats.binom.ppf(0.005, 200, 0.05)


def test_p_max_finds_planted_features_and_no_others():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(80, 300))
    values[:, :10] += 1.0
    found = compare.permutation_p(compare.Units(values), 999, 0)
    p, p_max = found.p, found.p_max
    assert (p_max[:10] <= 0.05).all()
    assert (p_max[10:] <= 0.05).sum() <= 2
    assert (p_max >= p).all()


def test_scale_of_a_feature_does_not_matter():
    values = np.random.default_rng(8).normal(0.3, 1, (30, 6))
    scaled = values * np.array([1, 10, 100, 1e-3, 1e3, 1])
    plain = compare.permutation_p(compare.Units(values), 199, 0)
    other = compare.permutation_p(compare.Units(scaled), 199, 0)
    assert plain.p_max.tolist() == other.p_max.tolist()


def test_null_pair_splits_whole_sets_and_keeps_the_other_rows():
    documents = pd.concat([corpus(11), corpus(11)], ignore_index=True)
    halved = compare.halve(documents, "neutral", seed=0)
    neutral = documents["label"] == "neutral"
    assert (halved["label"][~neutral] == documents["label"][~neutral]).all()
    per_set = halved[neutral].groupby("group")["label"].nunique()
    assert (per_set == 1).all()
    sizes = halved[neutral].groupby("label")["group"].nunique()
    assert sorted(sizes) == [5, 6]


def test_null_pair_finds_nothing_where_the_contrast_does():
    documents, maxima = corpus(60), noise(180, 40)
    positive = (documents["label"] == "positive").to_numpy()
    maxima[positive, :8] += 2
    contrasts = [POSITIVE, Contrast("negative", "neutral")]
    found = compare.compare(maxima, documents, contrasts)
    null = compare.null_pair(maxima, documents, contrasts)
    assert (found[found["p_max"] <= 0.05]["feature"] < 8).sum() == 8
    assert list(dict.fromkeys(null["contrast"])) == [c.name for c in contrasts]
    assert (null["p_max"] > 0.05).all()
    assert null["n_treatment"].iloc[0] == null["n_control"].iloc[0] == 30


def test_tendency_of_a_shift_and_of_none():
    documents, maxima = corpus(40), noise(120, 50, 1)
    none = compare.tendency(maxima, documents, POSITIVE)
    assert none.low <= 0.5 <= none.high and none.direction == "no more"
    maxima[documents["label"] == "positive"] += 1
    shifted = compare.tendency(maxima, documents, POSITIVE)
    assert shifted.share == 1.0 and shifted.p < 0.005
    assert shifted.direction == "more" and shifted.mean > 0.5
    down = compare.tendency(maxima, documents, Contrast("neutral", "positive"))
    assert down.direction == "less" and down.share == 0.0


def test_tendency_keeps_its_level():
    documents = corpus(20, ("positive", "neutral"))
    p = [
        compare.tendency(
            noise(40, 30, seed), documents, POSITIVE, permutations=99
        ).p
        for seed in range(200)
    ]
    found = (np.array(p) <= 0.05).sum()
    assert found <= stats.binom.ppf(0.995, 200, 0.05)
    assert found >= stats.binom.ppf(0.005, 200, 0.02)  # the share is coarse


def test_tendency_counts_features_that_move_together_as_one():
    """A common factor makes every sign equal: that is no evidence."""
    rng, documents = np.random.default_rng(9), corpus(20)
    maxima = 5 + rng.normal(size=(60, 1)) + 0.01 * rng.normal(size=(60, 300))
    result = compare.tendency(maxima, documents, POSITIVE)
    assert abs(result.share - 0.5) > 0.4 and result.p > 0.05


def test_best_unit_is_held_out():
    documents = corpus(40)
    maxima = noise(120, 500)
    _, luck = compare.best_unit(maxima, documents, POSITIVE)
    assert abs(luck - 0.5) < 0.15  # on all data the best of 500 is beyond
    in_sample = compare.compare_pair(maxima, documents, POSITIVE)["auroc"]
    assert (in_sample - 0.5).abs().max() > 0.19
    maxima[documents["label"] == "positive", 17] = 0  # falls, and counts
    unit, score = compare.best_unit(maxima, documents, POSITIVE)
    assert unit == 17 and score == 1.0


def test_best_units_of_every_pair_of_labels():
    documents = corpus(40)
    maxima = noise(120, 50)
    maxima[documents["label"] == "positive", 17] = 0  # falls
    table = compare.best_units(maxima, documents)
    labels = list(dict.fromkeys(documents["label"]))
    names = [c.name for c in compare.pairs(labels)]
    assert table["contrast"].tolist() == names
    planted = table["contrast"].str.contains("positive")
    assert (table.loc[planted, "unit"] == 17).all()
    assert (table.loc[planted, ["auroc", "held_out"]] == 1.0).all(axis=None)
    rest = table[~planted].iloc[0]
    names = rest["contrast"].split(" vs ")
    by_hand = compare.auroc(
        *(maxima[documents["label"] == name] for name in names)
    )
    assert rest.auroc == pytest.approx(np.abs(by_hand - 0.5).max() + 0.5)
    assert rest.held_out < rest.auroc  # luck does not carry over


def test_side_by_side_counts_strong_units():
    documents, maxima = corpus(30), noise(90, 20)
    maxima[documents["label"] == "positive", :3] += 10
    bases = {"features": maxima, "neurons": maxima[:, 5:]}
    table = compare.side_by_side(bases, documents, [POSITIVE])
    table = table.set_index("basis")
    assert table["strong"].to_dict() == {"features": 3, "neurons": 0}
    assert table["live"].to_dict() == {"features": 20, "neurons": 15}
    assert table.loc["features", "auroc"] == 1.0
    assert table.loc["features", "strong_share"] == 0.15


def test_shared_mass_on_a_hand_worked_case():
    documents = corpus(2, ("Korean", "English"))
    maxima = np.array(
        [
            [3.0, 1, 0],  # Korean 0
            [1.0, 0, 0],  # English 0: shares 3 of 4, the stranger's 1
            [0.0, 2, 2],  # Korean 1
            [0.0, 1, 0],  # English 1: shares 2 of 4, the stranger's 0
        ]
    )
    result = compare.shared_mass(
        maxima, documents, Contrast("Korean", "English"), permutations=199
    )
    assert result.twins.tolist() == [0.75, 0.5]
    assert result.shuffled.tolist() == [0.25, 0.0]
    assert result.excess == pytest.approx(0.5)
    assert 0.4 < result.p < 0.6  # of two pairings one is the true one


def test_contrasts():
    documents = corpus(1)
    names = [c.name for c in compare.against(documents, "neutral")]
    assert names == ["positive vs neutral", "negative vs neutral"]
    assert [c.name for c in compare.pairs("ABC")] == [
        "A vs B",
        "A vs C",
        "B vs C",
    ]


def test_mistakes_are_told_in_one_sentence():
    documents, maxima = corpus(3), noise(9, 2)
    with pytest.raises(InputError, match="did you mean 'neutral'"):
        compare.against(documents, "neutrl")
    with pytest.raises(InputError, match="unknown label 'joyful'"):
        compare.compare(maxima, documents, [Contrast("joyful", "neutral")])
    with pytest.raises(InputError, match="8 documents and the corpus 9"):
        compare.compare(maxima[:8], documents, [POSITIVE])
    with pytest.raises(InputError, match="at least 4"):
        compare.halve(documents, "neutral", 0)
    with pytest.raises(InputError, match="no feature fires above 99"):
        compare.tendency(maxima, documents, POSITIVE, threshold=99)


def table_of(documents):
    """A FeatureTable from lists of {feature: value}, a dict a token."""
    from helpers.features import FeatureTable

    tokens = [token for document in documents for token in document]
    ends = np.cumsum([0] + [len(document) for document in documents])
    place = np.concatenate([np.arange(len(d)) for d in documents])
    return FeatureTable(
        d_sae=4,
        threshold=1e-3,
        values=np.array([v for t in tokens for v in t.values()], np.float16),
        indices=np.array([f for t in tokens for f in t], np.int32),
        indptr=np.cumsum([0] + [len(t) for t in tokens]),
        token_ids=np.zeros(len(tokens), np.uint16),
        documents=np.arange(len(documents)),
        offsets=ends,
        char_start=(3 * place).astype(np.int32),
        char_end=(3 * place + 3).astype(np.int32),
    )


def test_equal_length_max_reads_a_set_as_far_as_its_shortest_document():
    table = table_of(
        [
            [{0: 1.0}, {1: 2.0}, {0: 5.0, 2: 1.0}],  # cut after two tokens
            [{0: 1.0}, {3: 4.0}],
            [{1: 1.0}, {1: 3.0}, {1: 7.0}],  # alone in its set: not cut
        ]
    )
    documents = pd.DataFrame({"label": list("abc"), "group": [0, 0, 1]})
    capped = compare.equal_length_max(table, documents)
    assert capped.tolist() == [[1, 2, 0, 0], [1, 0, 0, 4], [0, 7, 0, 0]]
    whole = table.document_max()
    assert whole[0].tolist() == [5, 2, 1, 0]
    assert (whole[1:] == capped[1:]).all()


def test_lengths_of_each_class():
    table = table_of([[{}] * 4, [{}] * 2, [{}] * 6, [{}] * 2])
    documents = pd.DataFrame({"label": list("abab"), "group": [0, 0, 1, 1]})
    table = compare.lengths(table, documents)
    assert table["documents"].to_dict() == {"a": 2, "b": 2}
    assert table["tokens"].to_dict() == {"a": 5.0, "b": 2.0}
    assert table["characters"].to_dict() == {"a": 15.0, "b": 6.0}
    assert table["tokens_per_character"].to_numpy() == pytest.approx(1 / 3)


def test_verdict_names_the_classes():
    def said(**directions):
        frame = pd.DataFrame({"direction": directions})
        return compare.verdict(frame)

    assert said(a="more", b="more") == "holds here, for a and b"
    assert said(a="more", b="less", c="no more") == (
        "holds here for a, but not for b and c"
    )
    assert said(a="no more") == "does not hold here"
    assert said(a="less", b="no more") == (
        "does not hold here; for a it is reversed"
    )


def test_tendencies_has_a_row_for_each_class():
    documents, maxima = corpus(30), noise(90, 40)
    maxima[documents["label"] == "positive"] += 1
    claim = compare.tendencies(
        maxima, documents, compare.against(documents, "neutral")
    )
    assert claim["direction"]["positive"] == "more"
    assert claim["share"]["positive"] == 1.0


def test_summary_counts_what_the_null_pair_does_not_find():
    table = pd.DataFrame(
        {
            "contrast": "a",
            "deflection": [-3.0, 1.0, 0.1],
            "p_max": [0.01, 0.05, 0.9],
            "q": [0.01, 0.02, 0.05],
        }
    )
    null = pd.DataFrame(
        {
            "contrast": "a",
            "deflection": [0.5, -0.9],
            "p_max": [0.2, 1.0],
            "q": [0.05, 1.0],
        }
    )
    row = compare.summary(table, null).loc["a"]
    assert row.tolist() == [3, 2, 3, 2, 3.0, 2, 0, 1, 0.9]


def test_strongest_keeps_the_order_of_contrasts():
    table = pd.DataFrame(
        {
            "contrast": list("bbbaa"),
            "feature": range(5),
            "auroc": [0.6, 0.1, 0.9, 0.5, 0.7],
            "deflection": [1.0, -2.0, 3.0, 0.0, 1.0],
        }
    )
    top = compare.strongest(table, 2)
    assert top["feature"].tolist() == [2, 1, 4, 3]
    assert list(top.columns) == list(table.columns)


def test_leads_counts_wins_and_ties():
    side = pd.DataFrame(
        {
            "contrast": list("aabbcc"),
            "basis": ["features", "neurons"] * 3,
            "auroc": [0.9, 0.8, 0.6, 0.7, 0.800, 0.805],
        }
    )
    assert compare.leads(side) == (
        "features lead in 1 of 3 contrasts, neurons in 1, and 1 are ties"
    )


def test_twins_share_more_where_meaning_is_shared():
    """Korean and English mean the same; German is shuffled."""
    rng = np.random.default_rng(0)
    documents = corpus(40, ("Korean", "English", "German"))
    meaning = rng.random((40, 200)) * (rng.random((40, 200)) < 0.1)
    maxima = np.repeat(meaning, 3, axis=0)
    german = (documents["label"] == "German").to_numpy()
    maxima[german] = rng.permuted(maxima[german], axis=1)
    table = compare.shared_table(
        maxima, documents, compare.against(documents, "English")
    )
    by = table.set_index(["treatment", "pair"])
    assert by.loc[("Korean", "twin"), "share"] == pytest.approx(1, abs=1e-4)
    assert by.loc[("Korean", "twin"), "p"] == pytest.approx(1 / 1001)
    assert by.loc[("German", "twin"), "p"] > 0.05
    assert abs(by.loc[("German", "twin"), "excess"]) < 0.05
    assert (by["low"] <= by["share"]).all() and (
        by["share"] <= by["high"]
    ).all()
    ranked = compare.pivots(maxima, documents)
    assert list(ranked.index)[-1] == "German"


def test_reading_and_comparing_a_table_needs_no_torch():
    """The chapters import light; only making a table needs the model."""
    script = (
        "import sys\n"
        "from helpers import cards, compare, features, paths, synthesis\n"
        "heavy = {'torch', 'transformer_lens', 'tokenizers', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=paths.ROOT,
    )
    assert done.stdout.strip() == "[]"
