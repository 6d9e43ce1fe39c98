"""Densities, dead and rare latents: SAELens, brute force and by hand."""

import numpy as np
import pytest
import torch
from sae_lens.synthetic.evals import DeadLatentsCalculator, L0Calculator
from scipy.spatial.distance import cosine

from helpers import metrics
from helpers.errors import InputError
from helpers.features import Neurons


def codes(tokens=200, d_sae=40, seed=0):
    """Non-negative codes, most of them zero; the last latent is dead."""
    random = np.random.default_rng(seed)
    f = random.exponential(size=(tokens, d_sae))
    f *= random.random(f.shape) < np.geomspace(0.5, 0.005, d_sae)
    f[:, -1] = 0
    return torch.tensor(f, dtype=torch.float32)


def test_l0_and_dead_against_sae_lens():
    f = codes()
    l0, silent = L0Calculator(), DeadLatentsCalculator(f.shape[1])
    for part in f.split(64):
        l0.add_batch(part)
        silent.add_batch(part)
    found = metrics.code_sums(Neurons(f.shape[1], "h"), f, threshold=0)
    assert found.l0 == pytest.approx(l0.compute(), abs=1e-6)
    assert found.dead * f.shape[1] == pytest.approx(silent.compute())
    assert metrics.dead(f, threshold=0).sum() == silent.compute() > 0
    assert found.l1 == pytest.approx(np.linalg.norm(f, 1, axis=1).mean())


def test_since_fired_token_by_token():
    f = codes()
    for threshold in (0.0, 0.5):
        expected = []
        for column in f.T.tolist():
            count = 0
            for value in column:
                count = 0 if value > threshold else count + 1
            expected.append(count)
        found = metrics.since_fired(f, threshold)
        np.testing.assert_array_equal(found, expected)


def test_dead_is_threshold_and_window():
    f = torch.zeros(10, 3)
    f[4, 0], f[9, 1] = 1.0, 1e-4
    assert metrics.dead(f).tolist() == [False, True, True]
    assert metrics.dead(f, threshold=0).tolist() == [False, False, True]
    assert metrics.dead(f, window=5).tolist() == [True, True, True]
    assert metrics.dead(f, window=6).tolist() == [False, True, True]
    with pytest.raises(InputError, match="100,000,000 tokens cannot be told"):
        metrics.dead(f, *metrics.DEAD["Towards Monosemanticity"])


def test_log_density():
    found = metrics.log_density([0, 1e-4, 1])
    assert found.tolist() == [-np.inf, pytest.approx(-4), 0]
    nanda = metrics.log_density([0, 1e-4], metrics.FLOOR)
    assert nanda.tolist() == pytest.approx([-6.5, np.log10(1e-4 + 10**-6.5)])


def test_ultra_low_density():
    firings = np.array([0, 1, 9, 10, 500])
    found = metrics.ultra_low_density(firings, 100_000, below=1e-4)
    assert found.tolist() == [False, True, True, False, False]
    with pytest.raises(InputError, match="more than 1,000,000 tokens"):
        metrics.ultra_low_density(firings, 100_000)


def test_rare_similarity_against_scipy():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(12, 5))
    rare = np.arange(12) < 4
    found = metrics.rare_similarity(torch.tensor(vectors), rare)
    mean = vectors[:4].mean(0)
    expected = [1 - cosine(row, mean) for row in vectors]
    np.testing.assert_allclose(found.cosine, expected, atol=1e-12)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(found.projection, found.cosine * lengths)


def test_rare_similarity_tells_a_cluster_from_chance():
    random = np.random.default_rng(1)
    rare = np.arange(400) < 100
    vectors = random.normal(size=(400, 64))
    chance = metrics.rare_similarity(vectors, rare).cosine
    assert chance[rare].mean() == pytest.approx(1 / 100**0.5, abs=0.02)
    assert abs(chance[~rare].mean()) < 0.02
    vectors[rare] = vectors[0] + 0.1 * vectors[rare]
    assert metrics.rare_similarity(vectors, rare).cosine[rare].min() > 0.95


def test_rare_similarity_of_nothing():
    with pytest.raises(InputError, match="no latent is rare"):
        metrics.rare_similarity(np.eye(3), np.zeros(3))
    with pytest.raises(InputError, match="Accepted: "):
        metrics.rare_similarity(np.eye(3), np.ones(2))
