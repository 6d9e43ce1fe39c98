"""Charts of the benchmark: how fast the loops are."""

import altair as alt
import pandas as pd

from helpers.bench_results import VERSIONS
from helpers.charts.theme import BLUE, GREY, SKY, VERMILLION, WIDTH

DOTS = {
    VERSIONS["ours"]: (BLUE, "circle"),
    VERSIONS["plain"]: (SKY, "square"),
    VERSIONS["peer"]: (VERMILLION, "diamond"),
}
FLOOR = VERSIONS["floor"]


def speed_dots(speeds: pd.DataFrame) -> alt.LayerChart:
    """Tokens a second on a log scale: a line a row, a dot a version.

    ``speeds``: what, version, tokens_per_second (``bench_results.speeds``).
    A grey tick is the floor: a step's dense matrix products alone.
    """
    frame = speeds.round({"tokens_per_second": 0})
    order = list(dict.fromkeys(frame["what"]))
    rows = alt.Y("what:N", title=None, sort=order)
    x = alt.X(
        "tokens_per_second:Q",
        title="training tokens a second (grey tick: dense products alone)",
        scale=alt.Scale(type="log", nice=True),
        axis=alt.Axis(format="~s"),
    )
    names = [name for name in DOTS if name in set(frame["version"])]
    colours, shapes = zip(*(DOTS[name] for name in names), strict=True)
    rate = alt.Tooltip("tokens_per_second:Q", format=",")
    tip = ["what:N", "version:N", rate]
    base = alt.Chart(frame).properties(
        width=WIDTH - 170, height=alt.Step(22)
    )
    within = base.transform_filter(alt.datum.version != FLOOR)
    floor = base.transform_filter(alt.datum.version == FLOOR)
    lines = within.mark_rule(opacity=0.25).encode(
        x=alt.X("min(tokens_per_second):Q"),
        x2="max(tokens_per_second):Q",
        y=rows,
    )
    ticks = floor.mark_tick(color=GREY, thickness=3, height=16).encode(
        x=x, y=rows, tooltip=tip
    )
    dots = within.mark_point(filled=True, size=75, opacity=1).encode(
        x=x,
        y=rows,
        color=alt.Color(
            "version:N",
            title=None,
            scale=alt.Scale(domain=names, range=list(colours)),
        ),
        shape=alt.Shape(
            "version:N",
            title=None,
            scale=alt.Scale(domain=names, range=list(shapes)),
        ),
        tooltip=tip,
    )
    return lines + ticks + dots
