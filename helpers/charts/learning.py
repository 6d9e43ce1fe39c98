"""Charts of how the specimens learn, and of what they know."""

import altair as alt
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, WIDTH

NATURAL = "natural text"
MARKS = ["transformer A", "bigram", "unigram", "entropy"]


def learning_curves(learning: pd.DataFrame) -> alt.Chart:
    """Held-out loss against tokens seen, a line per text class.

    ``learning``: tokens, text_class, loss (nats per token), as
    ``load_learning`` gives it; the training loss is left out. Colour is the
    corpus; a click in the legend leaves only that corpus in colour.
    """
    frame = learning[learning.text_class != "training"].copy()
    frame["corpus"] = _corpus(frame.text_class)
    frame["millions"] = (frame.tokens / 1e6).round(4)
    frame = frame.drop(columns="tokens").round({"loss": 4})
    names = [NATURAL, *sorted(set(frame.corpus) - {NATURAL})]
    chosen = alt.selection_point(
        name="chosen", fields=["corpus"], bind="legend"
    )
    colour = alt.Color(
        "corpus:N",
        title="corpus (click one to single it out)",
        scale=alt.Scale(domain=names, range=COLOURS[: len(names)]),
    )
    return (
        alt.Chart(frame)
        .mark_line(point=alt.OverlayMarkDef(size=25))
        .encode(
            x=alt.X(
                "millions:Q",
                title="tokens seen (millions)",
                scale=alt.Scale(type="log", nice=False),
            ),
            y=alt.Y(
                "loss:Q",
                title="held-out loss (nats per token)",
                scale=alt.Scale(zero=False),
            ),
            color=colour,
            detail="text_class:N",
            opacity=alt.condition(chosen, alt.value(0.85), alt.value(0.08)),
            tooltip=["text_class:N", "millions:Q", "loss:Q"],
        )
        .add_params(chosen)
        .properties(width=WIDTH, height=320)
    )


def class_losses(table: pd.DataFrame) -> alt.LayerChart:
    """The loss of each text class as a dot per model.

    ``table``: index the text class, columns among ``MARKS`` in nats per
    token; a missing value has no dot.
    """
    marks = [name for name in MARKS if name in table]
    order = list(table.sort_values(marks[0]).index)
    long = (
        table[marks]
        .rename_axis("text_class")
        .reset_index()
        .melt("text_class", var_name="model", value_name="loss")
        .dropna()
        .round({"loss": 4})
    )
    colours = [COLOURS[0], COLOURS[1], GREY, COLOURS[2]]
    scale = alt.Scale(domain=marks, range=colours[: len(marks)])
    rows = alt.Y("text_class:N", title=None, sort=order)
    base = alt.Chart(long).properties(
        width=WIDTH - 190, height=alt.Step(18)
    )
    lines = base.mark_rule(opacity=0.25).encode(
        x="min(loss):Q", x2="max(loss):Q", y=rows
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=alt.X("loss:Q", title="held-out loss (nats per token)"),
        y=rows,
        color=alt.Color("model:N", title=None, scale=scale),
        shape=alt.Shape("model:N", title=None, scale=alt.Scale(domain=marks)),
        tooltip=["text_class:N", "model:N", "loss:Q"],
    )
    return lines + dots


def _corpus(text_class: pd.Series) -> pd.Series:
    """``languages`` of ``languages/Korean``; prose and code are natural."""
    synthetic = text_class.str.contains("/")
    return text_class.str.split("/").str[0].where(synthetic, NATURAL)
