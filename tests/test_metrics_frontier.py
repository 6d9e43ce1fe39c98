"""Many SAEs at once: against one at a time, brute force and scipy."""

import types

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from helpers import artifacts, features, metrics, paths, sae
from helpers.errors import InputError
from tests.test_activations import HOOKS, tiny_model
from tests.test_features import TEXTS, tokenizer
from tests.test_metrics import token_set


def topk(k, seed=0, hook=HOOKS[0]):
    return sae.TopKSAE(32, 48, hook, k, seed)


def natural():
    """Two natural classes and a synthetic one."""
    known = token_set()
    held_out = known.held_out | {"code": known.held_out["prose"][::-1].copy()}
    prose = known.documents[known.documents["class"] == "prose"]
    code = prose.assign(**{"class": "code", "group": prose["group"] + 10})
    return types.SimpleNamespace(
        documents=pd.concat([known.documents, code]),
        train=known.train, held_out=held_out,
        lengths=known.lengths | {"code": known.lengths["prose"][::-1].copy()},
    )  # fmt: skip


@pytest.fixture(scope="module")
def sweep():
    saes = {"four": topk(4), "eight": topk(8, 1)}
    with torch.no_grad():
        found = metrics.measure(tiny_model(), saes, natural(), 10)
    assert (found.documents["uniform"] > 0).all()
    # this model guesses worse than evenly; here no score is to be refused
    return metrics.Sweep(
        found.documents.assign(uniform=np.inf), found.firings
    )


def test_a_sweep_measures_what_each_alone_would(sweep):
    """Against ``evaluate``, which is tested against TransformerLens."""
    known = metrics.baseline(tiny_model(), HOOKS[0], natural())
    for name, one in {"four": topk(4), "eight": topk(8, 1)}.items():
        with torch.no_grad():
            frame, codes = metrics.evaluate(tiny_model(), one, natural())
        both = codes["prose"] + codes["code"]
        np.testing.assert_array_equal(sweep.firings[name], both.firings)
        np.testing.assert_allclose(sweep.density(name), both.density)
        row = sweep.table(margin=-9).loc[name]
        assert row["fvu"] == pytest.approx(both.fvu, rel=1e-6)
        assert row["l0"] == pytest.approx(both.l0)
        assert row["live"] == (both.firings > 0).sum()
        assert row["tokens"] == both.tokens and row["documents"] == 10
        losses = metrics.losses_by_class(
            known.assign(
                sae=frame["sae"], kl_sae=frame["kl_sae"], uniform=np.inf
            ), -9
        ).loc["natural text"]
        for column in (*metrics.RUNS, "score_zero", "score_mean"):
            assert row[column] == pytest.approx(losses[column], rel=1e-4)


def test_a_sample_is_even_over_natural_classes():
    saes = {"a": topk(4)}
    with torch.no_grad():
        found = metrics.measure(tiny_model(), saes, natural(), 4).documents
    assert found["text_class"].tolist() == ["prose"] * 2 + ["code"] * 2
    rows = natural().held_out["prose"][[0, 2]]
    assert found["tokens"][:2].tolist() == (rows != 0).sum(1).tolist()


def test_intervals_hold_the_estimate_and_differ(sweep):
    table = sweep.table(margin=-9)
    for name in ("score_zero", "score_mean", "fvu"):
        assert (table[f"{name}_low"] < table[name]).all()
        assert (table[name] < table[f"{name}_high"]).all()


def test_a_score_is_refused_where_ablation_costs_nothing(sweep):
    row = sweep.table(margin=50).loc["four"]
    assert np.isnan(row[["score_zero", "score_zero_low"]].astype(float)).all()
    assert "less than the margin of 50" in row["why"]
    assert np.isfinite(row["fvu_low"])


@pytest.mark.parametrize("measure", ["sae", "fvu"])
def test_difference_is_that_of_the_table(sweep, measure):
    table = sweep.table(margin=-9)
    found = sweep.difference("four", "eight", measure)
    expected = table.loc["four", measure] - table.loc["eight", measure]
    assert found.estimate == pytest.approx(expected)
    back = sweep.difference("eight", "four", measure)
    assert back.estimate == pytest.approx(-found.estimate)
    none = sweep.difference("four", "four", measure)
    assert none.estimate == 0


def test_difference_of_what_was_not_measured(sweep):
    with pytest.raises(InputError, match="did you mean 'eight'"):
        sweep.difference("four", "eigth")
    with pytest.raises(InputError, match="Accepted: sae, fvu"):
        sweep.difference("four", "eight", "l0")


