"""Reconstruction metrics against SAELens, scikit-learn and by hand."""

import types

import numpy as np
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.evals import (
    ExplainedVarianceCalculator,
    get_sparsity_and_variance_metrics,
)
from sae_lens.synthetic.evals import ShrinkageCalculator
from sae_lens.training.activation_scaler import ActivationScaler
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import paired_cosine_distances

from helpers import metrics, sae
from helpers.errors import InputError
from tests.test_activations import HOOKS, tiny_model

HOOK = HOOKS[0]


def activations(seed=0, tokens=300, d_in=6, mean=2.0):
    """Activations with a mean, and a reconstruction that shrinks them."""
    random = np.random.default_rng(seed)
    spread = random.uniform(0.2, 2, d_in)
    x = random.normal(size=(tokens, d_in)) * spread + mean
    return x, 0.9 * x + random.normal(0, 0.3, x.shape) + 0.1


def sums(mean=2.0):
    x, x_hat = activations(mean=mean)
    return x, x_hat, metrics.Reconstruction.of(x, x_hat)


@pytest.mark.parametrize("mean", [0.0, 2.0, 50.0])
def test_r_squared_against_sae_lens_and_scikit_learn(mean):
    x, x_hat, found = sums(mean)
    calculator = ExplainedVarianceCalculator()
    for part in np.array_split(np.arange(len(x)), 3):
        calculator.add_batch(torch.tensor(x_hat[part]), torch.tensor(x[part]))
    expected = calculator.compute()
    assert found.explained_variance == pytest.approx(expected, abs=1e-6)
    assert metrics.fvu(x, x_hat) == pytest.approx(1 - expected, abs=1e-6)
    r2 = r2_score(x, x_hat, multioutput="variance_weighted")
    assert found.fvu == pytest.approx(1 - r2, abs=1e-9)


@pytest.fixture(scope="module")
def coder():
    """One SAE twice, ours and SAELens' own; codes with negative part 0."""
    theirs = StandardSAE(
        StandardSAEConfig(
            d_in=32, d_sae=48, device="cpu", apply_b_dec_to_input=True
        )
    )
    theirs.cfg.metadata.hook_name = HOOK
    with torch.no_grad():
        for value in theirs.parameters():
            random = torch.Generator().manual_seed(value.numel())
            value += 0.1 * torch.randn(value.shape, generator=random)
    return sae.from_sae_lens(theirs), theirs


def test_against_sae_lens_evals(coder):
    """Its own pass over a model's activations, all tokens, one batch."""
    ours, theirs = coder
    rows = torch.arange(1, 25).view(3, 8)
    found, features = get_sparsity_and_variance_metrics(
        theirs,
        tiny_model(),
        types.SimpleNamespace(get_batch_tokens=lambda size: rows),
        ActivationScaler(),
        n_batches=1,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        eval_batch_size_prompts=3,
        model_kwargs={},
    )
    _, cache = tiny_model().run_with_cache(rows)
    x = cache[HOOK].flatten(0, 1)
    with torch.no_grad():
        rebuilt, codes = metrics.reconstruct(ours, x, threshold=0)
    names = {
        "mse": "mse",
        "explained_variance": "explained_variance",
        "cossim": "cosine",
        "l2_ratio": "shrinkage",
        "relative_reconstruction_bias": "relative_reconstruction_bias",
        "l0": "l0",
        "l1": "l1",
    }
    for theirs_name, name in names.items():
        expected = pytest.approx(found[theirs_name], rel=1e-6, abs=1e-6)
        assert getattr(codes, name) == expected, name
    assert metrics.explained_variance_legacy(x, rebuilt) == pytest.approx(
        found["explained_variance_legacy"], rel=1e-6, abs=1e-6
    )
    density = features["feature_density"]
    np.testing.assert_allclose(codes.density, density, atol=1e-6)
    assert 0 < codes.l0 < 48


def test_shrinkage_and_cosine_against_libraries():
    x, x_hat, found = sums()
    calculator = ShrinkageCalculator()
    calculator.add_batch(torch.tensor(x_hat), torch.tensor(x))
    assert found.shrinkage == pytest.approx(calculator.compute(), abs=1e-6)
    cosine = 1 - paired_cosine_distances(x, x_hat).mean()
    assert found.cosine == pytest.approx(cosine, abs=1e-9)


