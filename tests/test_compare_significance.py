"""False discoveries, intervals, nulls and power, by simulation.

References: statsmodels (Benjamini-Hochberg), scipy (paired t interval), a
dense sum over documents (clustered DeLong), a jackknife over matched sets.
"""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from helpers import compare
from helpers.compare import Contrast, nulls
from helpers.compare.intervals import effects
from helpers.compare.permutation import relabelled_p, relabellings

PAIR = Contrast("a", "b")
RATES = 0.005, 0.5  # of documents on which a feature fires: log-uniform


def corpus(sets):
    """One document of each class per set, set by set."""
    label, group = np.tile(["a", "b"], sets), np.repeat(np.arange(sets), 2)
    return pd.DataFrame({"label": label, "group": group})


def codes(rng, sets, features):
    """Sparse codes like those of an autoencoder: [2 sets, features]."""
    rate = np.exp(rng.uniform(*np.log(RATES), features))
    fires = rng.random((2 * sets, features), np.float32) < rate
    maxima = fires.astype(np.float32)
    maxima[fires] = rng.standard_gamma(2.0, fires.sum(), np.float32)
    return maxima


def test_q_is_benjamini_hochberg():
    p = np.random.default_rng(0).random(500) ** 2
    found = compare.Significance(p, p, p).q
    assert found == pytest.approx(multipletests(p, method="fdr_bh")[1])
    by_hand = np.array([0.01, 0.02, 0.03, 0.9])
    found = compare.Significance(by_hand, by_hand, by_hand).q
    assert found == pytest.approx([0.04, 0.04, 0.04, 0.9])


def test_the_pool_counts_every_null_statistic():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 30))
    values[:, 0] += 1.2
    units = compare.Units(values)
    found = compare.permutation_p(units, 499, 3)
    normed = values / np.sqrt((values**2).sum(0))
    null = np.abs(relabellings(units, 499, 3).astype(float) @ normed)
    own = (null >= np.abs(normed.sum(0)) - 1e-4).sum(0)
    pooled = (null >= abs(normed[:, 0].sum()) - 1e-4).sum()
    assert own[0] == 0 and found.p[0] == 1 / 500
    assert found.p_pooled[0] == pytest.approx((1 + pooled) / (1 + null.size))
    assert found.p_pooled[0] < found.p[0] / 5
    settled = own >= 10
    assert settled.sum() > 25
    assert (found.p_pooled[settled] == found.p[settled]).all()


def test_a_rare_feature_keeps_its_own_p():
    """One document moves: every relabelling gives |T| = 1, so p is 1."""
    values = np.random.default_rng(2).normal(size=(50, 400))
    values[1:, 0] = 0
    found = compare.permutation_p(compare.Units(values), 999, 0)
    assert found.p_pooled[0] == 1 and found.p_max[0] == 1


