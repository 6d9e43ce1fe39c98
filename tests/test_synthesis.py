"""The labelled corpora: exact spans, seeds, grammar, quality."""

import functools
import json
import re
import unicodedata

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import synthesis
from helpers.errors import InputError
from helpers.synthesis import controls, quality, tables
from helpers.synthesis.grammar import VOWEL, Grammar

GROUPS = 300


@pytest.fixture(scope="module")
def corpora():
    return {name: synthesis.generate(name, GROUPS) for name in
            synthesis.CORPORA}


def spans_of(frame):
    for row in frame.itertuples():
        for span in json.loads(row.spans):
            yield row, *span


@pytest.mark.parametrize("name", synthesis.CORPORA)
def test_frame_keeps_the_contract(corpora, name):
    frame = corpora[name]
    assert list(frame.columns) == list(synthesis.COLUMNS)
    assert frame["group"].dtype == "int64"
    assert set(frame["split"]) == {"train", "held_out"}
    assert len(frame) == GROUPS * len(synthesis.labels(name))
    assert set(frame.groupby("group")["label"].nunique()) == {
        len(synthesis.labels(name))
    }


@pytest.mark.parametrize("name", synthesis.CORPORA)
def test_no_matched_set_straddles_the_splits(corpora, name):
    assert (corpora[name].groupby("group")["split"].nunique() == 1).all()
    held_out = (corpora[name]["split"] == "held_out").mean()
    assert 0.08 < held_out < 0.22


@pytest.mark.parametrize("name", synthesis.CORPORA)
def test_spans_lie_inside_and_hold_no_stray_space(corpora, name):
    for row, factor, _, start, end in spans_of(corpora[name]):
        assert 0 <= start < end <= len(row.text), (row.text, factor)
        if not factor.startswith("template") and name != "formats":
            surface = row.text[start:end]
            assert surface == surface.strip(), (factor, surface)


@pytest.mark.parametrize("name", ["sentiment", "subjects"])
def test_a_word_stands_where_its_span_says(corpora, name):
    """Plain words are their own value, up to the capital."""
    checked = 0
    for row, factor, value, start, end in spans_of(corpora[name]):
        if factor in ("thing", "place", "time", "adjective", "person", "verb",
                      "adverb", "source", "term", "day"):
            if "{" in value or value.isdigit():
                continue
            surface = row.text[start:end]
            assert surface[1:] == value[1:]
            assert surface[0].lower() == value[0].lower()
            checked += 1
    assert checked > 1000


def test_triples_differ_only_in_what_carries_polarity(corpora):
    frame = corpora["sentiment"]
    for _, group in frame.groupby("group"):
        rest = set()
        for row in group.itertuples():
            spans = json.loads(row.spans)
            carrier, = [s for s in spans if s[0] == "carrier"]
            polarity, = [s for s in spans if s[0] == "polarity"]
            assert polarity[1] == row.label and polarity[2:] == carrier[2:]
            rest.add(row.text[: carrier[2]] + row.text[carrier[3] :])
        assert len(rest) == 1 and group["text"].nunique() == 3


def test_word_polarity_is_the_table_column(corpora):
    table = tables.read(synthesis.table_path("sentiment"))
    column = {
        row[i]: label
        for row in table["rules"]["adjective"]
        for i, label in enumerate(table["labels"])
    }
    seen = set()
    for row, factor, value, start, end in spans_of(corpora["sentiment"]):
        word = row.text[start:end].lower()
        if factor == "word_polarity" and word in column:
            assert value == column[word]
            seen.add((row.label, value))
    assert len(seen) > 5  # words of a polarity stand in other classes too


