"""Charts of a sparse autoencoder's training and quality."""

import altair as alt
import numpy as np
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, INK, WIDTH

FLOOR = 0.7  # where bars of a log count begin
TREATMENTS = {
    "clean": "clean",
    "sae": "SAE's reconstruction",
    "mean": "mean instead",
    "zero": "zero instead",
}
PANELS = {
    "fvu": "variance not explained (FVU)",
    "l0": "active latents a token (L0)",
    "dead": "share of dead latents",
}


def training_curves(logs: dict[str, pd.DataFrame]) -> alt.VConcatChart:
    """FVU, L0 and dead share against activations seen, a line an SAE.

    ``logs``: name -> frame with tokens, fvu, l0, dead (``load_log``).
    """
    log = pd.concat(
        [_thin(log).assign(SAE=name) for name, log in logs.items()]
    )
    log["millions"] = (log["tokens"] / 1e6).round(4)
    log = log.round({"fvu": 5, "l0": 3, "dead": 5})
    panels = [_curve(log, field, list(logs)) for field in PANELS]
    return alt.vconcat(*panels).resolve_scale(color="shared")


def _curve(log: pd.DataFrame, field: str, names: list[str]) -> alt.Chart:
    kind = "linear" if field == "dead" else "log"
    scale = alt.Scale(type=kind, zero=field == "dead", nice=True)
    return (
        alt.Chart(log[["SAE", "millions", field]])
        .mark_line()
        .encode(
            x=alt.X("millions:Q", title="activations seen (millions)"),
            y=alt.Y(f"{field}:Q", scale=scale, title=None),
            color=alt.Color("SAE:N", title=None, scale=_colours(names)),
            tooltip=["SAE:N", "millions:Q", alt.Tooltip(f"{field}:Q")],
        )
        .properties(width=WIDTH, height=150, title=PANELS[field])
    )


def size_curves(ends: pd.DataFrame) -> alt.VConcatChart:
    """FVU and dead share at the end of training against dictionary size.

    ``ends``: a row an SAE; SAE, expansion (d_sae / d_in), fvu, dead, and
    series, which names the line (or the lone point) that it belongs to.
    """
    ends = ends.round({"fvu": 5, "dead": 5})
    return alt.vconcat(
        *(_size_panel(ends, field) for field in ("fvu", "dead"))
    ).resolve_scale(color="shared", shape="shared")


def _size_panel(ends: pd.DataFrame, field: str) -> alt.Chart:
    names = list(ends["series"].unique())
    sizes = sorted(ends["expansion"].unique().tolist())
    axis = alt.Axis(values=sizes, labelExpr="datum.label + 'x'")
    return (
        alt.Chart(ends[["SAE", "series", "expansion", field]])
        .mark_line(point=alt.OverlayMarkDef(size=70, filled=True))
        .encode(
            x=alt.X(
                "expansion:Q",
                scale=alt.Scale(type="log", base=2),
                axis=axis,
                title="dictionary size (latents for each neuron)",
            ),
            y=alt.Y(f"{field}:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("series:N", title=None, scale=_colours(names)),
            tooltip=["SAE:N", "expansion:Q", alt.Tooltip(f"{field}:Q")],
        )
        .properties(width=WIDTH, height=150, title=PANELS[field])
    )


def loss_bars(losses: pd.DataFrame) -> alt.LayerChart:
    """Four losses by text class: a dot a treatment on one line a class.

    ``losses``: index text_class; clean, sae, zero, mean in nats a token.
    """
    long = (
        losses.reset_index()
        .melt("text_class", list(TREATMENTS), "treatment", "nats")
        .assign(treatment=lambda f: f["treatment"].map(TREATMENTS))
        .round({"nats": 4})
    )
    order = alt.Y("text_class:N", sort=list(losses.index), title=None)
    base = alt.Chart(long).properties(
        width=WIDTH - 190, height=alt.Step(20)
    )
    line = base.mark_rule(opacity=0.4).encode(
        x="min(nats):Q", x2="max(nats):Q", y=order
    )
    names = list(TREATMENTS.values())
    dots = base.mark_point(size=70, opacity=1).encode(
        x=alt.X(
            "nats:Q",
            title="next-token loss (nats a token)",
            scale=alt.Scale(zero=False, padding=12),
        ),
        y=order,
        color=alt.Color("treatment:N", title=None, scale=_colours(names)),
        shape=alt.Shape(
            "treatment:N", title=None, scale=alt.Scale(domain=names)
        ),
        tooltip=["text_class:N", "treatment:N", "nats:Q"],
    )
    return line + dots


def density_histogram(
    densities: dict[str, np.ndarray], bins: int = 40
) -> alt.FacetChart:
    """Latents by log10 of the share of tokens they fire on, log counts.

    ``densities``: name -> [d_sae]. Latents that never fire have no log; they
    stand as a grey bar at the left end, under "never".
    """
    counts, low = density_counts(densities, bins)
    floor = alt.datum(FLOOR)
    ticks = [*range(int(np.ceil(low)), 1)]
    chart = (
        alt.Chart(counts)
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X(
                "start:Q",
                title="log10 of the share of tokens (left, grey: never)",
                axis=alt.Axis(values=ticks),
            ),
            x2="end:Q",
            y=alt.Y(
                "latents:Q",
                scale=alt.Scale(type="log", domainMin=FLOOR),
                title="latents",
            ),
            y2=floor,
            color=alt.Color(
                "fires:N",
                title=None,
                legend=None,
                scale=alt.Scale(
                    domain=["yes", "never"], range=[COLOURS[0], GREY]
                ),
            ),
            tooltip=["SAE:N", "start:Q", "end:Q", "latents:Q", "fires:N"],
        )
        .properties(width=WIDTH, height=130)
    )
    names = list(densities)
    top = alt.Header(labelOrient="top", labelFontWeight="bold")
    row = alt.Row("SAE:N", title=None, sort=names, header=top)
    return chart.facet(row=row)