def test_one_hook_point_at_a_time():
    saes = {"a": topk(4), "b": topk(4, hook="blocks.0.hook_resid_mid")}
    with pytest.raises(InputError, match="one hook point"):
        metrics.measure(tiny_model(), saes, natural(), 4)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with a model, tokens and one SAE, as artifacts."""
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    for name, value in (
        ("helpers.language_model.models.load_language_model", tiny_model()),
        ("helpers.text.tokens.load_tokens", natural()),
    ):
        monkeypatch.setattr(name, lambda _, value=value: value)
    model, tokens = (
        made(tmp_path / name, lambda f, n=name: (f / "x").write_text(n))
        for name in ("model", "tokens")
    )
    one = topk(4)
    with torch.no_grad():
        one.b_dec.copy_(torch.arange(32) / 10)
    trained = made(
        paths.sae("p", "short-a"), lambda f: sae.save(one, f), [model]
    )
    return types.SimpleNamespace(model=model, tokens=tokens, trained=trained)


def made(path, make, inputs=()):
    return artifacts.produce(path, make, parameters={"k": 4}, inputs=inputs)


def test_make_and_load_a_sweep(run):
    path = metrics.make_sweep(
        "p", "sweep", {"a": run.trained}, run.model, run.tokens, documents=4
    )
    found = metrics.load_sweep(path)
    saes = {"a": sae.load(run.trained)}
    expected = metrics.measure(tiny_model(), saes, natural(), 4)
    pd.testing.assert_frame_equal(found.documents, expected.documents)
    np.testing.assert_array_equal(found.firings["a"], expected.firings["a"])


def test_siblings_are_of_the_same_model(run):
    made(paths.sae("p", "short-z"), lambda f: None)  # of no model
    made(paths.sae("p", "long-a"), lambda f: None, [run.model])
    assert metrics.siblings("p", "short-", run.model) == {"a": run.trained}
    assert metrics.recipe(run.trained) == {"k": 4}


def test_neighbours_differ_in_one_setting():
    base = {"k": 32, "activations": 200, "seed": 0, "expansion": 8}
    made = {"l1": base | {"l1": 2.0}, "topk-8x": base,
            "topk-32x": base | {"expansion": 32}}  # fmt: skip
    found = metrics.neighbours(
        made, ks=[16, 64], penalties=[1.0], budgets=[0.5], seeds=3
    )
    of = {"topk-32x-k16": "topk-32x", "l1-penalty-1": "l1"}
    differs = {
        name: {
            key: value
            for key, value in how.items()
            if value != made[of.get(name, "topk-8x")][key]
        }
        for name, how in found.items()
    }
    assert differs == {
        "topk-8x-k16": {"k": 16}, "topk-8x-k64": {"k": 64},
        "topk-32x-k16": {"k": 16}, "l1-penalty-1": {"l1": 1.0},
        "topk-8x-0.5-budget": {"activations": 100},
        "topk-8x-seed-1": {"seed": 1}, "topk-8x-seed-2": {"seed": 2},
    }  # fmt: skip


def test_steps_add_up(sweep):
    found = sweep.steps(["four", "eight", "four"])
    assert found["to"].tolist() == ["eight", "four"]
    assert found["change"].sum() == pytest.approx(0)
    one = sweep.difference("eight", "four")
    assert found.loc[0, ["change", "low", "high"]].tolist() == list(one)


def test_what_sets_an_sae_apart(tmp_path):
    def of(**parameters):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        artifacts.produce(path, lambda folder: None, parameters=parameters)
        return metrics.describe(path)

    common = {"expansion": 8, "seed": 1, "activations": 5}
    topk = of(architecture="topk", k=32, **common)
    assert topk == common | {"kind": "TopK", "aim": "k = 32"}
    aimed = of(architecture="jumprelu", l1=2.0, target_l0=16, **common)
    assert aimed["aim"] == "L0 = 16"
    assert of(architecture="l1", l1=2.0, **common)["aim"] == "penalty 2"
    control = of(control="random", expansion=8, k=4, seed=0)
    assert control == {
        "kind": "random (control)", "expansion": 8, "aim": "k = 4",
        "seed": 0, "activations": 0,
    }  # fmt: skip


def test_a_random_control_is_an_sae_before_training(run):
    path = metrics.make_control("p", "random", run.trained, "random", seed=3)
    found, fresh, trained = sae.load(path), topk(4, 3), sae.load(run.trained)
    torch.testing.assert_close(found.W_dec, fresh.W_dec)
    torch.testing.assert_close(found.W_enc, fresh.W_enc)
    torch.testing.assert_close(found.b_dec, trained.b_dec)
    assert found.k == 4 and found.hook_point == HOOKS[0]


def test_a_shuffled_control_keeps_the_numbers_and_loses_the_order(run):
    path = metrics.make_control("p", "shuffled", run.trained, "shuffled")
    found, trained = sae.load(path), sae.load(run.trained)
    ours, theirs = (s.W_enc.detach().flatten() for s in (found, trained))
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours.sort().values, theirs.sort().values)
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(48))
    torch.testing.assert_close(found.b_dec, trained.b_dec)


def test_controls_that_there_are_not(run):
    with pytest.raises(InputError, match="did you mean 'random'"):
        metrics.make_control("p", "x", run.trained, "randon")
    dense = made(
        paths.sae("p", "l1"), lambda f: sae.save(sae.L1SAE(32, 48, "h"), f)
    )
    with pytest.raises(InputError, match="only a TopK SAE"):
        metrics.make_control("p", "x", dense, "random")


def test_an_encoded_table_is_the_one_that_the_model_gives():
    given = tiny_model(), tokenizer(), TEXTS, np.arange(len(TEXTS))
    neurons = features.tabulate(
        given[0], features.Neurons(32, HOOKS[0]), *given[1:], threshold=0.0
    )
    with torch.no_grad():
        one = topk(4)
        expected = features.tabulate(given[0], one, *given[1:])
        found = metrics.encode_table(neurons, one)
    np.testing.assert_allclose(
        found.matrix().toarray(), expected.matrix().toarray(), atol=0.01
    )
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    with pytest.raises(InputError, match="reads 16 neurons"):
        metrics.encode_table(neurons, sae.TopKSAE(16, 32, "h", 4))


def test_rank_correlation_against_scipy():
    random = np.random.default_rng(0)
    x = random.normal(size=25).round(1)  # with ties
    y = x + random.normal(size=25)
    found = metrics.rank_correlation(x, y)
    assert found.rho == pytest.approx(spearmanr(x, y).statistic)
    assert found.count == 25 and -1 <= found.low < found.rho < found.high <= 1


def test_partial_rank_correlation_against_its_formula():
    random = np.random.default_rng(1)
    z = random.normal(size=30)
    x, y = z + random.normal(size=30), z + random.normal(size=30)
    xy, xz, yz = (
        spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z))
    )
    expected = (xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5
    found = metrics.rank_correlation(x, y, z)
    assert found.rho == pytest.approx(expected)


def test_rank_intervals_cover():
    """Of the correlation of a bivariate normal: (6 / pi) asin(r / 2)."""
    random, truth = np.random.default_rng(2), 6 / np.pi * np.arcsin(0.3)
    held = 0
    for seed in range(150):
        x, e = random.normal(size=(2, 30))
        y = 0.6 * x + 0.8 * e
        found = metrics.rank_correlation(x, y, resamples=300, seed=seed)
        held += found.low < truth < found.high
    assert 0.88 <= held / 150 <= 1


def test_too_few_to_rank():
    with pytest.raises(InputError, match="3 SAEs are too few"):
        metrics.rank_correlation([1, 2, 3], [1, 2, 3])


def saes(count=12, seed=3):
    random = np.random.default_rng(seed)
    score = random.normal(size=count)
    return pd.DataFrame(
        {"kind": ["TopK", "L1"] * (count // 2), "l0": random.normal(size=count),
         "score_zero": score, "fvu": -score, "skill": score}
    )  # fmt: skip


def test_rank_table_says_what_the_interval_holds():
    table = metrics.rank_table(saes())
    assert table["rho"].tolist() == pytest.approx([1] * 8)
    assert set(table["says"]) == {"the better the score, the higher the skill"}
    assert table["count"].tolist() == [12] * 4 + [6] * 4
    down = metrics.rank_table(saes().assign(skill=lambda f: -f["skill"]))
    assert "lower" in down["says"].iloc[0]
    noise = np.random.default_rng(5).normal(size=12)
    none = metrics.rank_table(saes().assign(skill=noise))
    assert none["low"].iloc[0] < 0 < none["high"].iloc[0]
    assert "too few" in none["says"].iloc[0]
    few = metrics.rank_table(saes().head(4))
    assert few.loc[("TopK", "score", "L0"), "says"].startswith("too few")
    assert np.isnan(few.loc[("TopK", "score", "L0"), "rho"])
