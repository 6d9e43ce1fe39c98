"""Charts of corpus comparisons: histograms, scatter, bars, overlaps.

All of them take the tidy tables of ``helpers.compare`` and count or thin
out in pandas first, so that a chart's specification stays small however
many features there are, and no mark hides another.
"""

from collections.abc import Mapping

import altair as alt
import numpy as np
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, HEIGHT, INK, WIDTH

FLOOR = 0.7  # where bars of a log count begin: below 1, above nothing
AXIS = "deflection (mean of maxima, class − control)"
LISTED = 10  # features named below the scatter


def histogram_counts(
    table: pd.DataFrame, null: pd.DataFrame | None = None, bins: int = 61
) -> pd.DataFrame:
    """Deflections counted in the same bins for every contrast.

    -> contrast, kind ("contrast" or "null pair"), start, end, features
    (the count); empty bins are left out, for a log scale has no zero. The
    bins are symmetric about 0, which lies in the middle of one (odd
    ``bins``).
    """
    parts = {"contrast": table, "null pair": null}
    given = {k: v for k, v in parts.items() if v is not None and len(v)}
    reach = max(
        (float(v["deflection"].abs().max()) for v in given.values()),
        default=0.0,
    )
    reach = (reach or 1.0) * 1.001
    edges = np.linspace(-reach, reach, bins + 1)
    counted = [
        _count(name, kind, part["deflection"], edges)
        for kind, whole in given.items()
        for name, part in whole.groupby("contrast", sort=False)
    ]
    return pd.concat(counted, ignore_index=True)


def _count(contrast, kind, values, edges) -> pd.DataFrame:
    count, _ = np.histogram(values, edges)
    frame = pd.DataFrame(
        {
            "contrast": contrast,
            "kind": kind,
            "start": edges[:-1].round(5),
            "end": edges[1:].round(5),
            "features": count,
            "floor": FLOOR,
        }
    )
    return frame[count > 0]


def outline_path(counts: pd.DataFrame) -> pd.DataFrame:
    """The null pair's histogram as one path: contrast, x, y, step.

    The path runs along the tops of its bins and falls to the floor where a
    bin is empty.
    """
    null = counts[counts["kind"] == "null pair"]
    parts = [
        _path(name, part) for name, part in null.groupby("contrast", sort=False)
    ]
    return pd.concat(parts or [_path("", null)], ignore_index=True)


def _path(contrast, bins) -> pd.DataFrame:
    x, y, reached = [], [], None
    for start, end, count in bins[["start", "end", "features"]].to_numpy():
        if reached is not None and start > reached:
            x += [reached, start]
            y += [FLOOR, FLOOR]
        elif reached is None:
            x, y = [start], [FLOOR]
        x += [start, end]
        y += [count, count]
        reached = end
    if reached is not None:
        x.append(reached)
        y.append(FLOOR)
    return pd.DataFrame(
        {"contrast": contrast, "x": x, "y": y, "step": range(len(x))}
    )


def histogram(
    table: pd.DataFrame,
    null: pd.DataFrame | None = None,
    *,
    bins: int = 61,
    unit: str = "features",
):
    """The poster's figure: deflections of all live features, log counts.

    One panel a contrast (two columns when there are more than four); the
    null pair of the contrast's control is an outline.
    """
    counts = histogram_counts(table, null, bins)
    names = list(dict.fromkeys(counts["contrast"]))
    columns = 1 if len(names) <= 4 else 2
    panels = [
        _panel(counts, name, unit, place >= len(names) - columns).properties(
            width=WIDTH // columns - 25 * (columns - 1),
            height=110 if len(names) > 1 else HEIGHT,
            title=alt.Title(name, fontSize=13, fontWeight="normal", offset=4),
        )
        for place, name in enumerate(names)
    ]
    return alt.concat(*panels, columns=columns, spacing=12).resolve_scale(
        x="shared", y="shared"
    )


