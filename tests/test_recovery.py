"""Feature recovery against scikit-learn, and against loops by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import features, recovery, synthesis
from helpers.errors import InputError
from helpers.recovery import columns, scores, tables, targets
from helpers.synthesis.truth import spans_to_tokens
from tests.test_features import tokenizer

LENGTH = 5  # tokens of a document


def table_of(dense: np.ndarray, length: int = LENGTH) -> features.FeatureTable:
    """A table whose documents have ``length`` one-character tokens each."""
    dense = dense.astype(np.float16)
    tokens, units = np.nonzero(dense)
    count = len(dense) // length
    place = np.tile(np.arange(length), count)
    return features.FeatureTable(
        d_sae=dense.shape[1],
        threshold=0.0,
        values=dense[tokens, units],
        indices=units.astype(np.int32),
        indptr=np.concatenate([[0], np.cumsum((dense > 0).sum(1))]),
        token_ids=np.arange(len(dense)).astype(np.uint16),
        documents=np.arange(count),
        offsets=np.arange(count + 1) * length,
        char_start=place.astype(np.int32),
        char_end=(place + 1).astype(np.int32),
    )


def sparse(tokens: int, units: int, seed: int, ties: bool = False):
    random = np.random.default_rng(seed)
    dense = random.exponential(size=(tokens, units))
    if ties:
        dense = np.ceil(dense * 2) / 2
    return (dense * (random.random(dense.shape) < 0.4)).astype(np.float16)


def best_f1(truth, column) -> float:
    """The largest F1 over all thresholds, one by one."""
    found = [0.0] + [
        sklearn.metrics.f1_score(truth, column >= level)
        for level in np.unique(column[column > 0])
    ]
    return max(found)


@pytest.mark.parametrize("ties", [False, True])
def test_f1_and_auroc_agree_with_scikit_learn(ties):
    dense = sparse(60, 8, seed=1, ties=ties)
    truth = np.random.default_rng(2).random(60) < 0.3
    made = columns.Columns(table_of(dense))
    found = made.scores(np.flatnonzero(truth))
    assert len(found.units) == 8
    for unit, f1, level, auroc in zip(*found, strict=True):
        column = dense[:, unit].astype(float)
        assert f1 == pytest.approx(best_f1(truth, column))
        fires = column >= level
        assert f1 == pytest.approx(sklearn.metrics.f1_score(truth, fires))
        wanted = sklearn.metrics.roc_auc_score(truth, column)
        assert auroc == pytest.approx(wanted)
        assert made.auroc(int(unit), truth) == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 19))
def test_any_table_agrees_with_scikit_learn(seed, positives):
    dense = sparse(20, 3, seed, ties=True)
    truth = np.zeros(20, bool)
    truth[np.random.default_rng(seed).permutation(20)[:positives]] = True
    found = columns.Columns(table_of(dense)).scores(np.flatnonzero(truth))
    for unit, f1, _, auroc in zip(*found, strict=True):
        column = dense[:, unit].astype(float)
        assert f1 == pytest.approx(best_f1(truth, column))
        wanted = sklearn.metrics.roc_auc_score(truth, column)
        assert auroc == pytest.approx(wanted)


def test_a_target_on_which_all_are_silent():
    dense = np.zeros((10, 2))
    dense[0, 1] = 1
    made = columns.Columns(table_of(dense))
    best = made.scores(np.array([4, 5])).best("f1")
    assert best.score == 0 and len(made.fired(best.unit, best.threshold)) == 0
    truth = np.isin(np.arange(10), [4, 5])
    assert made.auroc(1, truth) == pytest.approx(0.5 - 0.5 / 8)
    assert made.auroc(0, truth) == pytest.approx(0.5)


def frame_of(count: int, spans=None, length: int = LENGTH) -> pd.DataFrame:
    """Documents of one letter a token; by default "b" has its own span."""
    random = np.random.default_rng(3)
    texts = ["".join(random.choice(list("abc"), length)) for _ in range(count)]
    told = spans or [
        [["letter", c, i, i + 1] for i, c in enumerate(text)] for text in texts
    ]
    return pd.DataFrame(
        {
            "text": texts,
            "corpus": "letters",
            "label": "all",
            "group": np.arange(count) // 2,
            "split": "held_out",
            "factors": "{}",
            "spans": [json.dumps(s) for s in told],
        }
    )


def letters(frame: pd.DataFrame) -> np.ndarray:
    return np.array(list("".join(frame["text"])))


def test_targets_are_the_spans_tokens():
    frame = frame_of(12)
    found = recovery.find_targets(table_of(np.ones((60, 1))), frame)
    names = found.names.set_index("value")
    assert set(names.index) == {recovery.PRESENT, "a", "b", "c"}
    for at, value in enumerate(names.index):
        wanted = np.flatnonzero(
            np.isin(letters(frame), list("abc") if "(" in value else [value])
        )
        assert found.rows[at].tolist() == wanted.tolist()
        sets = set(wanted // (2 * LENGTH))
        assert names["sets"].iloc[at] == len(sets)
    assert names.loc[recovery.PRESENT, "base_rate"] == 1
    row = {"factor": "letter", "value": "b"}
    assert (found.mask(row) == (letters(frame) == "b")).all()


def test_targets_agree_with_spans_to_tokens():
    texts = ["abc de", "fghijklmnopq", "z"]
    told = [
        [["x", "1", 1, 5], ["x", "2", 2, 3], ["x", "1", 0, 2]],
        [["y", "1", 3, 12], ["x", "1", 8, 9]],
        [["x", "2", 0, 1]],
    ]
    frame = frame_of(3, told).assign(text=texts)
    reader = tokenizer()
    encoded = reader.encode_batch(texts)
    places = [place for e in encoded for place in e.offsets]
    sizes = [len(e.ids) for e in encoded]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    table = table_of(np.ones((sum(sizes), 1)), 1)
    table = features.FeatureTable(
        **{k: getattr(table, k) for k in "d_sae threshold values".split()},
        indices=table.indices, indptr=table.indptr,
        token_ids=table.token_ids, documents=np.arange(3), offsets=offsets,
        char_start=np.array([p[0] for p in places]),
        char_end=np.array([p[1] for p in places]),
    )  # fmt: skip
    plain = spans_to_tokens(frame, reader)
    plain["at"] = offsets[plain["document"]] + plain["position"]
    found = recovery.find_targets(table, frame)
    for (factor, value), rows in zip(
        found.names[["factor", "value"]].to_numpy(), found.rows, strict=True
    ):
        mine = plain[plain["factor"] == factor]
        if value != recovery.PRESENT:
            mine = mine[mine["value"] == value]
        assert rows.tolist() == sorted(set(mine["at"]))


def test_shared_targets_are_frequent_and_not_everywhere():
    frame = frame_of(12)
    table = table_of(np.ones((60, 1)))
    found = recovery.find_targets(table, frame)
    kept, _ = targets.shared(found, found, min_sets=6)
    assert recovery.PRESENT not in set(kept.names["value"])
    assert (kept.names["sets"] >= 6).all()
    none, _ = targets.shared(found, found, min_sets=7)
    assert len(none.names) == 0


def study(count: int = 80, noise: float = 0.0, **arguments):
    """A unit that is the letter b (with noise), and one that is random."""
    frame = frame_of(count)
    random = np.random.default_rng(5)
    is_b = letters(frame) == "b"
    flip = random.random(len(is_b)) < noise
    good = (is_b ^ flip).astype(float)
    bad = random.random(len(is_b))
    bases = {
        "good": table_of(np.stack([bad, good], 1)),
        "bad": table_of(bad[:, None]),
    }
    return frame, bases, recovery.recover(bases, frame, **arguments)


def test_a_unit_that_is_the_factor_recovers_it():
    _, _, found = study()
    rows = found.scores.set_index(["basis", "value"])
    best = rows.loc[("good", "b")]
    assert best["unit"] == 1 and best["auroc_unit"] == 1
    for name in ("precision", "recall", "f1", "auroc", "f1_low", "f1_high"):
        assert best[name] == 1
    assert rows.loc[("bad", "b"), "behind_low"] > 0
    assert best["behind"] == best["behind_low"] == 0
    told = found.units.set_index(["basis", "unit"]).loc[("good", 1)]
    assert told["target"] == "letter: b" and told["skill"] == 1
    duel = recovery.duel(found.scores, "bad").set_index("target")
    assert duel.loc["letter: b", "outcome"] == "ahead"
    assert duel.loc["letter: b", "features"] == 1


def test_scores_are_those_of_the_half_not_chosen_on():
    frame, bases, found = study(noise=0.2, seed=4)
    _, second = recovery.halves(frame, 4)
    rows = (second[:, None] * LENGTH + np.arange(LENGTH)).ravel()
    for _, row in found.scores.iterrows():
        truth = letters(frame)[rows] == row["value"]
        column = bases[row["basis"]].feature(row["unit"])[rows]
        wanted = sklearn.metrics.precision_recall_fscore_support(
            truth, column >= row["threshold"], average="binary"
        )
        for name, value in zip(scores.SCORES, wanted[:3], strict=True):
            assert row[name] == pytest.approx(value)
        ranked = bases[row["basis"]].feature(row["auroc_unit"])[rows]
        auroc = sklearn.metrics.roc_auc_score(truth, ranked)
        assert row["auroc"] == pytest.approx(auroc)
        assert row["f1_low"] <= row["f1"] <= row["f1_high"]
        assert row["base_rate"] == pytest.approx(truth.mean())
        always = sklearn.metrics.f1_score(truth, np.ones(len(truth), bool))
        assert row["always"] == pytest.approx(always)


def test_noise_has_no_skill():
    _, _, found = study(count=200)
    noise = found.scores[found.scores["basis"] == "bad"]
    assert (abs(noise["auroc"] - 0.5) < 0.1).all()
    assert (noise["f1"] < noise["always"] + 0.05).all()


def test_intervals_cover_at_their_nominal_rate():
    """The unit's F1 on very many sets lies in 95% of the intervals."""
    truth_rate, hit, false = 0.3, 0.7, 0.1
    true = truth_rate * hit
    wanted = 2 * true / (truth_rate + true + (1 - truth_rate) * false)
    inside = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        truth = random.random((60, 20)) < truth_rate
        fires = random.random((60, 20)) < np.where(truth, hit, false)
        draw = scores._resampling(np.repeat(np.arange(60), 20), 400, seed)
        parts = [(truth & fires).sum(1), fires.sum(1), truth.sum(1)]
        counts = np.array(parts, np.float32)[:, :, None]
        frame, _ = scores._with_intervals(
            pd.DataFrame(index=[0]), counts, draw.weights
        )
        inside += frame["f1_low"][0] <= wanted <= frame["f1_high"][0]
    assert 0.90 <= inside / 200 <= 0.98