def test_worked_lines_are_right(corpora):
    """Hand-made checks of five kinds of line, by the text alone."""
    texts = "\n".join(corpora["subjects"]["text"])
    checks = [
        (r"numbers from 1 to (\d+) add up to (\d+)",
         lambda n, s: sum(range(n + 1)) == s),
        (r"\((\d+), (\d+)\) and \((\d+), (\d+)\) has determinant (-?\d+)",
         lambda a, b, c, d, e: a * d - b * c == e),
        (r"A body of (\d+) kg at (\d+) m/s has a kinetic energy of (\d+) J",
         lambda m, v, e: 2 * e == m * v * v),
        (r"An alkane with (\d+) carbon atoms has (\d+) hydrogen",
         lambda n, h: h == 2 * n + 2),
        (r"x\^2 - (\d+)x \+ (\d+) = 0 has the roots (\d+) and (\d+)",
         lambda s, p, a, b: (s, p) == (a + b, a * b)),
    ]
    found = 0
    for pattern, holds in checks:
        for match in re.findall(pattern, texts):
            assert holds(*map(int, match)), match
            found += 1
    assert found > 10


def test_random_spans_are_uniform_over_their_alphabet(corpora):
    frame = corpora["formats"]
    sizes = {"DNA": "4", "base64 noise": "64", "hexadecimal": "16"}
    for label, size in sizes.items():
        part = frame[frame["label"] == label]
        found = [(r, v, s, e) for r, f, v, s, e in spans_of(part)
                 if f == "random"]
        assert len(found) == len(part)
        assert len({e - s for _, _, s, e in found}) == 1  # fixed length
        frames = {r.text[:s] + r.text[e:] for r, _, s, e in found}
        assert len(frames) == 1  # fixed frame
        letters = pd.Series(list("".join(r.text[s:e] for r, _, s, e in found)))
        counts = letters.value_counts()
        assert {v for _, v, _, _ in found} == {size} == {str(len(counts))}
        expected = len(letters) / len(counts)
        chi2 = ((counts - expected) ** 2 / expected).sum()
        df = len(counts) - 1
        assert chi2 < df + 5 * (2 * df) ** 0.5


def test_json_and_base64_are_what_they_say(corpora):
    import base64

    frame = corpora["formats"]
    for text in frame.loc[frame["label"] == "JSON", "text"]:
        json.loads(text)
    part = frame[frame["label"] == "base64"]
    for row, factor, value, start, end in spans_of(part):
        if factor == "encoded":
            assert base64.b64decode(row.text[start:end]).decode() == value


@functools.cache
def languages():
    return tables.read(synthesis.table_path("languages"))


def forms(language, slot, kind=None):
    table = languages()
    rules = table["labels"][language]
    return (rules["kind"][kind] if kind else rules)[slot]


def final_consonant(word):
    return (ord(word[-1]) - 0xAC00) % 28 != 0


def test_korean_particles_follow_the_last_sound():
    topic = {True: "은", False: "는"}
    for name, (subject, of, to) in items(forms("Korean", "person")):
        noun = of[:-1]
        assert subject == noun + topic[final_consonant(noun)], name
        assert (of, to) == (noun + "의", noun + "에게")
    target = {True: "을", False: "를"}
    for kind in ("text", "food", "thing"):
        for name, word in forms("Korean", "object", kind).items():
            assert word[-1] == target[final_consonant(word[:-1])], name


def test_spanish_and_french_contract():
    for name, (subject, of, to) in items(forms("Spanish", "person")):
        article, noun = subject.split(" ", 1)
        de, a = {"el": ("del", "al"), "la": ("de la", "a la")}[article]
        assert (of, to) == (f"{de} {noun}", f"{a} {noun}"), name
    for name, (subject, of, to) in items(forms("French", "person")):
        if subject.startswith("le "):
            noun = subject[3:]
            assert (of, to) == (f"du {noun}", f"au {noun}"), name
        else:
            assert (of, to) == (f"de {subject}", f"à {subject}"), name
        noun = re.sub(r"^(l'|le |la )", "", subject)
        first = unicodedata.normalize("NFD", noun)[0]
        assert subject.startswith("l'") == (first in "aeiouyœh"), name


def test_german_articles_agree():
    accusative = {"m": "den", "f": "die", "n": "das"}
    dative = {"der": "dem", "das": "dem", "die": "der"}
    for kind in ("text", "food", "thing"):
        for name, (gender, the, _) in items(forms("German", "object", kind)):
            assert the == accusative[gender], name
        for name, (m, f, n) in items(forms("German", "adjective", kind)):
            assert m.endswith("en") and f == n == m[:-1], name
    for name, (subject, of, to) in items(forms("German", "person")):
        article = subject.split()[0]
        assert to.split()[0] == dative[article], name
        assert of.split()[0] == ("der" if article == "die" else "des"), name


