"""Charts and annotated samples of the labelled corpora."""

import html
import itertools
import json

import altair as alt
import pandas as pd

from helpers.charts import theme

# Translucent, so that the page's own ground shows, light or dark.
TINTS = ["0,114,178", "213,94,0", "0,158,115", "204,121,167",
         "230,159,0", "86,180,233"]
TRIAL = (0.98, 1.0)  # single neurons on the trial corpus, see the log
# The most that we accept, in the corpora that should be hard.
LIMITS = {"best word": 0.7, "bag of words": 0.95}
AUROC = alt.Scale(domain=[0.5, 1])


def annotated(frame: pd.DataFrame, factors: list[str]):
    """Documents with the spans of the named factors highlighted, as HTML.

    Where spans overlap, the factor named first wins. Hovering shows the
    value; right-to-left text runs in its own direction.
    """
    from IPython.display import HTML

    tints = dict(zip(factors, TINTS, strict=False))
    key = " ".join(_mark(name, name, tints[name]) for name in tints)
    rows = "".join(
        _document(row.label, row.text, json.loads(row.spans), tints)
        for row in frame.itertuples()
    )
    return HTML(f'<div class="corpus-sample"><p>{key}</p>{rows}</div>')


def balance(frame: pd.DataFrame) -> alt.Chart:
    """Documents per label and split, one row of bars per label."""
    keys = ["corpus", "label", "split"]
    counts = frame.groupby(keys, sort=False).size().rename("documents")
    counts = counts.reset_index()
    counts["class"] = counts["corpus"] + " / " + counts["label"]
    return alt.Chart(counts).mark_bar().encode(
        x=alt.X("documents:Q", title="documents"),
        y=alt.Y("class:N", title=None, sort=None),
        color=alt.Color("split:N", title="split", sort=["train", "held_out"]),
        order=alt.Order("split:N", sort="descending"),
        tooltip=["corpus", "label", "split", "documents"],
    ).properties(width=theme.WIDTH - 190, height=alt.Step(18))


def separability(detectors: pd.DataFrame) -> alt.LayerChart:
    """AUROC of the word detectors on each contrast, beside the trial's.

    ``detectors`` has corpus, contrast, detector, word, auroc, from
    ``quality.detectors``. The band is where single neurons of the trial
    stood; the rules are the most we accept.
    """
    colour = alt.Color("detector:N", title=None, sort=list(LIMITS),
                       scale=alt.Scale(domain=list(LIMITS)))
    limits = pd.DataFrame({"detector": LIMITS.keys(), "limit": LIMITS.values()})
    lines = alt.Chart(limits).mark_rule(strokeDash=[4, 4]).encode(
        x="limit:Q", color=colour, tooltip=["detector", "limit"]
    )
    points = alt.Chart(detectors).mark_point(size=80, filled=True).encode(
        x=alt.X("auroc:Q", scale=AUROC, title="AUROC"),
        y=alt.Y("contrast:N", title=None, sort=None),
        color=colour,
        shape=alt.Shape("detector:N", title=None, sort=list(LIMITS),
                        scale=alt.Scale(domain=list(LIMITS))),
        tooltip=["corpus", "contrast", "detector", "word",
                 alt.Tooltip("auroc:Q", format=".3f")],
    )
    rows = detectors["contrast"].nunique()
    return alt.layer(_trial(), lines, points).properties(
        width=theme.WIDTH - 200, height=28 * rows
    )


def neurons(best: pd.DataFrame) -> alt.LayerChart:
    """AUROC of the best neuron of every pair of classes, corpus by corpus.

    ``best`` has corpus, contrast, unit, auroc, from ``compare.best_units``.
    """
    ticks = alt.Chart(best).mark_tick(thickness=2, size=18).encode(
        x=alt.X("auroc:Q", scale=AUROC, title="AUROC of the best neuron"),
        y=alt.Y("corpus:N", title=None, sort=None),
        tooltip=["corpus", "contrast", "unit",
                 alt.Tooltip("auroc:Q", format=".3f")],
    )
    rows = best["corpus"].nunique()
    return alt.layer(_trial(), ticks).properties(
        width=theme.WIDTH - 100, height=28 * rows
    )


def _trial() -> alt.Chart:
    """The band in which the trial's single neurons stood."""
    trial = pd.DataFrame({"low": [TRIAL[0]], "high": [TRIAL[1]],
                          "what": ["the trial's best single neuron"]})
    return alt.Chart(trial).mark_rect(
        color=theme.VERMILLION, opacity=0.35
    ).encode(x=alt.X("low:Q", scale=AUROC), x2="high:Q", tooltip="what")


def fragmentation(table: pd.DataFrame) -> alt.Chart:
    """Characters per token of each class, from ``quality.token_counts``."""
    data = table.reset_index()
    data["class"] = data["corpus"] + " / " + data["label"]
    return alt.Chart(data).mark_bar().encode(
        x=alt.X("characters per token:Q", title="characters per token"),
        y=alt.Y("class:N", title=None, sort="-x"),
        color=alt.Color("corpus:N", title=None, sort=None),
        tooltip=["class", "documents", "tokens",
                 alt.Tooltip("characters per token:Q", format=".2f"),
                 alt.Tooltip("tokens per document:Q", format=".1f")],
    ).properties(width=theme.WIDTH - 190, height=alt.Step(18))


def _document(label: str, text: str, spans: list, tints: dict) -> str:
    """One document: its label, then its text with marks."""
    parts = []
    for span, start, end in _runs(text, spans, list(tints)):
        piece = text[start:end]
        if span is None:
            parts.append(html.escape(piece))
        else:
            note = f"{span[0]}: {span[1]}"
            parts.append(_mark(piece, note, tints[span[0]]))
    return (
        f'<p><small><b>{html.escape(label)}</b></small><br>'
        '<span dir="auto" style="display:block;white-space:pre-wrap;'
        f'overflow-wrap:anywhere">{"".join(parts)}</span></p>'
    )


def _mark(text: str, note: str, tint: str) -> str:
    return (
        f'<mark class="tok" title="{html.escape(note)}" style="color:inherit;'
        f'background:rgba({tint},.3);border-radius:3px">'
        f"{html.escape(text)}</mark>"
    )


def _runs(text: str, spans: list, factors: list[str]) -> list:
    """(span or None, start, end) of each stretch; earlier factors win."""
    owner: list = [None] * len(text)
    for factor in reversed(factors):
        for span in spans:
            if span[0] == factor:
                owner[span[2] : span[3]] = [span] * (span[3] - span[2])
    stretches = itertools.groupby(range(len(text)), lambda i: id(owner[i]))
    runs = [list(places) for _, places in stretches]
    return [(owner[run[0]], run[0], run[-1] + 1) for run in runs]