def test_the_others_against_their_formulas():
    """Each in torch, as the project named beside it writes it."""
    x, x_hat, found = sums()
    x, x_hat = torch.tensor(x), torch.tensor(x_hat)
    error = x - x_hat
    expected = {
        # Towards Monosemanticity: mean over tokens and dimensions
        "mse_mean": torch.nn.functional.mse_loss(x_hat, x),
        # dictionary_learning, evaluation.py
        "l2": torch.linalg.norm(error, dim=-1).mean(),
        "fve_centred": 1 - error.var(0).sum() / x.var(0).sum(),
        # openai/sparse_autoencoder, loss.py
        "nmse_by_norm": ((error**2).mean(1) / (x**2).mean(1)).mean(),
        # Gao et al. 2024: against predicting the mean
        "nmse_by_variance": (error**2).mean() / ((x - x.mean(0)) ** 2).mean(),
        # SAELens before 6.45.1: the mean of squares in the mean's place
        "explained_variance_bug": 1
        - (error**2).sum(-1).mean()
        / ((x**2).sum(-1).mean() - (x**2).mean(0).mean() ** 2),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value.item(), abs=1e-9)
    assert set(expected) <= set(metrics.MEASURES)


def test_every_variant_by_hand():
    # x: [3, 0] and [1, 2]; the error is [1, 0] on both
    x = np.array([[3.0, 0], [1, 2]])
    x_hat = x - [1, 0]
    found = metrics.Reconstruction.of(x, x_hat)
    # mean [2, 1]; variance 1 + 1; E||x||^2 = (9 + 5) / 2 = 7
    assert found.mse == 1 and found.mse_mean == 0.5 and found.l2 == 1
    assert found.explained_variance == pytest.approx(1 - 1 / 2)
    assert found.fvu == found.nmse_by_variance == pytest.approx(1 / 2)
    assert found.fve_centred == pytest.approx(1)  # a constant costs nothing
    assert found.nmse_by_norm == pytest.approx((1 / 9 + 1 / 5) / 2)
    assert found.explained_variance_bug == pytest.approx(
        1 - 1 / (7 - 3.5**2)
    )
    assert metrics.explained_variance_legacy(x, x_hat) == 1 - 1 / 2
    assert found.shrinkage == pytest.approx((2 / 3 + 2 / 5**0.5) / 2)
    # ||x_hat||^2: 4 and 4; x . x_hat: 6 and 4
    assert found.relative_reconstruction_bias == pytest.approx(8 / 10)
    assert found.cosine == pytest.approx((1 + 4 / (5**0.5 * 2)) / 2)


def test_legacy_is_another_number():
    """A token near the mean decides a mean of ratios."""
    x = np.array([[10.0], [-10], [0.1], [-0.1]])
    x_hat = x + 1
    assert metrics.fvu(x, x_hat) == pytest.approx(1 / 50.005)
    assert metrics.explained_variance_legacy(x, x_hat) < -45


def test_the_best_length_is_unbiased():
    x, x_hat, found = sums()
    best = x_hat / found.relative_reconstruction_bias
    bias = metrics.Reconstruction.of(x, best).relative_reconstruction_bias
    assert bias == pytest.approx(1)
    for factor in (0.98, 1.02):
        worse = metrics.Reconstruction.of(x, factor * best).mse
        assert worse > metrics.Reconstruction.of(x, best).mse


def test_parts_pool_to_the_whole():
    x, x_hat, whole = sums()
    parts = [
        metrics.Reconstruction.of(x[index], x_hat[index])
        for index in np.array_split(np.arange(len(x)), 4)
    ]
    pooled = sum(parts[1:], parts[0])
    for name in metrics.MEASURES:
        assert getattr(pooled, name) == pytest.approx(
            getattr(whole, name), abs=1e-12
        )


def test_what_does_not_vary_has_no_share():
    found = metrics.Reconstruction.of(np.ones((3, 2)), np.ones((3, 2)))
    for name in ("explained_variance", "fvu", "fve_centred"):
        assert np.isnan(getattr(found, name))
    assert np.isnan(metrics.explained_variance_legacy(*[np.ones((3, 2))] * 2))


def test_float32_is_summed_in_float64():
    x, x_hat = (part.astype(np.float32) for part in activations(mean=100.0))
    found = metrics.fvu(torch.tensor(x), torch.tensor(x_hat))
    r2 = r2_score(
        x.astype(float), x_hat.astype(float), multioutput="variance_weighted"
    )
    assert found == pytest.approx(1 - r2, rel=1e-5)


def test_shapes_must_agree():
    x, x_hat = activations()
    with pytest.raises(InputError, match=r"\[300, 6\] and x_hat \[300, 5\]"):
        metrics.fvu(x, x_hat[:, :5])