def test_arabic_and_hebrew_definiteness_and_verb_agreement():
    for kind in ("text", "food", "thing"):
        for name, (_, the, bare) in items(forms("Arabic", "object", kind)):
            assert the == "ال" + bare, name
        for words in (forms("Arabic", "adjective", kind),):
            assert all(w.startswith("ال") for _, r in items(words) for w in r)
        for words in (forms("Hebrew", "adjective", kind),
                      forms("Hebrew", "object", kind)):
            assert all(r[-1].startswith("ה") for _, r in items(words))
        for name, tenses in items(forms("Arabic", "verb", kind)):
            m, f = tenses["present"]
            assert f == "ت" + m[1:] and m[0] == "ي", name
            assert tenses["future"] == ["س" + m, "س" + f], name
            assert tenses["past"][1][-1] == "ت", name
        for name, tenses in items(forms("Hebrew", "verb", kind)):
            m, f = tenses["future"]
            assert m[0] == "י" and f[0] == "ת", name
            assert tenses["past"][1].endswith("ה"), name
    for name, (_, subject, to) in items(forms("Arabic", "person")):
        assert to == "ل" + subject[1:], name
    for name, (_, subject, to) in items(forms("Hebrew", "person")):
        assert to == "ל" + subject[1:], name


def items(rule):
    return [(k, v) for k, v in rule.items() if k != "forms"]


def test_shards_give_the_same_corpus_in_any_order():
    small = synthesis.generate("sentiment", 40, seed=3)
    large = synthesis.generate("sentiment", synthesis.SHARD + 40, seed=3)
    pd.testing.assert_frame_equal(small, large.head(len(small)))
    grammar = synthesis.load_grammar("sentiment")
    later = synthesis._shard(grammar, "sentiment", 3, 1)
    texts = list(large["text"][synthesis.SHARD * 3 :])
    assert texts == [row[0] for row in later[: len(texts)]]
    other = synthesis.generate("sentiment", 40, seed=4)
    assert set(small["text"]) != set(other["text"])