def test_equal_input_gives_equal_results():
    first, second = study(noise=0.1)[2], study(noise=0.1)[2]
    pd.testing.assert_frame_equal(first.scores, second.scores)
    pd.testing.assert_frame_equal(first.units, second.units)


def test_bad_input_is_told():
    frame, bases, _ = study()
    with pytest.raises(InputError, match="other documents than the first"):
        few = recovery.take(bases["bad"], np.arange(4))
        recovery.recover({"good": bases["good"], "few": few}, frame)
    with pytest.raises(InputError, match="no factor is in 500 matched sets"):
        recovery.recover(bases, frame, min_sets=500)
    with pytest.raises(InputError, match="takes at least 4"):
        recovery.halves(frame.head(6))


def test_words_of_the_outcome():
    _, _, found = study()
    duel = recovery.duel(found.scores, "bad")
    assert recovery.tally(duel).startswith("is ahead on 1 of 3, behind on ")
    text = recovery.headline(found.scores).loc[("letters", "letter: b")]
    assert text["good"] == "1.00 [1.00, 1.00]"
    units = recovery.specialists(found.units)
    assert units.loc["good", "able"] == 1 and units.loc["bad", "able"] == 0


def test_taking_documents_and_aligning():
    dense = sparse(50, 4, seed=7)
    table = table_of(dense)
    part = recovery.take(table, np.array([1, 3, 8]))
    rows = np.r_[5:10, 15:20, 40:45]
    assert (part.matrix().toarray() == dense[rows]).all()
    assert part.documents.tolist() == [1, 3, 8]
    assert part.offsets.tolist() == [0, 5, 10, 15]


