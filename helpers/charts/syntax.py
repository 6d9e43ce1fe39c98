"""Charts of minimal pairs: where a difference shows, who reads a number."""

import altair as alt
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, HEIGHT, INK, WIDTH

DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3], [10, 4]]
SHAPES = ["circle", "diamond", "square", "triangle-up", "cross", "stroke"]


def carried(curves: pd.DataFrame):
    """How far the twins' codes are apart, by distance from the difference.

    ``curves``: contrast, offset, difference, low, high, pairs. A line is
    broken where a distance is missing.
    """
    fields = ["difference", "low", "high"]
    frame = curves[["contrast", "offset", "pairs", *fields]].round(
        {name: 4 for name in fields}
    )
    gaps = frame.groupby("contrast")["offset"].diff().ne(1)
    frame = frame.assign(run=gaps.cumsum())
    names = list(dict.fromkeys(frame["contrast"]))
    base = alt.Chart(frame).encode(
        x=alt.X(
            "offset:Q",
            title="tokens after the first one that differs",
            axis=alt.Axis(tickMinStep=1, format="d"),
        ),
        detail="run:N",
    )
    bands = base.mark_area(opacity=0.25).encode(
        y=alt.Y("low:Q", title="share of the code that differs"),
        y2="high:Q",
        color=_colour("contrast", names).legend(None),
    )
    lines = base.mark_line(point={"size": 25}).encode(
        y=alt.Y("difference:Q", scale=alt.Scale(domain=[0, 1], clamp=True)),
        color=_colour("contrast", names),
        strokeDash=_dash("contrast", names).legend(None),
        tooltip=["contrast:N", "offset:Q", "pairs:Q"]
        + [alt.Tooltip(f"{name}:Q", format=".3f") for name in fields],
    )
    start = alt.Chart().mark_rule(strokeDash=[4, 4]).encode(x=alt.datum(0))
    chart = alt.layer(bands, start, lines).resolve_legend(color="independent")
    return chart.properties(width=WIDTH, height=HEIGHT)


def by_nouns(frame: pd.DataFrame, value: str, who: str, title: str):
    """A score against the nouns between subject and verb.

    ``frame``: ``who`` (the name of a line), kind, nouns, ``value``, low and
    high. Nouns of the other number than the subject are drawn to the left
    of 0, nouns of the same number to the right. The rule is chance.
    """
    fields = [value, "low", "high"]
    sign = frame["kind"].map({"opposite": -1, "none": 0, "same": 1})
    frame = frame[[who, "kind", "nouns", *fields]].assign(
        at=frame["nouns"] * sign
    )
    frame = frame.round({name: 4 for name in fields})
    names = list(dict.fromkeys(frame[who]))
    label = "datum.value < 0 ? -datum.value + ' other' : "
    label += "datum.value > 0 ? datum.value + ' same' : 'none'"
    base = alt.Chart(frame).encode(
        x=alt.X(
            "at:Q",
            title="nouns between subject and verb, by their number",
            axis=alt.Axis(tickMinStep=1, labelExpr=label),
            scale=alt.Scale(padding=12),
        ),
        color=_colour(who, names),
    )
    spans = base.mark_rule(strokeWidth=1.5, opacity=0.8).encode(
        y=alt.Y("low:Q", title=title, scale=alt.Scale(domain=[0, 1])),
        y2="high:Q",
    )
    lines = base.mark_line(strokeWidth=1.5).encode(
        y=f"{value}:Q", strokeDash=_dash(who, names).legend(None)
    )
    marks = base.mark_point(size=45, opacity=1).encode(
        y=f"{value}:Q",
        shape=alt.Shape(
            f"{who}:N",
            title=None,
            scale=alt.Scale(domain=names, range=SHAPES[: len(names)]),
        ),
        tooltip=[f"{who}:N", "kind:N", "nouns:Q"]
        + [alt.Tooltip(f"{name}:Q", format=".3f") for name in fields],
    )
    chance = alt.Chart().mark_rule(strokeDash=[4, 4]).encode(y=alt.datum(0.5))
    return alt.layer(chance, spans, lines, marks).properties(
        width=WIDTH, height=HEIGHT
    )


def phenomena(frame: pd.DataFrame):
    """Accuracy on each phenomenon, a mark a model, best of the first on top.

    ``frame``: phenomenon, model, accuracy, low, high, pairs.
    """
    fields = ["accuracy", "low", "high"]
    frame = frame[["phenomenon", "model", "pairs", *fields]].round(
        {name: 4 for name in fields}
    )
    models = list(dict.fromkeys(frame["model"]))
    first = frame[frame["model"] == models[0]]
    order = first.sort_values("accuracy", ascending=False, kind="stable")
    base = alt.Chart(frame).encode(
        y=alt.Y(
            "phenomenon:N",
            sort=list(order["phenomenon"]),
            title=None,
            axis=alt.Axis(labelLimit=190, grid=True),
        ),
        yOffset=alt.YOffset("model:N", sort=models),
        color=_colour("model", models),
    )
    spans = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X(
            "low:Q",
            title="pairs in which the right sentence is the likelier one",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(format="%", tickCount=5),
        ),
        x2="high:Q",
    )
    marks = base.mark_point(size=40, opacity=1).encode(
        x="accuracy:Q",
        shape=alt.Shape(
            "model:N",
            title=None,
            scale=alt.Scale(domain=models, range=SHAPES[: len(models)]),
        ),
        tooltip=["phenomenon:N", "model:N", "pairs:Q"]
        + [alt.Tooltip(f"{name}:Q", format=".0%") for name in fields],
    )
    chance = alt.Chart().mark_rule(color=INK, strokeDash=[4, 4])
    step = alt.Step(8 + 5 * len(models), **{"for": "position"})
    return alt.layer(chance.encode(x=alt.datum(0.5)), spans, marks).properties(
        width=WIDTH - 170, height=step
    )


def _colour(field: str, names: list) -> alt.Color:
    """The house colours in order; what comes after them is grey."""
    colours = (COLOURS[:6] + [GREY] * len(names))[: len(names)]
    scale = alt.Scale(domain=names, range=colours)
    return alt.Color(
        f"{field}:N", title=None, scale=scale, legend=alt.Legend(columns=3)
    )


def _dash(field: str, names: list) -> alt.StrokeDash:
    """A pattern of its own for each line: colour is never alone."""
    dashes = (DASHES * len(names))[: len(names)]
    scale = alt.Scale(domain=names, range=dashes)
    return alt.StrokeDash(f"{field}:N", title=None, scale=scale)
