"""Charts of the corpora: what they are drawn from, and how they look."""

import re

import pandas as pd

from helpers.charts import corpora
from helpers.synthesis import generate


def test_marks_cover_the_spans_and_the_text_is_whole():
    frame = generate("languages", 2)
    html = corpora.annotated(frame.head(1), ["person", "time"]).data
    assert 'title="person: ' in html and 'dir="auto"' in html
    shown = re.sub("<[^>]*>", "", html)
    assert frame["text"].iloc[0] in shown


def test_separability_draws_both_detectors_and_their_limits():
    rows = pd.DataFrame({
        "corpus": "c", "contrast": ["a – b"] * 2, "word": ["x", ""],
        "detector": list(corpora.LIMITS), "auroc": [0.6, 0.9],
    })
    spec = corpora.separability(rows).to_dict()
    drawn = [row for data in spec["datasets"].values() for row in data]
    assert {row["auroc"] for row in drawn if "auroc" in row} == {0.6, 0.9}
    limits = {r["detector"]: r["limit"] for r in drawn if "limit" in r}
    assert limits == {"best word": 0.7, "bag of words": 0.95}


def test_neurons_have_a_tick_for_each_pair():
    best = pd.DataFrame({"corpus": ["c", "c", "d"], "auroc": [0.5, 0.7, 1.0],
                         "contrast": ["a", "b", "a"], "unit": [1, 2, 3]})
    spec = corpora.neurons(best).to_dict()
    drawn = [row for data in spec["datasets"].values() for row in data]
    assert sum("unit" in row for row in drawn) == 3
    low, high = corpora.TRIAL
    assert any((row.get("low"), row.get("high")) == (low, high)
               for row in drawn)
