"""What corpora are like: separability, duplicates, and what text says."""

import ast
import json
import random
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from helpers import synthesis
from helpers.synthesis import quality, tables


@pytest.fixture(scope="module")
def corpora():
    return {name: synthesis.generate(name, groups) for name, groups in
            dict(sentiment=2000, subjects=2000, formats=400).items()}


def frame_of(sentences, documents=400):
    """Documents of one marked sentence each: {label: sentences}."""
    rng = random.Random(0)
    rows = []
    for label, choices in sentences.items():
        for group in range(documents):
            text = rng.choice(choices)
            spans = json.dumps([["class", label, 0, len(text)]])
            rows.append((text, "planted", label, group, "train", spans))
    names = ["text", "corpus", "label", "group", "split", "spans"]
    return pd.DataFrame(rows, columns=names)


def test_words_bound_to_a_sentence_do_not_transfer():
    """Each sentence has words of its own, which give its label away."""
    frame = frame_of({
        label: [f"{label}{i} came with {label}{i}x" for i in range(40)]
        for label in "ab"
    })
    row, = quality.bag_of_words(frame, "class").itertuples()
    assert row.auroc == pytest.approx(0.5, abs=0.02)
    assert row.scored == len(frame)
    texts = CountVectorizer().fit_transform(frame["text"])
    seen = LogisticRegression().fit(texts[::2], frame["label"][::2])
    assert seen.score(texts[1::2], frame["label"][1::2]) > 0.9


def test_a_word_of_the_label_transfers():
    frame = frame_of({
        label: [f"{word} {label}{i} came" for i in range(60)]
        for label, word in dict(a="good", b="bad").items()
    })
    assert quality.bag_of_words(frame, "class")["auroc"].min() > 0.99


def test_a_label_of_one_wording_cannot_be_scored():
    frame = frame_of({"a": ["one way"], "b": ["this way", "that way"]})
    row, = quality.bag_of_words(frame, "class").itertuples()
    assert np.isnan(row.auroc) and row.scored == 0


def test_bag_of_words_is_what_other_code_finds(monkeypatch):
    """A vocabulary of the training half, and AUROC from the rank sum."""
    monkeypatch.setattr(quality, "STRENGTHS", (1.0,))
    frame = synthesis.generate("subjects", 300)
    frame = frame[frame["label"] != "physics"].reset_index(drop=True)
    row, = quality.bag_of_words(frame, "subject").itertuples()
    half = sentence_halves(frame, "subject")
    vocabulary = {w for w, n in quality._document_counts(
        frame["text"]).items() if n > 1}
    found = []
    for train, test in ((0, 1), (1, 0)):
        fit, score = frame[half == train], frame[half == test]
        vectorizer = CountVectorizer(
            token_pattern=r"\w+|[^\w\s]", binary=True,
            vocabulary=vocabulary & set(quality.words(" ".join(fit["text"])))
        )
        model = LogisticRegression(C=1.0, max_iter=500)
        model.fit(vectorizer.fit_transform(fit["text"]),
                  fit["label"] == row.label)
        scores = model.decision_function(vectorizer.transform(score["text"]))
        wanted = (score["label"] == row.label).to_numpy()
        u = mannwhitneyu(scores[wanted], scores[~wanted]).statistic
        found.append(u / wanted.sum() / (~wanted).sum())
    assert row.auroc == pytest.approx(np.mean(found), abs=1e-3)
    assert row.scored == (half >= 0).sum()


def sentence_halves(frame, factor):
    """0 or 1 where all of a document's sentences are in one half, else -1."""
    quarters = quality._quarters(frame, factor)
    return np.select([quarters & 12 == 0, quarters & 3 == 0], [0, 1], -1)


def test_no_sentence_is_in_both_halves(corpora):
    for name, factor in dict(sentiment="polarity", subjects="subject").items():
        frame = corpora[name].head(1500)
        half = sentence_halves(frame, factor)
        seen = [
            {s for text, spans in zip(part["text"], part["spans"], strict=True)
             for s in quality.wordings(text, json.loads(spans), factor)}
            for part in (frame[half == 0], frame[half == 1])
        ]
        assert not seen[0] & seen[1]
        assert 0.5 < len(seen[0]) / len(seen[1]) < 2


def test_wordings_leave_out_what_slots_wrote():
    text = "Yes. It was an awful, very bad day."
    spans = [["kind", "x", 0, 3], ["adjective", "awful", 15, 20],
             ["phrase", "2", 22, 30], ["degree", "very", 22, 26],
             ["class", "negative", 5, 35], ["carrier", "1", 5, 35]]
    assert quality.wordings(text, spans, "class") == {
        "it was a {adjective}, {phrase} day."
    }


@pytest.mark.parametrize("name", ["sentiment", "subjects"])
def test_words_alone_do_not_tell_the_classes_apart(corpora, name):
    factor = synthesis.load_grammar(name).label_factor
    found = quality.bag_of_words(corpora[name], factor)
    assert found["auroc"].between(0.5, 0.95).all()
    assert found["scored"].min() > 500


