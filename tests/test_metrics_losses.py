"""Losses, divergences, scores and intervals: SAELens, scipy, by hand."""

import types

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from sae_lens.evals import (
    get_downstream_reconstruction_metrics,
    get_recons_loss,
)
from sae_lens.training.activation_scaler import ActivationScaler

from helpers import metrics
from helpers.errors import InputError
from helpers.metrics import intervals
from tests.test_activations import HOOKS, tiny_model
from tests.test_metrics_reconstruction import coder  # noqa: F401

HOOK = HOOKS[0]
ROWS = torch.arange(1, 25).view(3, 8)  # no BOS: every position is text


def effects(coder):  # noqa: F811
    def rebuild(x):
        return coder[0](x)

    treatments = [rebuild, torch.zeros_like]
    return metrics.document_effects(tiny_model(), HOOK, ROWS, treatments)


def test_losses_and_divergences_against_sae_lens(coder):  # noqa: F811
    theirs = get_recons_loss(
        coder[1],
        tiny_model(),
        ActivationScaler(),
        ROWS,
        compute_kl=True,
        compute_ce_loss=True,
    )
    names = [
        "ce_loss_without_sae",
        "ce_loss_with_sae",
        "ce_loss_with_ablation",
        "kl_div_with_sae",
        "kl_div_with_ablation",
    ]
    found = effects(coder)
    for column, name in enumerate(names):
        # they count the divergence at the last position too
        expected = theirs[name][:, :7].double().sum(1)
        np.testing.assert_allclose(found[:, column], expected, atol=1e-5)
    assert (found[:, -1] == 7).all()


def test_scores_against_sae_lens(coder):  # noqa: F811
    theirs = get_downstream_reconstruction_metrics(
        coder[1],
        tiny_model(),
        types.SimpleNamespace(get_batch_tokens=lambda size: ROWS),
        ActivationScaler(),
        compute_kl=True,
        compute_ce_loss=True,
        n_batches=1,
        eval_batch_size_prompts=3,
    )
    clean, sae, zero, *_ = effects(coder).sum(0) / 21
    score = metrics.loss_recovered(clean, sae, zero, margin=-np.inf)
    assert score == pytest.approx(theirs["ce_loss_score"], rel=1e-4)
    kl = theirs["kl_div_with_sae"], theirs["kl_div_with_ablation"]
    expected = pytest.approx(theirs["kl_div_score"], abs=1e-6)
    assert metrics.kl_score(*kl, margin=0) == expected


def test_divergence_against_torch():
    random = torch.Generator().manual_seed(0)
    p, q = (3 * torch.randn(300, 11, generator=random) for _ in range(2))
    expected = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=part) for part in (p, q))
    )
    found = metrics.losses._divergence(p, q)
    torch.testing.assert_close(found, expected)


def test_kl_score_by_hand():
    assert metrics.kl_score(0.5, 2.0) == 0.75
    with pytest.raises(InputError, match="by 0.040 nats"):
        metrics.kl_score(0.01, 0.04)


def documents(count=60, seed=0):
    """Losses of documents of unequal length, SAE between the others."""
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 60, count)
    clean = tokens * random.normal(3, 0.3, count)
    zero = clean + tokens * random.normal(2, 0.5, count)
    sae = clean + (zero - clean) * random.normal(0.1, 0.05, count)
    mean, kl = (zero + sae) / 2, (zero - clean) * 1.1
    return pd.DataFrame(
        {
            "text_class": "prose", "document": range(count),
            "group": range(count),
            "clean": clean, "sae": sae, "zero": zero, "mean": mean,
            "kl_sae": kl / 9, "kl_zero": kl, "kl_mean": kl / 2,
            "tokens": tokens, "uniform": tokens * 9.0,
        }
    )  # fmt: skip


def test_mean_of_ratios_by_hand():
    frame = documents(4)[:0].reindex(range(4)).assign(tokens=[1, 1, 1, 3])
    frame["clean"], frame["zero"] = [1, 1, 1, 3], [2, 2, 5, 9]
    frame["sae"] = [1, 1.5, 3, 3]
    # batches of two: (4 - 2.5) / (4 - 2) and (14 - 6) / (14 - 4)
    found = metrics.score_per_batch(frame, size=2)
    assert found == pytest.approx((0.75 + 0.8) / 2)
    # one batch is the pooled score, a ratio of means
    assert metrics.score_per_batch(frame, size=4) == pytest.approx(9.5 / 12)


def test_one_cheap_batch_is_refused():
    frame = documents()
    frame.loc[:7, "zero"] = frame.loc[:7, "clean"]
    with pytest.raises(InputError, match="ablating costs 0.000 nats"):
        metrics.score_per_batch(frame, size=8)
    metrics.score_per_batch(frame, size=60)
    with pytest.raises(InputError, match="1 document or more"):
        metrics.score_per_batch(frame, size=0)