def test_p_is_uniform_over_200_simulated_contrasts():
    rng, documents = np.random.default_rng(3), corpus(40)
    p = [
        compare.permutation_p(
            compare.matched_sets(rng.gamma(2.0, size=(80, 1)), documents, PAIR),
            999,
            seed,
        ).p[0]
        for seed in range(200)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_pooled_tail_predicts_how_many_null_features_pass():
    """Sparse codes: what q rests on holds, far below 1 / (1 + P)."""
    rng = np.random.default_rng(4)
    units = compare.matched_sets(codes(rng, 200, 3000), corpus(200), PAIR)
    given = relabellings(units, 100, 1)
    found = relabelled_p(units, given, 1000, 2)
    for level in (1e-2, 1e-3, 1e-4):
        passed = (found.p_pooled <= level).sum(1)
        error = passed.std() / np.sqrt(len(passed))
        assert passed.mean() <= level * 3000 + 3 * error
        assert passed.mean() >= level * 3000 / 2 - 3 * error


def test_false_discovery_rate_is_kept():
    """200 corpora, 20 of 400 sparse features planted, 99 permutations."""
    rng, documents = np.random.default_rng(5), corpus(100)
    shares, power = [], []
    for seed in range(200):
        maxima = codes(rng, 100, 400)
        maxima[::2, :20] += rng.random((100, 20)) < 0.3
        units = compare.matched_sets(maxima, documents, PAIR)
        found = compare.permutation_p(units, 99, seed).q <= 0.05
        shares.append(found[20:].sum() / max(found.sum(), 1))
        power.append(found[:20].mean())
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= 0.05 + 2.6 * error
    assert np.mean(shares) > 0.02 and np.mean(power) > 0.5


def test_deflection_interval_is_that_of_the_paired_t_test():
    maxima = codes(np.random.default_rng(6), 60, 20) + np.float32(0.1)
    a, b = maxima[::2], maxima[1::2]
    found = effects(a, b, np.tile(np.arange(60), 2))
    paired = stats.ttest_rel(a.astype(float), b.astype(float))
    expected = paired.confidence_interval(0.95)
    assert found["deflection_low"] == pytest.approx(expected.low, abs=1e-6)
    assert found["deflection_high"] == pytest.approx(expected.high, abs=1e-6)


def influence(a, b):
    """DeLong's components of the AUROC, document by document, dense."""
    above = (a[:, None] > b) + (a[:, None] == b) / 2
    area = above.mean((0, 1))
    of_a, of_b = above.mean(1) - area, above.mean(0) - area
    return area, of_a / len(a), of_b / len(b)


def test_auroc_interval_is_obuchowskis():
    """Sets of several documents, some of one class; negative values too."""
    rng = np.random.default_rng(7)
    maxima = rng.integers(-2, 4, (70, 12)).astype(np.float32)
    a, b, groups = maxima[:40], maxima[40:], rng.integers(0, 25, 70)
    found = effects(a, b, groups)
    area, of_a, of_b = influence(a, b)
    sums = pd.DataFrame(np.concatenate([of_a, of_b])).groupby(groups).sum()
    sets = len(sums)
    shrunk = (sets * area + 0.5) / (sets + 1)
    squares = (sums.to_numpy() ** 2).sum(0) + ((1 - 2 * shrunk) / sets) ** 2
    error = np.sqrt(squares * sets / (sets - 1))
    slope = 1 / (2 * np.sqrt(shrunk * (1 - shrunk)))
    reach = stats.t.ppf(0.975, sets - 1) * error * slope
    low = np.sin(np.arcsin(np.sqrt(shrunk)) - reach) ** 2
    assert found["auroc"] == pytest.approx(area)
    assert found["auroc_low"] == pytest.approx(low)
    assert found["rank_biserial_low"] == pytest.approx(2 * low - 1)


def test_interval_of_cohens_d_is_that_of_a_jackknife():
    rng, sets = np.random.default_rng(8), 150
    maxima = rng.gamma(2.0, size=(2 * sets, 8)).astype(np.float32)
    maxima[::2] += 1.5
    groups = np.tile(np.arange(sets), 2)
    found = effects(maxima[::2], maxima[1::2], groups)
    left_out = np.array(
        [
            compare.cohens_d(
                np.delete(maxima[::2], s, 0), np.delete(maxima[1::2], s, 0)
            )
            for s in range(sets)
        ]
    )
    error = np.sqrt((sets - 1) * left_out.var(0))
    ours = found["cohens_d_high"] - found["cohens_d"]
    assert ours / stats.t.ppf(0.975, sets - 1) == pytest.approx(error, rel=0.05)


def twins(rng, sets, features, rate_a, rate_b, shift):
    """Both classes of a matched set, correlated; a fires as told."""
    shared = rng.normal(size=(sets, features))
    sides = []
    for rate, more in ((rate_a, shift), (rate_b, 0.0)):
        z = (0.6 * shared + 0.8 * rng.normal(size=shared.shape)).ravel()
        share = (stats.norm.cdf(z) - (1 - rate)) / rate
        x = np.zeros(len(z))
        x[share > 0] = more - np.log1p(-share[share > 0])  # exponential
        sides.append(x.reshape(shared.shape))
    return sides


@pytest.mark.parametrize(
    "rate_a,rate_b,shift",
    [(1, 1, 0), (1, 1, 1), (1, 1, 5), (0.5, 0.2, 0), (0.1, 0.03, 0)],
)
def test_intervals_cover(rate_a, rate_b, shift):
    """500 features, 200 matched sets; truth from 100,000 sets."""
    rng = np.random.default_rng(9)
    many = effects(
        *twins(rng, 100_000, 1, rate_a, rate_b, shift),
        np.tile(np.arange(100_000), 2),
    )
    found = effects(
        *twins(rng, 200, 500, rate_a, rate_b, shift), np.tile(range(200), 2)
    )
    for name in ("deflection", "cohens_d", "auroc"):
        low, high = found[f"{name}_low"], found[f"{name}_high"]
        covered = ((low <= many[name]) & (many[name] <= high)).mean()
        assert covered >= stats.binom.ppf(0.001, 500, 0.95) / 500, name
        assert covered <= 0.99, name


def test_only_clustered_intervals_cover_where_sets_are_alike():
    """120 sets of four documents a class, alike within a set; 500 features.

    Both classes are drawn alike, so that the truth is known: 0, 0 and 0.5.
    """
    rng, sets, each = np.random.default_rng(11), 120, 4
    sides = []
    for _ in range(2):
        shared = np.repeat(rng.normal(size=(sets, 500)), each, axis=0)
        sides.append(0.8 * shared + 0.6 * rng.normal(size=shared.shape))
    sets_of = np.tile(np.repeat(np.arange(sets), each), 2)
    truth = {"deflection": 0, "cohens_d": 0, "auroc": 0.5}
    rates = {}
    for name, groups in (("set", sets_of), ("row", np.arange(len(sets_of)))):
        found = effects(*sides, groups)
        for what, value in truth.items():
            low, high = found[f"{what}_low"], found[f"{what}_high"]
            rates[name, what] = ((low <= value) & (value <= high)).mean()
    for what in truth:
        assert rates["set", what] >= stats.binom.ppf(0.001, 500, 0.95) / 500
        assert rates["set", what] <= 0.99
        assert rates["row", what] < 0.85


def test_interval_of_a_perfect_auroc_has_a_width():
    a, b = np.ones((50, 2), np.float32), np.zeros((50, 2), np.float32)
    found = effects(a, b, np.tile(range(50), 2))
    assert (found["auroc"] == 1).all() and (found["auroc_high"] == 1).all()
    assert ((found["auroc_low"] > 0.9) & (found["auroc_low"] < 0.99)).all()


def test_table_in_chunks_is_the_same(monkeypatch):
    maxima, documents = codes(np.random.default_rng(10), 50, 60), corpus(50)
    whole = compare.compare_pair(maxima, documents, PAIR, min_documents=1)
    monkeypatch.setattr("helpers.compare.effects.CHUNK", 7)
    parts = compare.compare_pair(maxima, documents, PAIR, min_documents=1)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-6)