@pytest.mark.parametrize("name", ["sentiment", "subjects"])
def test_no_single_word_tells_the_classes_apart(corpora, name):
    assert quality.separability(corpora[name])["auroc"].max() < 0.7


def test_separability_agrees_with_scikit_learn_and_scipy():
    frame = synthesis.generate("sentiment", 60)
    row = quality.separability(frame).iloc[0]
    pair = frame[frame["label"].isin([row["label"], row["other"]])]
    has = np.array([row["word"] in quality.words(t) for t in pair["text"]])
    wanted = (pair["label"] == row["label"]).to_numpy()
    area = roc_auc_score(wanted, has)
    assert row["auroc"] == pytest.approx(max(area, 1 - area))
    u = mannwhitneyu(has[wanted], has[~wanted]).statistic
    assert area == pytest.approx(u / wanted.sum() / (~wanted).sum())


def test_separability_finds_a_planted_word():
    frame = synthesis.generate("sentiment", 30)
    mark = frame["label"].map({"neutral": " zyx"}).fillna("")
    planted = frame.assign(text=frame["text"] + mark)
    found = quality.separability(planted).iloc[1]
    assert (found["word"], found["auroc"]) == ("zyx", 1.0)


def test_summary_counts_what_was_planted():
    frame = synthesis.generate("sentiment", 10)
    twice = pd.concat([frame, frame.head(1)], ignore_index=True)
    row = quality.summary(twice).loc["sentiment"]
    assert row["exact duplicates"] == pytest.approx(1 / 31)
    assert row["near duplicates"] >= 1 / 31
    assert row["documents"] == 31 and row["matched sets"] == 10
    assert row["labels"] == 3 and row["balance"] == pytest.approx(10 / 11)


def test_near_duplicates_are_sought_as_far_as_asked():
    texts = [f"number {i} of some texts that have little in common with {i}"
             for i in range(20)]
    frame = pd.DataFrame({"text": [*texts, *texts], "label": "a"})
    assert quality.near_duplicates(frame) == 0.5
    assert quality.near_duplicates(frame, 20) == 0


def test_a_set_lacks_only_labels_that_its_split_has():
    frame = synthesis.generate("sentiment", 60)
    train = frame["split"] == "train"
    kept = frame[~(train & (frame["label"] == "neutral"))]
    assert quality.summary(kept)["complete sets"].item() == 1
    broken = kept.drop(kept.index[kept["split"] == "train"][0])
    sets = kept["group"].nunique()
    found = quality.summary(broken)["complete sets"].item()
    assert found == pytest.approx(1 - 1 / sets)


def test_every_term_has_a_definition_and_statements():
    table = tables.read(synthesis.table_path("subjects"))
    for subject, rules in table["labels"].items():
        for term in table["scopes"]["term"]:
            said = rules["term"][term]
            assert len(said["statement"]) >= 6, (subject, term)
            assert len(said["definition"]) >= 1, (subject, term)
            lines = [*said["statement"], *said["definition"]]
            assert len(set(lines)) == len(lines)
            assert all("{term}" in line for line in lines)


def test_definitions_are_marked_and_carry_the_subject(corpora):
    found = 0
    for row in corpora["subjects"].head(600).itertuples():
        spans = json.loads(row.spans)
        places = [s[2:] for s in spans if s[0] == "definition"]
        assert bool(places) == ("definition" in json.loads(row.factors))
        carried = [s[2:] for s in spans if s[0] == "subject"]
        assert all(place in carried for place in places)
        found += len(places)
    assert found > 50


def test_worked_lines_compute_what_they_claim(corpora):
    """Lines of all three subjects, checked by their text alone."""
    texts = "\n".join(corpora["subjects"]["text"])
    checks = [
        (r"gas that fills (\d+) L at (\d+) kPa fills (\d+) L at (\d+) kPa",
         lambda v, p, w, q: v * p == w * q),
        (r"gas of (\d+) L at (\d+) kPa is pressed into (\d+) L, so at equal "
         r"temperature the pressure is (\d+) kPa",
         lambda v, p, w, q: v * p == w * q),
        (r"[Tt]he mean of the \w+ (\d+), (\d+) and (\d+) \w+ is (\d+)",
         lambda a, b, c, d: a + b + c == 3 * d),
        (r"in the ratio (\d+) to (\d+): (\d+) \D+(\d+)",
         lambda p, q, a, b: a * q == b * p),
        (r"\((\d+), (\d+)\) N and the path \((\d+), (\d+)\) m is the work, "
         r"(\d+) J", lambda a, b, c, d, e: a * c + b * d == e),
        (r"alving (\d+) g every (\d+) s leaves (\d+) g after (\d+) s",
         lambda a, h, b, t: a / 2 ** (t / h) == b),
        (r"graph of (\d+) atoms, each joined to (\d+) others, has (\d+) edges",
         lambda n, d, e: n * d == 2 * e),
        (r"ixing (\d+) g of water at (\d+) degrees with (\d+) g at (\d+) "
         r"degrees gives (\d+)",
         lambda a, x, b, y, z: a * x + b * y == (a + b) * z),
        (r"components (\d+) N and (\d+) N has the magnitude (\d+) N",
         lambda a, b, c: a * a + b * b == c * c),
        (r"Of (\d+) kg of limestone, (\d+) percent or (\d+) kg",
         lambda m, p, s: m * p == 100 * s),
        (r"(\d+) formula units of \w+ oxide there are (\d+) \w+ and (\d+)",
         lambda n, a, o: 2 * n == a and 3 * n == o),
    ]
    for pattern, holds in checks:
        found = re.findall(pattern, texts)
        assert len(found) > 5, pattern
        assert all(holds(*map(int, numbers)) for numbers in found), pattern


