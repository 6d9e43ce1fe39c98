"""The material of the syntax chapter, and how it is judged."""

import functools

import numpy as np
import pandas as pd
import pytest

from helpers import syntax, synthesis
from helpers.errors import InputError


@functools.cache
def corpus():
    frame = synthesis.generate("syntax", 900, seed=1)
    return frame[frame["split"] == "held_out"]


def test_material_pairs_each_construction_with_the_other():
    frame = syntax.material(corpus(), 3)
    contrasts = syntax.contrasts(frame)
    assert contrasts
    for contrast in contrasts:
        labels = contrast.treatment, contrast.control
        part = frame[frame["label"].isin(labels)]
        assert (part.groupby("group")["label"].nunique() == 2).all()
        assert part["phenomenon"].nunique() == 1
        assert part["correct"].all()
    rest = frame[frame["label"] == syntax.OTHER]
    assert set(rest["phenomenon"]) <= set(syntax.AGREEMENT)


def test_material_needs_enough_sets():
    with pytest.raises(InputError, match="no phenomenon has 5000 matched"):
        syntax.material(corpus(), 5000)


def test_no_word_tells_a_mistake_in_agreement():
    """Right and wrong hold the same words equally often, set by set."""
    frame = syntax.by_mistake(syntax.material(corpus(), 3))
    frame = frame[frame["label"] != syntax.OTHER]
    words = frame.assign(word=frame["text"].str.split()).explode("word")
    counts = pd.crosstab([words["group"], words["word"]], words["label"])
    assert (counts[syntax.MISTAKE.treatment]
            == counts[syntax.MISTAKE.control]).all()


def test_minimal_pairs_are_sentences_with_one_mistake():
    pairs = syntax.minimal_pairs(corpus(), 2)
    assert pairs.groupby("phenomenon")["group"].nunique().max() <= 2
    assert pairs["phenomenon"].nunique() >= 14
    assert (pairs["right"] != pairs["wrong"]).all()
    assert pairs["right"].str.match(r"^[A-Z].*[.?]$").all()
    assert pairs["right"].str.count(r"[.?]").max() == 1
    whole = corpus().set_index(["group", "label"])["text"]
    first = pairs.iloc[0]
    assert first["right"] in whole[first["group"]]["unmarked"]


def test_attractors_are_complete_and_differ_in_the_verb_alone():
    made = syntax.attractors(corpus(), 10, most=2)
    design = made.groupby(["group", "number", "kind", "nouns"]).size()
    assert (design == 1).all()
    assert (made.groupby("group").size() == 2 * (1 + 2 * 2)).all()
    assert made["group"].nunique() == 10
    for row in made.to_dict("records"):
        right, wrong = row["right"].split(), row["wrong"].split()
        differ = [a for a, b in zip(right, wrong, strict=True) if a != b]
        assert len(differ) == 1
        assert row["right"].startswith(row["before"] + " " + differ[0])
    again = syntax.attractors(corpus(), 10, most=2)
    pd.testing.assert_frame_equal(made, again)


def test_attractors_have_the_number_that_they_say():
    """Checked by the words: the phrases' own singulars and plurals."""
    made = syntax.attractors(corpus(), 30, most=1)
    phrases = corpus().join(
        synthesis.factors(corpus())["phenomenon"]
    ).query("phenomenon == @syntax.PHRASE")
    own = phrases.set_index(["group", "label"])["text"]
    for (_, number), part in made.groupby(["group", "number"]):
        before = part.set_index("kind")["before"]
        other = "unmarked" if number == "singular" else "marked"
        for kind, label in (
            ("opposite", other),
            ("same", "marked" if other == "unmarked" else "unmarked"),
        ):
            phrase = before[kind].removeprefix(before["none"])
            assert own.xs(label, level="label").str.contains(
                phrase + " ", regex=False
            ).any()


def test_attractors_need_phrases():
    facts = synthesis.factors(corpus())
    with pytest.raises(InputError, match="agreement across a phrase"):
        syntax.attractors(corpus()[facts["phenomenon"] == "voice"], 5)


class Letters:
    """A tokenizer of single characters."""

    def encode_batch(self, texts):
        return [type("E", (), {"ids": [ord(c) for c in t]}) for t in texts]


def by_letter(rows):
    """A "model" with a loss of its own number for each character."""
    return rows[:, 1:] / 100


def test_text_losses_add_up_over_the_text():
    texts = ["abc", "z", "abcdefgh"] * 40
    found = syntax.text_losses(by_letter, Letters(), texts)
    assert found == pytest.approx([sum(map(ord, t)) / 100 for t in texts])