def test_memory_is_a_few_chunks_beyond_the_differences(monkeypatch):
    """No copy of all maxima, no [permutations, features] matrix."""
    maxima = codes(np.random.default_rng(11), 100, 10_000)
    monkeypatch.setattr("helpers.compare.effects.CHUNK", 512)
    tracemalloc.start()
    table = compare.compare_pair(maxima, corpus(100), PAIR, permutations=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = 4 * 100 * len(table) + 0.06 * 300 * len(table) * 4 * 2
    rows = len(table) * (len(table.columns) + 10) * 8 * 2
    assert peak < kept + rows + 25 * 512 * 300 * 4
    assert peak < 300 * len(table) * 4 * 1.5  # of that matrix: 24 MB


def test_null_splits_stay_within_their_level():
    """200 halvings of 4,096 sparse features: any find at all?"""
    maxima, documents = codes(np.random.default_rng(12), 60, 4096), corpus(60)
    row = compare.null_splits(maxima, documents, ["a"]).iloc[0]
    assert row["sets"] == 60 and row["splits"] == 200
    assert row["any_max"] <= row["bound"] and row["any_fdr"] <= row["bound"]
    assert row["bound"] == stats.binom.ppf(0.99, 200, 0.05) / 200 == 0.09
    assert row["any_max"] > 0  # the splits are noisy: some find something


def test_null_splits_see_a_test_that_is_too_generous(monkeypatch):
    """With every p-value divided by 20 the level is far exceeded."""

    def generous(*arguments):
        found = relabelled_p(*arguments)
        return compare.Significance(
            found.p, found.p_max / 20, found.p_pooled / 20
        )

    monkeypatch.setattr(nulls, "relabelled_p", generous)
    maxima = codes(np.random.default_rng(12), 60, 500)
    row = compare.null_splits(maxima, corpus(60), ["a"], splits=100).iloc[0]
    assert row["any_max"] > row["bound"] and row["any_fdr"] > row["bound"]


def test_planted_effects_are_found():
    """d = 0.5 on 50 of 4,096 features at chapter 08's sample size."""
    maxima, documents = codes(np.random.default_rng(13), 630, 4096), corpus(630)
    found = compare.planted_power(maxima, documents, PAIR, repeats=3)
    assert found["effect"].to_numpy() == pytest.approx(0.5, abs=0.05)
    assert (found[["power_fdr", "power_max"]] >= 0.8).all(axis=None)
    assert found["false_fdr"].mean() < 0.15


def test_planted_power_falls_with_the_effect():
    maxima, documents = codes(np.random.default_rng(14), 100, 800), corpus(100)
    settings = {"repeats": 2, "permutations": 199}
    power = [
        compare.planted_power(
            maxima, documents, PAIR, effect=effect, **settings
        )["power_fdr"].mean()
        for effect in (0.0, 0.4, 0.8)
    ]
    assert power[0] < 0.05 < power[1] < power[2] and power[2] > 0.9


def test_plant_raises_treated_documents_only():
    rng = np.random.default_rng(15)
    values = codes(rng, 300, 1)[:, 0]
    treated = np.arange(0, 600, 2)
    raised = nulls.plant(values, treated, 0.5, rng)
    changed = np.flatnonzero(raised != values)
    assert set(changed) <= set(treated) and (raised >= values).all()
    d = compare.cohens_d(raised[treated][:, None], values[treated][:, None])
    assert d[0] == pytest.approx(0.5, abs=0.03)
    fires = values[values > 0]
    assert np.isin(raised[changed], fires[fires >= np.median(fires)]).all()


def test_at_most_half_of_the_features_are_planted():
    maxima = codes(np.random.default_rng(16), 40, 20)
    found = compare.planted_power(maxima, corpus(40), PAIR, permutations=99)
    live = compare.live_features(maxima, 1e-3, 5).sum()
    assert len(found) == 5 and (found["planted"] == live // 2).all()


def test_intervals_as_text():
    maxima, documents = codes(np.random.default_rng(17), 40, 30), corpus(40)
    table = compare.compare_pair(maxima, documents, PAIR)
    row, shown = table.iloc[2], compare.with_intervals(table).iloc[2]
    assert shown["n"] == 80 and shown["feature"] == row["feature"]
    ends = row["auroc_low"], row["auroc_high"]
    assert shown["auroc"] == "{:.2f} [{:.2f}, {:.2f}]".format(
        row["auroc"], *ends
    )