def density_counts(
    densities: dict[str, np.ndarray], bins: int = 40
) -> tuple[pd.DataFrame, float]:
    """SAE, start, end (of log10 density), latents, fires; the lowest edge."""
    live = np.concatenate([d[d > 0] for d in densities.values()])
    low = float(np.log10(live.min())) - 1e-6 if len(live) else -1.0
    edges = np.linspace(low, 0.0, bins + 1)
    step = edges[1] - edges[0]
    frames = []
    for name, density in densities.items():
        counts = np.histogram(np.log10(density[density > 0]), edges)[0]
        frame = pd.DataFrame(
            {"start": edges[:-1], "end": edges[1:], "latents": counts}
        ).assign(fires="yes")
        never = [low - 3 * step, low - step, int((density == 0).sum())]
        frame.loc[len(frame)] = [*never, "never"]
        frames.append(frame.assign(SAE=name))
    whole = pd.concat(frames, ignore_index=True)
    whole = whole[whole["latents"] > 0].astype({"latents": int})
    return whole.round({"start": 4, "end": 4}), low


def score_bars(scores: pd.DataFrame) -> alt.LayerChart:
    """Published and own scores: columns what, score (0-1), source, ours."""
    base = alt.Chart(scores).properties(
        width=WIDTH - 160, height=alt.Step(30)
    )
    order = alt.Y("what:N", sort=list(scores["what"]), title=None)
    bars = base.mark_bar().encode(
        x=alt.X(
            "score:Q",
            title="share of the ablation's cost recovered",
            scale=alt.Scale(domain=[0, 1], clamp=True),
            axis=alt.Axis(format="%"),
        ),
        y=order,
        color=alt.Color(
            "whose:N",
            title=None,
            scale=alt.Scale(
                domain=["ours", "published"], range=[COLOURS[0], GREY]
            ),
        ),
        tooltip=["what:N", alt.Tooltip("score:Q", format=".1%"), "whose:N"],
    )
    words = base.mark_text(align="left", dx=4, color=INK).encode(
        x="score:Q", y=order, text=alt.Text("score:Q", format=".1%")
    )
    return bars + words


def _thin(log: pd.DataFrame, most: int = 120) -> pd.DataFrame:
    """Every n-th line of a log, and the last."""
    step = -(-len(log) // most)
    return log[(np.arange(len(log))[::-1] % step) == 0]


def _colours(names: list[str]) -> alt.Scale:
    return alt.Scale(domain=names, range=COLOURS[: len(names)])