def test_text_losses_are_the_models_log_probabilities():
    torch = pytest.importorskip("torch")
    from helpers.language_model import predictor
    from tests.test_activations import tiny_model
    from tests.test_features import tokenizer

    model, texts = tiny_model(), ["a b c", "d", "e f a"]
    found = syntax.text_losses(predictor(model), tokenizer(), texts)
    for text, loss in zip(texts, found, strict=True):
        ids = [0, *tokenizer().encode(text).ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0].log_softmax(-1)
        steps = zip(logits, ids[1:], strict=False)
        assert loss == pytest.approx(
            -sum(row[token].item() for row, token in steps), abs=1e-4
        )


def test_accuracy_by_hand():
    pairs = pd.DataFrame(
        {"group": [0, 0, 1, 1], "right": list("abcd"), "wrong": list("baad")}
    )
    judged = syntax.preferences({"m": by_letter}, Letters(), pairs)
    # "a" costs 0.97 and so on: right is likelier, less likely, less, equal
    assert judged["margin"].tolist() == pytest.approx([0.01, -0.01, -0.02, 0])
    row = syntax.accuracy(judged, ["model"]).iloc[0]
    assert row["accuracy"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert (row["pairs"], row["sets"]) == (4, 2)
    # two sets: a resample is both, or one of them twice
    assert row["low"] == pytest.approx(0.25)
    assert row["high"] == pytest.approx(0.5)


def stimuli(nouns=40, kinds=("none", "same", "opposite")):
    """Rows of nouns in both numbers, before a verb."""
    rows = [
        {"noun": f"noun {n}", "number": number, "kind": kind,
         "nouns": int(kind != "none")}
        for n in range(nouns)
        for number in ("singular", "plural")
        for kind in kinds
    ]
    return pd.DataFrame(rows)


def reading(found, basis):
    part = found[found["basis"] == basis]
    return part.set_index("kind")["auroc"]


def test_read_number_tells_subject_from_last_noun():
    rng, made = np.random.default_rng(0), stimuli()
    subject = (made["number"] == "plural").to_numpy()
    last = np.where(made["kind"] == "opposite", ~subject, subject)
    noise = rng.normal(size=(3, len(made), 6))
    bases = {
        "subject": noise[0] + 0.0, "last noun": noise[1] + 0.0,
        "nothing": noise[2],
    }
    bases["subject"][:, 3] -= 3 * subject  # a unit may fall
    bases["last noun"][:, 2] += 3 * last
    found = syntax.read_number(bases, made, probes=["subject"])
    assert (reading(found, "subject") > 0.9).all()
    assert (reading(found, "probe of all subject") > 0.9).all()
    local = reading(found, "last noun")
    assert local["none"] > 0.9 and local["opposite"] < 0.1
    assert (abs(reading(found, "nothing") - 0.5) < 0.25).all()
    assert found[found["basis"] == "subject"]["unit"].eq(3).all()
    assert (found["low"] <= found["auroc"]).all()
    assert (found["auroc"] <= found["high"]).all()


def test_a_unit_that_knows_the_nouns_by_heart_reads_nothing():
    """One unit a noun and number: nothing carries over to other nouns."""
    made = stimuli(kinds=("none",))
    found = syntax.read_number({"heart": np.eye(len(made))}, made)
    assert reading(found, "heart")["none"] == pytest.approx(0.5, abs=0.03)


def test_chance_is_chance_where_nothing_is_known():
    """The best of 50 units of noise, over 40 corpora: no luck carried."""
    scores = []
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=(80, 50))
        made = stimuli(kinds=("none",))
        found = syntax.read_number({"noise": noise}, made, seed=seed)
        scores.append(found["auroc"].iloc[0])
    assert abs(np.mean(scores) - 0.5) < 3 * np.std(scores) / np.sqrt(40)


def test_follows_says_what_the_intervals_allow():
    def scored(none, opposite):
        return pd.DataFrame(
            {
                "who": "m",
                "kind": ["none", "opposite", "opposite", "same"],
                "low": [none - 0.1, opposite - 0.1, opposite, 0.2],
                "high": [none + 0.1, opposite, opposite + 0.1, 0.8],
            }
        )

    says = {
        (0.8, 0.8): "the subject",
        (0.8, 0.2): "the noun nearest to the verb",
        (0.8, 0.55): "neither",
        (0.5, 0.2): "neither",
        (0.5, 0.8): "neither",
    }
    for (none, opposite), phrase in says.items():
        found = syntax.follows(scored(none, opposite), "who")
        assert found.to_dict() == {"m": phrase}
