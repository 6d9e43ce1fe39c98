"""Charts of what differs layer by layer."""

import altair as alt
import numpy as np
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, WIDTH

BINS = 41


def panels(deflections: pd.DataFrame):
    """Deflections of live features, one panel for each layer, log counts.

    ``deflections``: layer, contrast, relative; see ``compare.layers``.
    """
    reach = float(deflections["relative"].abs().max()) * 1.001 or 1.0
    edges = np.linspace(-reach, reach, BINS + 1)
    counted = pd.concat([
        pd.DataFrame({
            "layer": layer, "contrast": contrast, "start": edges[:-1],
            "end": edges[1:],
            "features": np.histogram(part["relative"], edges)[0],
        })
        for (layer, contrast), part in deflections.groupby(
            ["layer", "contrast"], sort=False)
    ])  # fmt: skip
    counted = counted[counted["features"] > 0].assign(
        middle=lambda f: (f["start"] + f["end"]) / 2
    )
    return alt.Chart(counted).mark_line(
        interpolate="step", strokeWidth=1.5
    ).encode(
        x=alt.X("middle:Q", title="deflection / the layer's activation"),
        y=alt.Y("features:Q", title="features",
                scale=alt.Scale(type="log", domainMin=0.8)),
        color=_contrasts(deflections),
        tooltip=["layer", "contrast", alt.Tooltip("middle", format=".2f"),
                 "features"],
    ).properties(width=WIDTH // 2 - 40, height=90).facet(
        facet=alt.Facet("layer:O", title="layer"), columns=2, spacing=12
    )  # fmt: skip


def by_layer(lengths: pd.DataFrame):
    """How far apart the classes are in each layer, with intervals.

    ``lengths``: see ``compare.layers.lengths``.
    """
    base = alt.Chart(lengths).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
        xOffset="contrast:N", color=_contrasts(lengths),
        tooltip=["contrast", "layer", "sets",
                 *(alt.Tooltip(n, format=".3f")
                   for n in ("difference", "low", "high"))],
    )  # fmt: skip
    zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(color=GREY)
    return zero.encode(y="y:Q") + base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", title="squared deflection / squared activation"),
        y2="high:Q",
    ) + base.mark_point(filled=True, opacity=1, size=50).encode(
        y="difference:Q"
    )  # fmt: skip


def _contrasts(frame: pd.DataFrame):
    """One colour for each contrast, in order of appearance."""
    names = list(dict.fromkeys(frame["contrast"]))
    colours = [COLOURS[n % len(COLOURS)] for n in range(len(names))]
    return alt.Color("contrast:N", title="", sort=names,
                     scale=alt.Scale(domain=names, range=colours),
                     legend=alt.Legend(orient="top", columns=2,
                                       labelLimit=280))  # fmt: skip