@pytest.mark.parametrize("label, size", [
    ("DNA noise", 4), ("base64 noise", 64), ("hexadecimal", 16)
])
def test_noise_is_even_over_its_alphabet(corpora, label, size):
    frame = corpora["formats"]
    drawn, frames = [], set()
    for row in frame[frame["label"] == label].itertuples():
        (_, value, start, end), = [
            s for s in json.loads(row.spans) if s[0] == "random"
        ]
        assert value == str(size)
        drawn.append(row.text[start:end])
        frames.add(row.text[:start] + row.text[end:])
    assert len(frames) == 1  # all that varies is the noise
    assert len({len(text) for text in drawn}) == 1
    assert_even("".join(drawn), size)


def assert_even(drawn, size):
    """Pearson's statistic within five deviations of its mean."""
    counts = pd.Series(list(drawn)).value_counts()
    assert len(counts) == size
    expected = len(drawn) / size
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < size - 1 + 5 * (2 * (size - 1)) ** 0.5


def test_reading_frames_start_and_stop_as_genes_do(corpora):
    frame = corpora["formats"]
    drawn = []
    for row in frame[frame["label"] == "DNA"].itertuples():
        spans = {s[0]: s for s in json.loads(row.spans)}
        _, _, start, end = spans["reading_frame"]
        read = row.text[start:end]
        codons = [read[i : i + 3] for i in range(0, len(read), 3)]
        assert spans["start"][2:] == [start, start + 3]
        assert spans["stop"][2:] == [end - 3, end]
        assert codons[0] == spans["start"][1] == "ATG"
        assert codons[-1] == spans["stop"][1] in ("TAA", "TAG", "TGA")
        assert not {"TAA", "TAG", "TGA"} & set(codons[:-1])
        assert spans["codons"][1] == "61" and "random" not in spans
        assert spans["spacer"][1] == "16"
        drawn += codons[1:-1]
    assert_even(drawn, 61)


def test_promoter_boxes_stand_where_their_spans_say(corpora):
    frame = corpora["formats"]
    boxes = {"upstream_box": "TTGACA", "pribnow_box": "TATAAT"}
    found = 0
    for row in frame[frame["label"] == "DNA"].itertuples():
        spans = {s[0]: s[2:] for s in json.loads(row.spans)}
        assert ("tata_box" in spans) != ("pribnow_box" in spans)
        if "pribnow_box" in spans:
            for name, box in boxes.items():
                start, end = spans[name]
                assert row.text[start:end] == box
            gap = spans["pribnow_box"][0] - spans["upstream_box"][1]
            assert gap == 16 and spans["pribnow_box"][1] < spans["start"][0]
            found += 1
    assert found > 50


@pytest.mark.filterwarnings("error")
def test_python_and_json_parse(corpora):
    frame = corpora["formats"]
    kinds = set()
    for text in frame.loc[frame["label"] == "Python", "text"]:
        kinds |= {type(node) for node in ast.walk(ast.parse(text))}
    assert {ast.FunctionDef, ast.For, ast.ClassDef, ast.ListComp} <= kinds
    for text in frame.loc[frame["label"] == "JSON", "text"]:
        json.loads(text)


def test_few_documents_repeat(corpora):
    for name, frame in corpora.items():
        row = quality.summary(frame.head(1200)).loc[name]
        assert row["exact duplicates"] < 0.01, name
        assert row["near duplicates"] < 0.05, name


def test_measures_of_each_corpus_are_those_of_one_after_the_other(corpora):
    frames = [corpora[name].head(600) for name in ("sentiment", "formats")]
    found = quality.of_each(quality.detectors, frames)
    for frame, table in zip(frames, found, strict=True):
        pd.testing.assert_frame_equal(table, quality.detectors(frame))
    assert [set(table["corpus"]) for table in found] == [
        {"sentiment"}, {"formats"}
    ]
    single = found[0][found[0]["detector"] == "best word"]
    assert list(single["auroc"]) == list(
        quality.separability(frames[0])["auroc"]
    )
