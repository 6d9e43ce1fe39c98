"""HTML of highlighted text: what is shown, escaped, and never split."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from helpers import cards


class Outline(HTMLParser):
    """Text, tooltips and balance of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tokens, self.open = "", [], []
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.open.append((tag, attrs.get("class") == "tok"))
        if attrs.get("class") == "tok":
            self.tokens.append([attrs["title"], attrs["style"], ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1][1]:
            self.tokens[-1][2] += data


def opacity(style):
    return float(re.search(r"rgba\(.*, ([\d.]+)\)", style)[1])


def test_tokens_are_shaded_by_their_activation():
    html = cards.highlight(
        "the cat sat", [(0, 3), (3, 7), (7, 11)], [0.0, 2.0, 0.5]
    )
    seen = Outline(html)
    assert seen.text == "the cat sat"
    assert [t[2] for t in seen.tokens] == [" cat", " sat"]
    assert [t[0] for t in seen.tokens] == ["2", "0.5"]
    strong, weak = (opacity(t[1]) for t in seen.tokens)
    assert strong == cards.DARKEST
    assert weak == pytest.approx(cards.DARKEST / 4, abs=0.01)
    assert "border-bottom" in seen.tokens[0][1]  # not by colour alone
    assert "border-bottom" not in seen.tokens[1][1]


def test_maximum_sets_the_scale_and_is_not_exceeded():
    html = cards.highlight("ab", [(0, 1), (1, 2)], [1.0, 9.0], maximum=2.0)
    shades = [opacity(t[1]) for t in Outline(html).tokens]
    assert shades == [pytest.approx(cards.DARKEST / 2, abs=0.01), cards.DARKEST]


def test_text_cannot_break_out():
    text = '<script>alert("1")</script> & more'
    html = cards.highlight(text, [(0, 8), (8, len(text))], [1.0, 0.0])
    assert "<script" not in html
    assert Outline(html).text == text
    card = cards.feature_card(
        "<b>", density=0.1, class_means={"<i>": 1.0}, examples=[], note="<u>"
    )
    assert not re.search("<[biu]>", card)


def test_pieces_of_a_character_become_one_token():
    """A byte-level tokenizer that has never seen Korean, Hebrew, accents."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = {
        c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "é 한국 שלום 🙂!"
    offsets = tokenizer.encode(text).offsets
    assert len(offsets) == len(text.encode())
    values = np.arange(1.0, len(offsets) + 1)
    seen = Outline(cards.highlight(text, offsets, values))
    assert seen.text.replace("␣", " ") == text and "\ufffd" not in seen.text
    assert [t[2].replace("␣", " ") for t in seen.tokens] == list(text)
    spans = cards.merge_spans(offsets, values)
    assert spans[0] == (0, 1, 2.0)  # of two bytes the larger
    assert spans[-2:] == [
        (10, 11, len(values) - 1.0),
        (11, 12, float(len(values))),
    ]


def test_special_tokens_and_gaps_are_kept_plain():
    html = cards.highlight("a b", [(0, 0), (0, 1), (2, 3)], [9.0, 1.0, 1.0])
    seen = Outline(html)
    assert seen.text == "a b" and [t[2] for t in seen.tokens] == ["a", "b"]
    cut = Outline(cards.highlight("abc", [(0, 1)], [1.0]))
    assert cut.text == "abc"  # what a context cut off is still shown


def test_white_space_can_be_seen():
    seen = Outline(cards.highlight("a\n\tb ", [(1, 2), (4, 5)], [1.0, 1.0]))
    assert seen.text == "a↵\n⇥\tb␣"
    assert "white-space: pre-wrap" in cards.highlight("", [], [])


def test_every_script_runs_its_own_way():
    html = cards.highlight("שלום", [(0, 4)], [1.0])
    assert '<p dir="auto"' in html


def test_no_activation_no_highlight():
    assert not Outline(cards.highlight("abc", [(0, 3)], [0.0])).tokens


def test_each_token_needs_an_activation():
    with pytest.raises(ValueError):
        cards.highlight("ab", [(0, 1), (1, 2)], [1.0])


def test_feature_card():
    examples = [
        cards.Example("hot day", [(0, 3), (3, 7)], [4.0, 0.0]),
        cards.Example("warm day", [(0, 4), (4, 8)], [1.0, 0.0]),
    ]
    html = cards.feature_card(
        12,
        density=0.00123,
        class_means={"positive": 2.0, "neutral": 0.5},
        examples=examples,
        note="AUROC 0.97",
    )
    seen = Outline(html)
    assert "feature 12" in seen.text and "0.12% of tokens" in seen.text
    assert "AUROC 0.97" in seen.text and 'class="feature-card"' in html
    assert re.findall(r"width: ([\d.]+)%; background", html) == [
        "100.0",
        "25.0",
    ]
    shades = [opacity(t[1]) for t in seen.tokens]
    assert shades[0] == cards.DARKEST and shades[1] < shades[0] / 3


def test_same_input_same_bytes_and_no_ids():
    def make():
        example = cards.Example("a b", [(0, 1), (1, 3)], [0.1, 0.7])
        return cards.feature_card(
            1, density=0.5, class_means={"x": 1.0}, examples=[example]
        )

    assert make() == make() and " id=" not in make()
    assert make()._repr_html_() == str(make())
    assert "0x" not in repr(make())


def test_top_token_is_whole():
    example = cards.Example(
        "a한b", [(0, 1), (1, 2), (1, 2), (2, 3)], [0.0, 1.0, 3.0, 2.0]
    )
    assert example.top_token == "한" and example.peak == 3.0
    assert cards.Example("", [], []).top_token == ""


def test_top_examples_take_one_document_of_a_set():
    maxima = np.array([[1.0], [5.0], [4.0], [0.0], [4.0]])
    groups = np.array([0, 1, 1, 2, 3])
    assert cards.top_examples(maxima, 0, 9, groups) == [1, 4, 0]
    assert cards.top_examples(maxima, 0, 2, groups) == [1, 4]


@pytest.fixture
def reader():
    """Two documents, three tokens each ("aa " "bb " "cc"), two units."""
    from helpers.features import FeatureTable

    table = FeatureTable(
        d_sae=3,
        threshold=1e-3,
        values=np.array([1.0, 2.0, 4.0, 4.0, 3.0], np.float16),
        indices=np.array([0, 1, 0, 0, 1], np.int32),
        indptr=np.array([0, 1, 2, 3, 4, 4, 5]),
        token_ids=np.zeros(6, np.uint16),
        documents=np.array([0, 1]),
        offsets=np.array([0, 3, 6]),
        char_start=np.array([0, 3, 6, 0, 3, 6], np.int32),
        char_end=np.array([3, 6, 8, 3, 6, 8], np.int32),
    )
    documents = pd.DataFrame(
        {"text": ["aa bb cc", "dd ee ff"], "label": ["x", "y"], "group": [0, 1]}
    )
    return cards.Reader(table, documents, table.document_max())


def test_reader_finds_a_units_activations_and_top_token(reader):
    example = reader.example(0, 0)
    assert example.activations == [1.0, 0.0, 4.0]
    assert example.offsets == [(0, 3), (3, 6), (6, 8)]
    assert reader.top_tokens == {0: "cc", 1: "ff"}  # unit 2 never fires
    assert cards.peak_tokens(reader.table).tolist() == [2, 5, -1]


def test_reader_makes_a_card_per_row(reader):
    rows = pd.DataFrame(
        {
            "contrast": "x vs y",
            "feature": [1, 0],
            "deflection": [-1.0, 0.0],
            "auroc": [0.0, 0.5],
        }
    )
    html = reader.cards(rows, count=2)
    seen = Outline(html)
    assert seen.text.index("feature 1") < seen.text.index("feature 0")
    assert "x vs y: deflection -1.00, AUROC 0.00" in seen.text
    assert seen.text.count("dd ee ff") == 2
    assert "33% of tokens" in seen.text  # unit 1: two tokens of six
