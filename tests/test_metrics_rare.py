"""Rare latents against scipy, loops by hand, and simulated nulls."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.stats import kstest, norm

from helpers import metrics
from helpers.errors import InputError


def dictionary(latents=60, width=12, seed=0, shared=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(latents, width)) + shared


def test_rare_cosines_against_scipy_one_by_one():
    vectors, rare = dictionary(), np.arange(60) < 9
    found = metrics.rare_cosines(torch.tensor(vectors), rare)
    for at, row in enumerate(vectors):
        others = rare & (np.arange(60) != at)
        expected = 1 - cosine(row, vectors[others].mean(0))
        assert found[at] == pytest.approx(expected, abs=1e-9)


def test_random_directions_show_no_excess():
    # with oneself in the mean, the cosine of each would be 1 / sqrt(9)
    found = [
        metrics.rare_excess(dictionary(seed=s), np.arange(60) < 9, shuffles=9)
        for s in range(40)
    ]
    assert np.mean([f.rare for f in found]) == pytest.approx(0, abs=0.04)


def test_a_direction_that_all_share_is_no_excess():
    vectors, rare = dictionary(400, 32, shared=2.0), np.arange(400) < 80
    found = metrics.rare_excess(vectors, rare, shuffles=199)
    assert found.rare > 0.8 and found.others > 0.8
    assert found.null_low < found.difference.estimate < found.null_high


def test_a_planted_cluster_is_found():
    vectors, rare = dictionary(400, 32), np.arange(400) < 80
    vectors[rare] += 0.5
    found = metrics.rare_excess(vectors, rare, shuffles=199)
    assert found.p == pytest.approx(1 / 200)
    low, high = found.difference.low, found.difference.high
    assert found.null_high < low < found.rare - found.others < high
    cosines = metrics.rare_cosines(vectors, rare)
    assert found.rare == pytest.approx(cosines[rare].mean())
    assert found.others == pytest.approx(cosines[~rare].mean())


def test_p_values_are_uniform_without_a_cluster():
    p = [
        metrics.rare_excess(
            dictionary(40, 6, s), np.arange(40) < 8, shuffles=99, seed=s
        ).p
        for s in range(200)
    ]
    assert kstest(p, "uniform").pvalue > 0.01


def test_the_null_is_that_of_labels_drawn_one_by_one():
    vectors, rare = dictionary(30, 5), np.arange(30) < 6
    found = metrics.rare_excess(vectors, rare, shuffles=2000)
    random, slow = np.random.default_rng(9), []
    for _ in range(2000):
        drawn = random.permutation(rare)
        cosines = metrics.rare_cosines(vectors, drawn)
        slow.append(cosines[drawn].mean() - cosines[~drawn].mean())
    spread = np.std(slow)
    ends = np.quantile(slow, [0.025, 0.975])
    # the standard error of an outer quantile of 2,000 draws, five times
    error = 5 * spread * (0.025 * 0.975 / 2000) ** 0.5 / norm.pdf(1.96)
    assert found.null_low == pytest.approx(ends[0], abs=error)
    assert found.null_high == pytest.approx(ends[1], abs=error)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_too_few_to_compare_is_one_sentence(count):
    with pytest.raises(InputError, match=f"{count} of 30 latents are rare"):
        metrics.rare_cosines(dictionary(30), np.arange(30) < count)


def test_labels_of_another_shape_are_refused():
    with pytest.raises(InputError, match="shape of rare"):
        metrics.rare_excess(dictionary(30), np.ones(29))


def test_by_density_by_hand():
    density = np.array([0, 0.02, 0.015, 0.2, 0.02])
    values = {"bias": np.array([9, 1.0, 2, 5, 3])}
    found = metrics.by_density(values, density, width=1)
    assert found["density"].tolist() == [-1.5, -0.5]
    assert found["latents"].tolist() == [3, 1]
    assert found["median"].tolist() == [2, 5]
    assert found["low"].tolist() == pytest.approx([1.2, 5])
    assert found["high"].tolist() == pytest.approx([2.8, 5])


def test_rarest_by_hand():
    density = np.array([0.0, 0.3, 0.01, 0.2, 0.01, 0])
    assert metrics.rarest(density, 0.5).tolist() == [0, 0, 1, 0, 1, 0]
    assert metrics.rarest(density).tolist() == [0, 0, 1, 0, 0, 0]
    assert not metrics.rarest(np.zeros(3)).any()


def test_cosines_against_scipy():
    one, other = dictionary(9, 4), dictionary(9, 4, seed=1)
    expected = [1 - cosine(*pair) for pair in zip(one, other, strict=True)]
    np.testing.assert_allclose(metrics.cosines(one, other), expected)


def test_a_flat_row_holds_every_field():
    vectors, rare = dictionary(), np.arange(60) < 9
    found = metrics.rare_excess(vectors, rare, shuffles=19)
    row = found.flat()
    assert list(row) == [
        "rare", "others", "difference", "low", "high", "null_low",
        "null_high", "p",
    ]  # fmt: skip
    assert row["difference"] == pytest.approx(row["rare"] - row["others"])
    assert row["low"] == found.difference.low and row["p"] == found.p


def test_table_and_distributions_of_every_side():
    sides = {"encoder": dictionary(), "decoder": dictionary(seed=1)}
    rare = np.arange(60) < 9
    table = metrics.rare_table(sides, {"a": rare, "one": np.arange(60) < 1})
    assert table.index.tolist() == [("a", "encoder"), ("a", "decoder")]
    one = metrics.rare_excess(sides["decoder"], rare)
    assert table.loc[("a", "decoder"), "p"] == one.p
    assert table["latents"].tolist() == [9, 9]
    rows = metrics.rare_distributions(sides, rare)
    means = rows[rows["side"] == "decoder"].groupby("group")["cosine"].mean()
    assert means["rare"] == pytest.approx(one.rare)
    assert means["others"] == pytest.approx(one.others)
    assert metrics.rare_distributions(sides, rare[:0]).empty
