"""Metrics against hand-worked cases and independent formulas."""

import types

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import metrics, sae
from helpers.errors import InputError
from helpers.features import Neurons
from tests.test_activations import HOOKS, tiny_model

CODER = Neurons(32, HOOKS[0])
COLUMNS = [
    "text_class", "document", "group", *metrics.RUNS, *metrics.DIVERGENCES,
    "tokens", "uniform",
]  # fmt: skip


def documents(count=6, seed=0):
    """Rows of BOS and random tokens, padded; and their lengths."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, count)
    rows = random.integers(1, 30, (count, 8)).astype(np.uint16)
    rows[:, 0] = 0
    rows[np.arange(8) >= lengths[:, None]] = 0
    return rows, lengths


def ids(rows):
    return torch.from_numpy(rows.astype(np.int64))


def test_loss_recovered_by_hand():
    assert metrics.loss_recovered(3.0, 3.5, 5.0) == pytest.approx(0.75)
    assert metrics.loss_recovered(3.0, 3.0, 5.0) == 1
    assert metrics.loss_recovered(3.0, 6.0, 5.0) == pytest.approx(-0.5)


@pytest.mark.parametrize("ablated", [4.165, 4.251, 4.3, float("nan")])
def test_no_score_where_ablation_costs_nothing(ablated):
    # the losses of an untrained model, which would score 83%
    with pytest.raises(InputError) as caught:
        metrics.loss_recovered(4.251, 4.237, ablated)
    for loss in ("clean 4.251", "SAE 4.237", f"ablated {ablated:.3f}"):
        assert loss in str(caught.value)


def test_no_score_for_a_model_that_guesses():
    # an untrained model whose ablation costs more than the margin
    with pytest.raises(InputError, match="uniform guess, 8.318 nats"):
        metrics.loss_recovered(8.590, 8.593, 8.653, uniform=np.log(4096))
    frame = losses_frame().assign(uniform=15.0)
    table = metrics.losses_by_class(frame, margin=0.02)
    assert np.isfinite(table.loc["formats/DNA", "score_zero"])
    assert np.isnan(table.loc["prose", "score_zero"])  # 30 nats, 30 guessed
    assert "uniform guess" in table.loc["prose", "why"]


def test_codes_by_hand():
    model = sae.L1SAE(2, 3, "h")
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        model.W_dec.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
        # [3, -1] -> f [3, 0, 0] -> [3, 0]: error 1; [1, 1] -> exact
        codes = metrics.code_sums(model, torch.tensor([[3.0, -1], [1, 1]]))
    assert codes.l0 == 1.5 and codes.mse == 0.5
    assert codes.density.tolist() == [1, 0.5, 0]
    assert codes.dead == pytest.approx(1 / 3)
    # mean [2, 0], so the variance is 2 over two tokens: 1 + 1 a token
    assert codes.explained_variance == pytest.approx(1 - 0.5 / 2)


def test_explained_variance_is_r_squared():
    random = np.random.default_rng(1)
    x = random.normal(3, 1, (400, 5))
    y = x + random.normal(0, 0.4, x.shape)
    ours = metrics.explained_variance(
        ((x - y) ** 2).sum(), (x**2).sum(), x.sum(0), len(x)
    )
    residual = ((x - y) ** 2).sum(0)
    total = x.var(0) * len(x)
    by_dimension = 1 - residual / total  # R^2 of each, weighted by variance
    assert ours == pytest.approx(np.average(by_dimension, weights=total))


def test_pooled_codes_are_those_of_all_tokens():
    model = sae.L1SAE(4, 9, "h")
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = metrics.code_sums(model, x)
        parts = metrics.code_sums(model, x[:11]) + metrics.code_sums(
            model, x[11:]
        )
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-5)


def test_a_threshold_ignores_rounding_noise():
    x = torch.tensor([[1e-7, 0.5]])
    assert metrics.code_sums(Neurons(2, "h"), x).l0 == 1
    assert metrics.code_sums(Neurons(2, "h"), x, threshold=0).l0 == 2


def test_document_losses_against_transformer_lens():
    model = tiny_model()
    rows, lengths = documents()
    mean = torch.full((32,), 0.3)
    treatments = [None, CODER, lambda x: x * 0, lambda x: x * 0 + mean]
    found = metrics.document_losses(model, HOOKS[0], ids(rows), treatments)
    for row, length, losses in zip(rows, lengths, found, strict=True):
        text = ids(row[None, :length])
        clean = model(text, return_type="loss", loss_per_token=True)
        assert losses[0] == pytest.approx(clean[0, 1:].sum().item(), rel=1e-4)
        assert losses[1] == pytest.approx(losses[0])  # identity
        for column, value in ((2, 0.0), (3, 0.3)):

            def replace(x, hook, value=value):
                x[:, 1:] = value
                return x

            changed = model.run_with_hooks(
                text,
                return_type="loss",
                loss_per_token=True,
                fwd_hooks=[(HOOKS[0], replace)],
            )
            expected = changed[0, 1:].sum().item()
            assert losses[column] == pytest.approx(expected, rel=1e-4)
        assert losses[4] == length - 2
    assert abs(found[:, 2] - found[:, 0]).max() > 0.01


def test_bos_is_not_replaced():
    seen = []

    def watch(x):
        seen.append(len(x))
        return x

    rows, lengths = documents()
    metrics.document_losses(tiny_model(), HOOKS[0], ids(rows), [watch])
    assert seen == [(lengths - 1).sum()]


def token_set():
    held_out = {"prose": documents(5, 1), "formats/DNA": documents(4, 2)}
    random = np.random.default_rng(3)
    rows = [("prose", i, "natural", i // 2) for i in range(5)]
    rows += [("formats/DNA", i, "formats", i) for i in range(4)]
    return types.SimpleNamespace(
        documents=pd.DataFrame(
            rows[::-1], columns=["class", "row", "corpus", "group"]
        ),
        train=random.integers(1, 30, 300).astype(np.uint16),
        held_out={name: rows for name, (rows, _) in held_out.items()},
        lengths={name: lengths for name, (_, lengths) in held_out.items()},
    )


def test_evaluate_does_not_depend_on_the_batching():
    one, codes_one = metrics.evaluate(
        tiny_model(), CODER, token_set(), rows_per_pass=1
    )
    many, codes_many = metrics.evaluate(
        tiny_model(), CODER, token_set(), rows_per_pass=3
    )
    pd.testing.assert_frame_equal(one, many, rtol=1e-4, atol=1e-6)
    assert one["text_class"].tolist() == ["prose"] * 5 + ["formats/DNA"] * 4
    sets = [f"natural/{n}" for n in (0, 0, 1, 1, 2)]
    sets += [f"formats/{n}" for n in range(4)]
    assert one["group"].tolist() == sets
    for name, codes in codes_one.items():
        assert codes.tokens == (token_set().lengths[name] - 1).sum()
        assert codes.explained_variance == pytest.approx(1)
        assert codes.l0 == pytest.approx(codes_many[name].l0)


def test_codes_are_those_of_the_activations():
    from helpers.activations import BOS, run

    _, codes = metrics.evaluate(tiny_model(), CODER, token_set())
    rows, _ = documents(5, 1)
    part = torch.from_numpy(rows.astype(np.int64))
    x = run(tiny_model(), part, HOOKS[:1])[HOOKS[0]][part != BOS]
    expected = metrics.code_sums(CODER, x)
    for name, value in vars(expected).items():
        found = getattr(codes["prose"], name)
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6)


def test_baseline_and_evaluation_have_the_same_rows():
    known = metrics.baseline(tiny_model(), HOOKS[0], token_set())
    found, _ = metrics.evaluate(tiny_model(), CODER, token_set())
    same = ["text_class", "document", "group", "tokens"]
    pd.testing.assert_frame_equal(known[same], found[same])
    # CODER is the identity
    np.testing.assert_allclose(found["sae"], known["clean"], rtol=1e-4)
    assert (known["zero"] != known["clean"]).any()
    np.testing.assert_allclose(known["uniform"], known["tokens"] * np.log(30))


def test_mean_activation():
    model, stream = tiny_model(), token_set().train
    found = metrics.mean_activation(model, HOOKS[0], stream, rows=3)
    rows = np.zeros((3, 8), dtype=np.int64)
    rows[:, 1:] = stream[:21].reshape(3, 7)
    _, cache = model.run_with_cache(torch.from_numpy(rows))
    expected = cache[HOOKS[0]][:, 1:].mean((0, 1))
    torch.testing.assert_close(found, expected)


def losses_frame():
    return pd.DataFrame(
        [
            ["prose", 0, "n/0", 10.0, 11.0, 20.0, 15.0, 1.0, 5.0, 3.0, 5, 50.0],
            ["prose", 1, "n/1", 20.0, 21.0, 40.0, 25.0, 2.0, 5.0, 3.0, 5, 50.0],
            ["formats/DNA", 0, "f/0", 8.0, 8.1, 8.2, 8.0, 0.1, 0.4, 0.1, 4, 40],
        ],
        columns=COLUMNS,
    )


def test_losses_by_class_by_hand():
    table = metrics.losses_by_class(losses_frame(), margin=0.2)
    assert list(table.index) == [
        "prose", "formats/DNA", "natural text", "synthetic text", "all text",
    ]  # fmt: skip
    prose = table.loc["prose"]
    assert prose[metrics.RUNS].tolist() == [3, 3.2, 6, 4]
    assert prose["score_zero"] == pytest.approx(28 / 30)
    assert prose["score_mean"] == pytest.approx(0.8)
    assert prose["score_kl"] == pytest.approx((10 - 3) / 10)
    assert prose["why"] == "" and prose["tokens"] == 10
    dna = table.loc["formats/DNA"]
    assert dna[metrics.SCORES].isna().all()
    assert "less than the margin of 0.2" in dna["why"]
    # pooled over tokens, not over classes
    pooled = table.loc["all text"]
    assert pooled["clean"] == pytest.approx(38 / 14)
    assert pooled["score_zero"] == pytest.approx(28.1 / 30.2)


def test_make_and_load_quality(tmp_path, monkeypatch):
    from helpers import artifacts

    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    for name, value in (
        ("helpers.language_model.models.load_language_model", tiny_model()),
        ("helpers.text.tokens.load_tokens", token_set()),
        ("helpers.train.load_sae", CODER),
    ):
        monkeypatch.setattr(name, lambda _, value=value: value)
    inputs = [
        artifacts.produce(
            tmp_path / name,
            lambda folder: (folder / "x").write_text(""),
            parameters={},
        )
        for name in "abc"
    ]
    quality = metrics.load_quality(metrics.make_quality("p", "n", *inputs))
    frame, codes = metrics.evaluate(tiny_model(), CODER, token_set())
    known = metrics.baseline(tiny_model(), HOOKS[0], token_set())
    expected = known.assign(sae=frame["sae"], kl_sae=frame["kl_sae"])
    pd.testing.assert_frame_equal(quality.documents, expected[COLUMNS])
    for name, value in vars(codes["prose"]).items():
        found = getattr(quality.codes["prose"], name)
        np.testing.assert_array_equal(found, value)
    assert quality.pooled().tokens == sum(c.tokens for c in codes.values())
    assert quality.pooled(natural=True).tokens == codes["prose"].tokens
    table = quality.sparsity()
    assert table.index.tolist() == ["prose", "formats/DNA", "all text"]
    assert table.loc["prose", "l0"] == pytest.approx(codes["prose"].l0)