def _panel(counts, name, unit, lowest):
    part = counts[counts["contrast"] == name]
    reach = max(-counts["start"].min(), counts["end"].max())
    x = {
        "title": AXIS if lowest else None,
        "scale": alt.Scale(domain=[-reach, reach]),
    }
    y = alt.Y(
        "features:Q",
        title=f"live {unit}",
        scale=alt.Scale(type="log", domainMin=FLOOR, nice=False),
        axis=alt.Axis(values=[1, 10, 100, 1000, 10_000], format="~s"),
    )
    bars = (
        alt.Chart(part[part["kind"] == "contrast"])
        .mark_rect(color=COLOURS[0], opacity=0.9)
        .encode(
            x=alt.X("start:Q", axis=alt.Axis(tickCount=9), **x),
            x2="end:Q",
            y=y,
            y2="floor:Q",
            tooltip=[
                alt.Tooltip("start:Q", title="from", format=".3f"),
                alt.Tooltip("end:Q", title="to", format=".3f"),
                alt.Tooltip("features:Q", title=unit),
            ],
        )
    )
    outline = (
        alt.Chart(outline_path(part))
        .mark_line(color=INK, opacity=0.9, strokeWidth=1.3)
        .encode(x=alt.X("x:Q", **x), y="y:Q", order="step:Q")
    )
    return alt.layer(bars, outline)


def scatter(
    table: pd.DataFrame,
    tokens: Mapping[int, str] | None = None,
    *,
    shown: int = 150,
    unit: str = "feature",
):
    """Deflection against AUROC; a brush lists what it covers.

    The ``shown`` most extreme units of each contrast are points with a
    tooltip, all others a grey density. ``tokens`` maps a unit to its top
    token. With several contrasts a menu chooses one.
    """
    frame = _named(table, tokens)
    points, rest = _thinned(frame, shown, (frame["y"] - 0.5).abs())
    return _explorer(points, rest, _axes(table), _tooltips(unit), unit)


def volcano(
    table: pd.DataFrame,
    tokens: Mapping[int, str] | None = None,
    *,
    shown: int = 150,
    unit: str = "feature",
):
    """Effect against significance; a brush lists what it covers.

    ``table``: what ``compare.paired`` returns. Sideways the standardised
    difference within pairs, upwards -log10 of the p-value after Benjamini
    and Hochberg; the line is the level of 0.05. Otherwise as ``scatter``.
    """
    frame = _paired(table, tokens)
    points, rest = _thinned(frame, shown, frame["y"], VOLCANO)
    reach = 1.05 * float(frame["x"].abs().max() or 1.0)
    axes = {
        "x": alt.X(
            "x:Q",
            title="difference within pairs (in standard deviations)",
            scale=alt.Scale(domain=[-reach, reach], nice=False),
        ),
        "y": alt.Y("y:Q", title="\u2212log10 q (false discovery rate)"),
    }
    tips = _tooltips(unit)[:2] + [
        alt.Tooltip("x:Q", title="standardised difference", format="+.2f"),
        alt.Tooltip("difference:Q", format="+.3f"),
        alt.Tooltip("higher:Q", title="higher in", format=".0%"),
        alt.Tooltip("lower:Q", title="lower in", format=".0%"),
        alt.Tooltip("y:Q", title="\u2212log10 q", format=".2f"),
    ]
    return _explorer(
        points, rest, axes, tips, unit, PAIRED, level=-np.log10(0.05)
    )


def _paired(table, tokens) -> pd.DataFrame:
    """x, y and top tokens of a paired table, without undefined effects."""
    frame = table[np.isfinite(table["d_z"])]
    tokens = tokens or {}
    return frame.assign(
        token=[shorten(tokens.get(int(f), "")) for f in frame["feature"]],
        x=frame["d_z"].round(4),
        y=(-np.log10(frame["q"])).round(4) + 0.0,
    ).round({"difference": 4, "higher": 4, "lower": 4})


def _explorer(points, rest, axes, tips, unit, listed=None, level=None):
    """Points over a density, a menu of contrasts, a brush and its list."""
    names = list(dict.fromkeys(pd.concat([points, rest])["contrast"]))
    bind = alt.binding_select(options=names, name="contrast ")
    choice = alt.param(
        name="chosen",
        value=names[0],
        **({"bind": bind} if len(names) > 1 else {}),
    )
    brush = alt.selection_interval(name="brush")
    layers = [_cloud(rest, axes, unit), _dots(points, axes, brush, tips)]
    if level is not None:
        rule = alt.Chart().mark_rule(strokeDash=[4, 4])
        layers.append(rule.encode(y=alt.datum(float(level))))
    return alt.vconcat(
        alt.layer(*layers).properties(width=WIDTH, height=HEIGHT),
        _listing(points, brush, unit, listed or DEFLECTED),
    ).add_params(choice)


CHOSEN = "datum.contrast == chosen"  # what the menu shows