def test_make_corpus_round_trip(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    path = synthesis.make_corpus("smoke", "languages", groups=20)
    frame = synthesis.load_corpus(path)
    made = synthesis.generate("languages", 20)
    assert frame.to_dict("list") == made.to_dict("list")
    assert "Hebrew" in (path / "README.md").read_text("utf-8")


def test_mistakes_of_a_reader_are_one_sentence():
    with pytest.raises(InputError, match="did you mean 'subjects'"):
        synthesis.generate("subject", 3)
    with pytest.raises(InputError, match="at least 1"):
        synthesis.generate("subjects", 0)


@pytest.mark.parametrize("body, message", [
    ("labels: [a]\nrules:\n  template: '{dsh}'\n  dish: [soup]\n",
     r"t.yaml:3: no rule is called 'dsh'; did you mean 'dish'"),
    ("labels: [a]\nrules:\n  template: 'a {dish'\n", r"t.yaml:3: a lone {"),
    ("labels: [a, b]\nrules:\n  template: '{x}'\n  x:\n    - [p, q, r]\n",
     r"t.yaml:5: 3 forms where 2 are due: a, b"),
    ("labels: [a]\nrules:\n  x: [p]\n  x: [q]\n", r"t.yaml:4: 'x' is there"),
    ("labels: [a\nrules: {}\n", r"t.yaml:\d: "),
    ("labels:\n  a: {template: '{w}', w: {x: p, y: q}}\n"
     "  b: {template: '{w}', w: {x: p}}\n",
     r"t.yaml:3: 'w' has 1 items where a has 2"),
    ("labels: [a]\nrules:\n  template:\n"
     "    - {text: '{k}', where: {k: 2 +}}\n", r"t.yaml:4: '2 \+' is not"),
])
def test_a_mistake_in_a_table_is_told_with_its_line(tmp_path, body, message):
    file = tmp_path / "t.yaml"
    file.write_text(body)
    with pytest.raises(InputError, match=message):
        Grammar.load(file)


def test_articles():
    an = ["apple", "hour", "honest", "ugly", "unusual", "unimpressive", "MRI"]
    a = ["useful", "one-litre", "European", "uniform", "house", "usual"]
    assert [bool(VOWEL.match(w)) for w in an] == [True] * 6 + [False]
    assert not any(VOWEL.match(w) for w in a)


TEXT = st.sampled_from([
    "שלום, עולם", "책을 읽는다.", "那本书 is here", "naïve œuf", "GATTACA", "x"
])


def tokenizers_of(kind):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False
        )
        trainer = trainers.BpeTrainer(
            vocab_size=300, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(
            vocab_size=1500, show_progress=False, special_tokens=["[UNK]"]
        )
    frame = synthesis.generate("languages", 20, seed=9)
    tokenizer.train_from_iterator(list(frame["text"]), trainer)
    return tokenizer


@pytest.fixture(scope="module", params=["byte-level", "wordpiece"])
def tokenizer(request):
    return tokenizers_of(request.param)


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(TEXT, min_size=1, max_size=5), pick=st.integers(0, 4))
def test_tokens_of_a_span_are_those_that_share_a_character(
    tokenizer, parts, pick
):
    pick = min(pick, len(parts) - 1)
    start = sum(len(p) + 1 for p in parts[:pick])
    end = start + len(parts[pick])
    text = " ".join(parts)
    frame = pd.DataFrame({
        "text": [text], "spans": [json.dumps([["word", "v", start, end]])],
    })
    found = synthesis.spans_to_tokens(frame, tokenizer)
    offsets = tokenizer.encode(text).offsets
    wanted = [
        i for i, (left, right) in enumerate(offsets)
        if set(range(left, right)) & set(range(start, end))
    ]
    assert list(found["position"]) == wanted and wanted


def test_separability_agrees_with_counting_every_pair():
    frame = synthesis.generate("sentiment", 30)
    row = quality.separability(frame).iloc[0]
    has = {
        label: [row["word"] in quality.words(text) for text in part["text"]]
        for label, part in frame.groupby("label")
    }
    pairs = [
        (x > y) + 0.5 * (x == y)
        for x in has[row["label"]] for y in has[row["other"]]
    ]
    area = sum(pairs) / len(pairs)
    assert row["auroc"] == pytest.approx(max(area, 1 - area))
    mark = frame["label"].map({"neutral": " zyx"}).fillna("")
    planted = frame["text"] + mark
    found = quality.separability(frame.assign(text=planted)).iloc[1]
    assert (found["word"], found["auroc"]) == ("zyx", 1.0)


@pytest.mark.parametrize("name", ["sentiment", "subjects"])
def test_no_single_word_tells_the_classes_apart(corpora, name):
    assert quality.separability(corpora[name])["auroc"].max() < 0.7


def test_summary_counts_what_was_planted():
    frame = synthesis.generate("sentiment", 10)
    copy = frame.head(1)
    twice = pd.concat([frame, copy], ignore_index=True)
    row = quality.summary(twice, near=50).loc["sentiment"]
    assert row["exact duplicates"] == pytest.approx(1 / 31)
    assert row["near duplicates"] >= 1 / 31
    assert row["documents"] == 31 and row["matched sets"] == 10


def test_controls():
    frame = synthesis.generate("sentiment", 60)
    shuffled = controls.shuffled_words(frame, seed=1)
    for before, after in zip(frame["text"], shuffled["text"], strict=True):
        assert sorted(before.split()) == sorted(after.split())
    assert (frame["text"] != shuffled["text"]).mean() > 0.9
    matched = controls.length_matched(frame)
    bins = matched["text"].str.len() // 8
    table = pd.crosstab(bins, matched["label"])
    assert (table.nunique(axis=1) == 1).all() and len(matched) > 30
    halves = controls.null_pair(frame, "neutral")["label"].value_counts()
    assert dict(halves) == {"half 1": 30, "half 2": 30}
