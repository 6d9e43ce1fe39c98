"""Numbers that prose quotes: what is stored is what the book shows."""

import math

import pandas as pd
import pytest

from helpers import report
from helpers.execute import results


@pytest.fixture
def shown(monkeypatch):
    """What the chapter displayed: (data, metadata) pairs."""
    seen = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda data, raw, metadata: seen.append((data, metadata)),
    )
    return seen


def test_number_is_stored_for_glue_and_results(shown):
    import nbformat

    report.number("lm_loss", 2.98765, ".2f", rel=0.02)
    (data, metadata), = shown
    output = nbformat.v4.new_output("display_data", data, metadata=metadata)
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert results.headlines(notebook) == {
        "lm_loss": {
            "value": 2.98765, "relative_tolerance": 0.02, "shown": "2.99"
        }
    }


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_number_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="lm_loss"):
        report.number("lm_loss", value)


def test_a_number_that_may_be_missing_says_so(shown):
    report.number("low", math.nan, missing="unknown")
    report.number("high", 0.5, missing="unknown")
    (low, none), (high, headline) = shown
    assert low == {report.PREFIX + "text/plain": "'unknown'"}
    assert high == {report.PREFIX + "text/plain": "'0.50'"}
    assert "headline" not in none and "headline" in headline


def test_text_figures_and_tables_are_no_headline_numbers(shown):
    import altair as alt

    report.text("word", "holds")
    report.figure("figure", alt.Chart().mark_point())
    report.table("table", pd.DataFrame({"loss": [2.5]}))
    (word, one), (figure, two), (table, three) = shown
    assert word == {report.PREFIX + "text/plain": "'holds'"}
    for bundle in (figure, table):
        assert all(key.startswith(report.PREFIX) for key in bundle)
    assert "<td>2.5</td>" in table[report.PREFIX + "text/html"]
    assert not any("headline" in meta for meta in (one, two, three))


@pytest.mark.parametrize(
    "found, agrees", [(1.0, True), (1.05, True), (1.06, False), (0.94, False)]
)
def test_agreement_is_within_the_published_tolerance(found, agrees):
    known = {"value": 1.0, "relative_tolerance": 0.05}
    assert results.agrees({"value": found}, known) is agrees