def test_directions_are_read_off_the_neurons():
    dense = sparse(40, 6, seed=8)
    x = dense.astype(np.float32)
    given = features.random_directions(x, 500, "a hook point", seed=1)
    made = recovery.along(table_of(dense), given)
    vectors = given.vectors.numpy()
    wanted = (x - x.mean(0)) @ np.concatenate([vectors, -vectors], axis=1)
    error = np.abs(made.matrix().toarray() - np.maximum(wanted, 0))
    assert error.max() < 2e-3
    assert made.d_sae == 1000 and made.n_documents == 8


def telling(factors: list[list[str]], size: int = 2) -> pd.DataFrame:
    """Matched sets of ``size`` documents that show the given factors."""
    spans = [
        [[name, "x", i, i + 1] for i, name in enumerate(names)]
        for names in factors for _ in range(size)
    ]  # fmt: skip
    frame = frame_of(len(spans), spans, max(map(len, factors)))
    return frame.assign(group=np.arange(len(spans)) // size)


def test_halves_share_every_factor_evenly():
    random = np.random.default_rng(0)
    rate = {"a": 0.04, "b": 0.06, "c": 0.3, "d": 0.9}
    frame = telling(
        [[f for f in rate if random.random() < rate[f]] for _ in range(300)]
    )
    parts = recovery.halves(frame, seed=2)
    assert sorted(np.concatenate(parts)) == list(range(600))
    groups = [set(frame["group"].iloc[part]) for part in parts]
    assert not groups[0] & groups[1]
    one, two = (recovery.sets_with(frame.iloc[p]).sum() for p in parts)
    assert (abs(one - two) <= 2).all() and one.min() >= 4
    assert abs(len(groups[0]) - len(groups[1])) <= 2
    again = recovery.halves(frame, seed=2)
    other = recovery.halves(frame, seed=3)
    assert (parts[0] == again[0]).all()
    assert len(parts[0]) != len(other[0]) or (parts[0] != other[0]).any()


def test_a_sample_has_every_factor_often_enough():
    rare = [["a"], ["a", "b"]] + [["a"]] * 58 + [["b"], ["a", "b"]] * 5
    frame = telling(rare)  # the sets from 60 on are new
    found = recovery.choose(frame, 40, 4, seed=0, last=59)
    sets = found.drop_duplicates("group")
    assert (sets["origin"] == "drawn").sum() == 20
    assert recovery.sets_with(found).sum()["b"] == 4
    assert (sets.loc[sets["origin"] == "new", "group"] >= 60).all()
    assert set(sets["group"]) >= {1}, "held-out sets come before new ones"
    assert (found.groupby("group").size() == 2).all(), "sets are whole"


def test_a_sample_goes_on_where_the_corpus_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    corpus = synthesis.make_corpus("test", "subjects", groups=60)
    made = recovery.make_sample(
        "test", "subjects", documents=9, min_sets=2, seed=1
    )
    found = synthesis.load_corpus(made)
    old = synthesis.load_corpus(corpus)
    more = synthesis.generate("subjects", 90)
    assert set(found["origin"]) == {"drawn", "added", "new"}
    for origin, source in {"drawn": old, "added": old, "new": more}.items():
        part = found[found["origin"] == origin]
        assert set(part["text"]) <= set(source["text"])
        if origin == "new":
            assert part["group"].min() >= 60
        else:
            kept = source[source["group"].isin(part["group"])]
            assert set(kept["split"]) == {"held_out"}


def test_what_is_not_scored_is_told():
    told = [
        [["here", "x", 0, LENGTH], ["half", "x", 0, 1 + i % 3]]
        + ([["rare", "x", 0, 1]] if i == 4 else [])
        for i in range(60)
    ]
    frame = frame_of(60, told)
    bases = {"one": table_of(sparse(300, 3, seed=2))}
    found = recovery.recover(bases, frame, min_sets=4)
    assert set(found.scores["factor"]) == {"half"}
    reasons = found.left_out.set_index("factor")["reason"].to_dict()
    assert reasons == {"here": "on nearly every token", "rare": "too rare"}
    shown = recovery.headline(found.scores, found.left_out)
    assert shown["one"].loc[("letters", "rare")] == "too rare"
    assert shown["sets"].loc[("letters", "rare")] == 0


def test_averages_are_those_of_the_targets():
    _, _, found = study(noise=0.2, resamples=300)
    frame = recovery.averages(found).set_index("basis")
    means = found.scores.groupby("basis")["f1"].mean()
    assert frame["f1"].to_dict() == pytest.approx(means.to_dict())
    assert (frame["targets"] == 3).all()
    assert frame.loc["good", "behind"] == frame.loc["good", "behind_high"] == 0
    gap = found.drawn["good"].mean(1) - found.drawn["bad"].mean(1)
    bounds = np.quantile(gap, [0.025, 0.975])
    row = frame.loc["bad"]
    assert row[["behind_low", "behind_high"]].tolist() == pytest.approx(bounds)
    assert row["f1_low"] < row["f1"] < row["f1_high"]
    assert row["text"].startswith(f"{row['f1']:.2f} [")


def test_ranges_by_hand():
    found = tables.ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))
    assert found.tolist() == [5, 6, 9, 10, 11]
    assert len(tables.ranges(np.zeros(0, int), np.zeros(0, int))) == 0