def score(sums):
    return (sums[..., 2] - sums[..., 1]) / (sums[..., 2] - sums[..., 0])


@pytest.mark.parametrize("method", intervals.METHODS)
def test_bootstrap_against_scipy(method):
    frame = documents()[["clean", "sae", "zero"]]
    found = metrics.bootstrap(
        frame, score, method=method, resamples=999, seed=3, level=0.9
    )
    expected = scipy.stats.bootstrap(
        frame.to_numpy().T,
        lambda *parts, axis: score(
            np.stack([part.sum(axis) for part in parts], axis=-1)
        ),
        paired=True,
        vectorized=True,
        method=method,
        n_resamples=999,
        confidence_level=0.9,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)
    assert found.low < found.estimate < found.high


def test_bootstrap_in_blocks_is_the_same(monkeypatch):
    frame = documents()[["clean", "sae", "zero"]]
    whole = metrics.bootstrap(frame, score, resamples=100)
    monkeypatch.setattr(intervals, "CELLS", 60 * 7)
    parts = metrics.bootstrap(frame, score, resamples=100)
    assert parts == pytest.approx(whole)


@pytest.mark.parametrize("method", intervals.METHODS)
def test_intervals_cover_at_their_level(method):
    """Of 400 intervals for a known ratio, as many hold it as should."""
    random = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        tokens = random.integers(5, 60, 200)
        costs = random.gamma(4, 0.5, 200)  # skewed, 2 nats on average
        lost = costs * random.beta(2, 18, 200)  # a tenth of it
        frame = np.stack([0 * tokens, lost * tokens, costs * tokens], axis=1)
        found = metrics.bootstrap(
            frame, score, method=method, level=0.9, resamples=400, seed=seed
        )
        held += found.low <= 0.9 <= found.high
    low, high = scipy.stats.binom.interval(0.99, 400, 0.9)
    assert low <= held <= high


def matched(random, sets=120, each=4):
    """Documents of which sets share most of how much is lost: a tenth."""
    tokens = random.integers(5, 60, sets * each)
    lost = np.repeat(random.beta(2, 18, sets), each)
    frame = np.stack([0 * tokens, lost * tokens, tokens], axis=1)
    return frame, np.repeat(np.arange(sets), each)


def test_only_clustered_intervals_cover_where_sets_are_alike():
    """200 intervals of documents that come in sets of four, two ways."""
    random = np.random.default_rng(1)
    held = {"sets": 0, "documents": 0}
    for seed in range(200):
        frame, groups = matched(random)
        for name, of in (("sets", groups), ("documents", None)):
            found = metrics.bootstrap(
                frame, score, groups=of, level=0.9, resamples=200, seed=seed
            )
            held[name] += found.low <= 0.9 <= found.high
    low, high = scipy.stats.binom.interval(0.99, 200, 0.9)
    assert low <= held["sets"] <= high
    assert held["documents"] < 0.75 * 200


def test_sets_of_one_document_change_nothing():
    frame, names = documents()[["clean", "sae", "zero"]], np.arange(60)
    plain = metrics.bootstrap(frame, score)
    assert metrics.bootstrap(frame, score, groups=names) == plain
    whole = frame.groupby(names // 3).sum()
    wanted = metrics.bootstrap(whole, score)
    found = metrics.bootstrap(frame, score, groups=names // 3)
    assert found == pytest.approx(wanted)


def test_intervals_of_the_scores():
    frame = documents()
    found = metrics.score_intervals(frame).loc["prose"]
    table = metrics.losses_by_class(frame).loc["prose"]
    for name in metrics.SCORES:
        low, high = found[f"{name}_low"], found[f"{name}_high"]
        assert low <= table[name] + 1e-12 and table[name] - 1e-12 <= high
    alone = metrics.bootstrap(frame[["clean", "sae", "zero"]], score)
    assert found["score_zero_low"] == pytest.approx(alone.low)
    assert found["score_zero_high"] == pytest.approx(alone.high)


def test_no_interval_without_a_score():
    frame = documents().assign(zero=lambda f: f["clean"] + 1e-3)
    found = metrics.score_intervals(frame).loc["prose"]
    assert np.isnan(found["score_zero_low"])
    assert np.isfinite(found["score_mean_low"])
    single = metrics.score_intervals(frame[:1]).loc["prose"]
    assert single.isna().all()
    one_set = metrics.score_intervals(frame.assign(group=0)).loc["prose"]
    assert one_set.isna().all()


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (1, {}, "two documents"),
        (5, {"method": "BCA"}, "Accepted: percentile, BCa"),
        (5, {"groups": np.zeros(5)}, "two sets of documents"),
        (5, {"groups": np.arange(4)}, "5 documents and 4 names"),
    ],
)
def test_bad_bootstraps(rows, options, said):
    frame = documents()[["clean", "sae", "zero"]][:rows]
    with pytest.raises(InputError, match=said):
        metrics.bootstrap(frame, score, **options)