def _cloud(rest, axes, unit):
    """All that is not shown as a point, as a grey density."""
    shade = alt.Opacity(
        "count:Q",
        scale=alt.Scale(type="log", range=[0.15, 0.7]),
        legend=None,
    )
    return (
        alt.Chart(rest)
        .mark_rect(color=GREY)
        .transform_filter(CHOSEN)
        .encode(
            x=axes["x"],
            x2="x2:Q",
            y=axes["y"],
            y2="y2:Q",
            opacity=shade,
            tooltip=[alt.Tooltip("count:Q", title=f"{unit}s here")],
        )
    )


def _dots(points, axes, brush, tips):
    colour = alt.when(brush).then(alt.value(COLOURS[0]))
    return (
        alt.Chart(points)
        .mark_circle(size=45, opacity=0.9)
        .transform_filter(CHOSEN)
        .encode(
            x=axes["x"],
            y=axes["y"],
            color=colour.otherwise(alt.value(GREY)),
            tooltip=tips,
        )
        .add_params(brush)
    )


def _named(table, tokens) -> pd.DataFrame:
    tokens = tokens or {}
    frame = table.assign(
        token=[shorten(tokens.get(int(f), "")) for f in table["feature"]],
        x=table["deflection"].round(4),
        y=table["auroc"].round(4),
    )
    return frame.round({"cohens_d": 3, "mean_treatment": 4, "mean_control": 4})


KEPT = (
    "contrast feature token x y cohens_d mean_treatment mean_control"
).split()
VOLCANO = "contrast feature token x y difference higher lower".split()


