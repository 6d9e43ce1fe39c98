"""The labelled corpora: exact spans, seeds, grammar, quality."""

import itertools
import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from helpers import paths, synthesis
from helpers.errors import InputError
from helpers.execute import chapters
from helpers.synthesis import controls, corpus, tables
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
    assert frame["group"].nunique() == GROUPS
    whole = frame[frame["split"] == "held_out"].groupby("group")["label"]
    assert set(whole.apply(tuple)) == {synthesis.labels(name)}


@pytest.mark.parametrize("name", synthesis.CORPORA)
def test_no_matched_set_straddles_the_splits(corpora, name):
    assert (corpora[name].groupby("group")["split"].nunique() == 1).all()
    splits = corpora[name].groupby("group")["split"].first()
    assert 0.08 < (splits == "held_out").mean() < 0.22


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


def test_base64_is_what_it_says(corpora):
    import base64

    frame = corpora["formats"]
    part = frame[frame["label"] == "base64"]
    for row, factor, value, start, end in spans_of(part):
        if factor == "encoded":
            assert base64.b64decode(row.text[start:end]).decode() == value


@pytest.mark.parametrize("name", synthesis.CORPORA)
def test_shards_give_the_same_corpus_in_any_order(name):
    groups = corpus.SHARD + 40
    whole = synthesis.generate(name, groups, seed=3)
    small = synthesis.generate(name, 40, seed=3)
    assert small.to_dict("list") == whole.head(len(small)).to_dict("list")
    backwards = [corpus._shard(name, 3, shard) for shard in (1, 0)]
    rows = [row for part in reversed(backwards) for row in part]
    assert [r for r in rows if r[3] < groups] == list(
        whole.itertuples(index=False, name=None)
    )
    other = synthesis.generate(name, 40, seed=4)
    assert set(small["text"]) != set(other["text"])


def test_one_process_and_two_write_the_same_bytes(tmp_path):
    files = []
    for processes in (1, 2):
        frame = synthesis.generate("context", 600, 5, processes)
        files.append(tmp_path / f"{processes}.parquet")
        frame.to_parquet(files[-1], index=False)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_process_of_its_own_writes_the_same_bytes():
    """No hash of Python's, which is salted anew for each process."""
    code = ("from helpers import synthesis; import hashlib; "
            "texts = ''.join(synthesis.generate('syntax', 30)['spans']); "
            "print(hashlib.sha256(texts.encode()).hexdigest())")
    said = {
        subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT,
                       env={**os.environ, "PYTHONHASHSEED": seed},
                       capture_output=True, text=True).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1 and len(said.pop().strip()) == 64


def test_withheld_labels_are_in_held_out_groups_alone(corpora):
    frame = corpora["syntax"]
    withheld = frame["label"].str.startswith("ungrammatical")
    assert set(frame.loc[withheld, "split"]) == {"held_out"}
    sizes = frame.groupby("split")["label"].nunique()
    assert dict(sizes) == {"train": 2, "held_out": 4}


def test_code_switched_sentences_are_in_the_languages_they_say(corpora):
    frame = corpora["languages"]
    for group, part in frame.groupby("group"):
        texts = dict(zip(part["label"], part["text"], strict=True))
        row = part[part["label"] == "code-switched"].iloc[0]
        made = json.loads(row.factors)
        own = {made["matrix"], made["embedded"]}
        assert len(own) == 2 and "code-switched" not in own
        marks = [s for s in json.loads(row.spans)
                 if s[0] in ("matrix", "embedded")]
        covered = sorted((s, e) for _, _, s, e in marks)
        assert covered[0][0] == 0 and covered[-1][1] == len(row.text)
        for (_, end), (start, _) in itertools.pairwise(covered):
            assert not row.text[end:start].strip() and start >= end
        for factor, language, start, end in marks:
            assert language == made[factor]
            piece = row.text[start:end].strip(" .,。").lower()
            assert piece in texts[language].lower(), (group, piece)


ITALIAN = tables.parse("""
labels:
  Italian:
    template: {adjective: "{Person|subject} {verb} {object|the}."}
    person: {forms: [subject], woman: [la donna], man: [l'uomo]}
    kind: {text: {verb: {read: legge}, object: {
      forms: [gender, the], letter: [f, la lettera], book: [m, il libro]}}}
""", "italian")


def test_a_further_language_cuts_all_to_what_it_can_say():
    table = tables.read(synthesis.table_path("languages"))
    grammar = Grammar(tables.extend(table, ITALIAN), "languages.yaml")
    assert grammar.labels == (*synthesis.labels("languages"), "Italian")
    frame = synthesis.generate(grammar, 40)
    made = synthesis.factors(frame)
    assert set(made["person"]) == {"man", "woman"}
    assert set(made["kind"]) == {"text"} and set(made["verb"]) == {"read"}
    italian = set(frame.loc[frame["label"] == "Italian", "text"])
    assert italian == {
        f"{who} legge {what}." for who in ("La donna", "L'uomo")
        for what in ("la lettera", "il libro")
    }


def test_a_mistake_in_a_further_language_is_one_sentence():
    message = r"the new table:4: 'person' has 2 items"
    with pytest.raises(InputError, match=message):
        synthesis.extended("languages", """labels:
  Italian:
    template: {adjective: "{Person|subject} legge."}
    person: {forms: [subject], woman: [la donna], pilot: [il pilota]}
""")


def test_the_chapter_adds_a_language_as_written():
    """Chapter 02's cells, run as they stand: ten lines, one language more."""
    cells = [c.source for c in chapters.sources()["02-synthesis"].cells]
    table, = [c for c in cells if c.startswith("ITALIAN = ")]
    known: dict = {}
    exec(table, known)
    assert len(known["ITALIAN"].strip().splitlines()) <= 10
    frame = synthesis.generate(
        synthesis.extended("languages", known["ITALIAN"]), 30
    )
    assert set(frame.groupby("group")["label"].nunique()) == {10}
    assert frame.loc[frame["label"] == "Italian", "text"].nunique() > 5


def test_export_to_hugging_face_datasets(corpora):
    found = synthesis.to_datasets(corpora["sentiment"])
    assert set(found) == {"train", "held_out"}
    back = pd.concat([part.to_pandas() for part in found.values()])
    frame = corpora["sentiment"]
    assert sorted(back["text"]) == sorted(frame["text"])
    assert list(back.columns) == list(frame.columns)


def test_make_corpus_round_trip(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    path = synthesis.make_corpus("smoke", "languages", groups=20)
    frame = synthesis.load_corpus(path)
    made = synthesis.generate("languages", 20)
    assert frame.to_dict("list") == made.to_dict("list")
    assert "Hebrew" in (path / "README.md").read_text("utf-8")
    import datasets

    loaded = datasets.load_dataset(
        str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded["text"]) == list(frame["text"])


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


def test_statistics_of_the_controls_by_hand():
    texts = ["one two three", "one two three four", "five", "six"]
    frame = pd.DataFrame({
        "text": texts * 8, "label": ["long", "long", "short", "short"] * 8,
    })
    found = controls.statistics(frame)
    assert found["length"] == 1.0 and found["kept when matched"] == 0.0
    assert 0 < found["word pairs kept when shuffled"] < 1
    same = controls.statistics(frame.assign(text="one two"))
    assert same["length"] == 0.5 and same["kept when matched"] == 1.0
    assert same["null pair, best word"] == 0.5
