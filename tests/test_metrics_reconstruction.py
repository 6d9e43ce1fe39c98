"""Reconstruction metrics against SAELens, scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sae_lens.evals import ExplainedVarianceCalculator
from sklearn.metrics import r2_score

from helpers import metrics
from helpers.errors import InputError


def activations(seed=0, tokens=300, d_in=6, mean=2.0):
    """Activations with a mean, and a reconstruction that shrinks them."""
    random = np.random.default_rng(seed)
    spread = random.uniform(0.2, 2, d_in)
    x = random.normal(size=(tokens, d_in)) * spread + mean
    return x, 0.9 * x + random.normal(0, 0.3, x.shape) + 0.1


def saelens_ev(x, x_hat):
    calculator = ExplainedVarianceCalculator()
    for part in np.array_split(np.arange(len(x)), 3):
        calculator.add_batch(torch.tensor(x_hat[part]), torch.tensor(x[part]))
    return calculator.compute()


@pytest.mark.parametrize("mean", [0.0, 2.0, 50.0])
def test_fvu_against_sae_lens_and_scikit_learn(mean):
    x, x_hat = activations(mean=mean)
    found = metrics.fvu(x, x_hat)
    assert found == pytest.approx(1 - saelens_ev(x, x_hat), abs=1e-6)
    r2 = r2_score(x, x_hat, multioutput="variance_weighted")
    assert found == pytest.approx(1 - r2, abs=1e-9)


def test_fvu_by_hand():
    x = np.array([[0.0, 0], [2, 0]])  # mean [1, 0], variance 1 a token
    assert metrics.fvu(x, x) == 0
    assert metrics.fvu(x, x * 0 + [1, 0]) == 1
    assert metrics.fvu(x, x[::-1]) == 4
    assert np.isnan(metrics.fvu(x[:1], x[:1]))


def test_shapes_must_agree():
    x, x_hat = activations()
    with pytest.raises(InputError, match=r"\[300, 6\] and x_hat \[300, 5\]"):
        metrics.fvu(x, x_hat[:, :5])