def _thinned(
    frame, shown, height, kept=KEPT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The points extreme in x or ``height``, and the others in a grid."""
    by_rank = height.groupby(frame["contrast"])
    by_size = frame["x"].abs().groupby(frame["contrast"])
    extreme = (by_rank.rank(ascending=False) <= shown / 2) | (
        by_size.rank(ascending=False) <= shown / 2
    )
    points = frame.loc[extreme, kept]
    rest = frame.loc[~extreme, ["contrast", "x", "y"]]
    if not len(rest):  # an empty chart still needs its columns
        rest = frame.loc[:, ["contrast", "x", "y"]].head(0)
    top = max(float(frame["y"].max()), 1.0)
    return points, _grid(rest, frame["x"].abs().max() or 1.0, top)


def _grid(rest, reach, top, cells=40) -> pd.DataFrame:
    width, height = 2 * reach / cells, top / cells
    column = np.floor(rest["x"] / width).astype(int)
    row = np.floor(rest["y"] / height).astype(int)
    counted = (
        pd.DataFrame({"contrast": rest["contrast"], "i": column, "j": row})
        .groupby(["contrast", "i", "j"], sort=True)
        .size()
        .rename("count")
        .reset_index()
    )
    return pd.DataFrame(
        {
            "contrast": counted["contrast"],
            "x": (counted["i"] * width).round(4),
            "x2": ((counted["i"] + 1) * width).round(4),
            "y": (counted["j"] * height).round(4),
            "y2": ((counted["j"] + 1) * height).round(4),
            "count": counted["count"],
        }
    )


def _axes(table) -> dict:
    reach = float(table["deflection"].abs().max() or 1.0) * 1.05
    return {
        "x": alt.X(
            "x:Q",
            title=AXIS,
            scale=alt.Scale(domain=[-reach, reach], nice=False),
        ),
        "y": alt.Y(
            "y:Q",
            title="AUROC (0.5: does not tell)",
            scale=alt.Scale(domain=[0, 1]),
        ),
    }


def _tooltips(unit) -> list:
    return [
        alt.Tooltip("feature:N", title=unit),
        alt.Tooltip("token:N", title="top token"),
        alt.Tooltip("x:Q", title="deflection", format=".3f"),
        alt.Tooltip("y:Q", title="AUROC", format=".3f"),
        alt.Tooltip("cohens_d:Q", title="Cohen's d", format=".2f"),
        alt.Tooltip("mean_treatment:Q", title="class mean", format=".3f"),
        alt.Tooltip("mean_control:Q", title="control mean", format=".3f"),
    ]


COLUMNS = {"name": 0, "deflects": 120, "ranks": 260, "top": 380}  # px
DEFLECTED = {
    "deflects": "'deflection ' + format(datum.x, '+.3f')",
    "ranks": "'AUROC ' + format(datum.y, '.3f')",
}
PAIRED = {
    "deflects": "'difference ' + format(datum.difference, '+.3f')",
    "ranks": "'in pairs ' + format(datum.x, '+.2f')",
}


def _listing(points, brush, unit, listed):
    """The brushed points of largest deflection, as a small table."""
    ranked = (
        alt.Chart(points)
        .transform_filter(CHOSEN)
        .transform_filter(brush)
        .transform_calculate(
            size="abs(datum.x)",
            name=f"'{unit} ' + datum.feature",
            top="datum.token",
            **listed,
        )
        .transform_window(
            rank="row_number()", sort=[alt.SortField("size", "descending")]
        )
        .transform_filter(f"datum.rank <= {LISTED}")
    )
    rows = alt.Y(
        "rank:O",
        axis=None,
        scale=alt.Scale(domain=list(range(1, LISTED + 1))),
    )
    columns = [
        ranked.mark_text(align="left").encode(
            x=alt.value(at), y=rows, text=f"{name}:N"
        )
        for name, at in COLUMNS.items()
    ]
    return alt.layer(*columns).properties(
        width=WIDTH,
        height=17 * LISTED,
        title=alt.Title("Largest in the brush", fontSize=13),
    )


def top_bars(
    table: pd.DataFrame,
    tokens: Mapping[int, str] | None = None,
    *,
    count: int = 10,
    unit: str = "feature",
):
    """The largest deflections of each contrast, named by their top token."""
    frame = _named(table, tokens)
    order = frame["x"].abs().sort_values(ascending=False, kind="stable").index
    top = frame.loc[order].groupby("contrast").head(count)[KEPT]
    top = top.assign(
        name=[
            f"{f}  {t}"
            for f, t in zip(top["feature"], top["token"], strict=True)
        ]
    )
    names = list(dict.fromkeys(table["contrast"]))
    return alt.vconcat(
        *(
            _bars(
                top[top["contrast"] == name],
                name,
                frame["x"],
                unit,
                lowest=name == names[-1],
            )
            for name in names
        ),
        spacing=8,
    ).resolve_scale(x="shared")


def _bars(top, name, values, unit, lowest):
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    return (
        alt.Chart(top)
        .mark_bar()
        .encode(
            x=alt.X(
                "x:Q",
                title=AXIS if lowest else None,
                scale=alt.Scale(domain=[low, high], nice=True),
                axis=alt.Axis(labels=lowest, ticks=lowest, tickCount=8),
            ),
            y=alt.Y(
                "name:N",
                sort=list(top["name"]),
                title=None,
                axis=alt.Axis(labelLimit=120, minExtent=120, maxExtent=120),
            ),
            color=alt.when("datum.x > 0")
            .then(alt.value(COLOURS[0]))
            .otherwise(alt.value(COLOURS[1])),
            tooltip=_tooltips(unit),
        )
        .properties(
            width=WIDTH - 60,
            height=alt.Step(17),
            title=alt.Title(name, fontSize=13, fontWeight="normal", offset=4),
        )
    )


def shorten(token: str, length: int = 14) -> str:
    """A token on one line, with its spaces and line breaks visible.

    >>> shorten(" the\\n")
    '␣the↵'
    """
    shown = token.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def overlaps(frame: pd.DataFrame):
    """Mass shared with the twin and with strangers, a line a contrast.

    ``frame``: contrast, pair ("twin" or "stranger"), share, low, high
    (an interval), all shares in [0, 1].
    """
    base = alt.Chart(frame).encode(
        y=alt.Y(
            "contrast:N",
            sort=list(dict.fromkeys(frame["contrast"])),
            title=None,
            axis=alt.Axis(labelLimit=150),
        ),
        color=alt.Color(
            "pair:N",
            title=None,
            scale=alt.Scale(
                domain=["twin", "stranger"], range=[COLOURS[0], COLOURS[1]]
            ),
        ),
        tooltip=[
            alt.Tooltip("contrast:N"),
            alt.Tooltip("pair:N"),
            alt.Tooltip("share:Q", format=".3f"),
            alt.Tooltip("low:Q", format=".3f"),
            alt.Tooltip("high:Q", format=".3f"),
        ],
    )
    spans = base.mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q")
    dots = base.mark_point(filled=True, size=80).encode(
        x=alt.X(
            "share:Q",
            title="share of a document's feature mass that is shared",
            scale=alt.Scale(zero=False, padding=12),
            axis=alt.Axis(tickCount=6),
        ),
        shape=alt.Shape(
            "pair:N",
            title=None,
            scale=alt.Scale(
                domain=["twin", "stranger"], range=["circle", "diamond"]
            ),
        ),
    )
    return alt.layer(spans, dots).properties(
        width=WIDTH - 40, height=alt.Step(28)
    )
