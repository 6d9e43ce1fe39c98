"""Charts of chapter 05: many SAEs beside each other, and rare latents."""

import altair as alt
import numpy as np
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, INK, WIDTH

NEVER = "never"
READ = "tokens that the language model had read"
AXES = {
    "fvu": ("variance not explained (FVU)", ""),
    "score_zero": ("loss recovered, against zeros", "%"),
    "score_mean": ("loss recovered, against the mean", "%"),
    "skill": ("mean skill of the best latents", ""),
    "l0": ("active latents a token (L0)", ""),
    "millions": ("activations seen in training (millions)", ""),
}
KINDS = dict(
    zip(
        ["TopK", "L1", "BatchTopK", "Matryoshka", "JumpReLU", "Gated"],
        COLOURS, strict=False,
    )
)  # fmt: skip
PALE = "#BBBBBB"  # of a second control
LOGS = ("l0", "millions", "fvu")  # on a logarithmic axis


def density_map(
    densities: dict[str, np.ndarray], width: float = 0.25
) -> alt.Chart:
    """How the latents of many SAEs spread over log10 density, a row each.

    ``densities``: name -> [d_sae]. Colour: the share of that SAE's latents.
    Those that never fire have a column of their own at the left.
    """
    frame = density_shares(densities, width)
    names = list(densities)
    low = float(frame["start"].min())
    axis = alt.Axis(values=[*range(int(np.ceil(low + 2 * width)), 1)])
    base = alt.Chart(frame).encode(
        y=alt.Y("SAE:N", sort=names, title=None),
        tooltip=["SAE:N", "density:N", "latents:Q",
                 alt.Tooltip("share:Q", format=".1%")],
    )  # fmt: skip
    cells = base.mark_rect().encode(
        x=alt.X(
            "start:Q", axis=axis, scale=alt.Scale(domain=[low, 0]),
            title="log10 of the share of tokens (leftmost column: never)",
        ),
        x2="end:Q",
        color=alt.Color(
            "share:Q", title="share of the latents",
            scale=alt.Scale(scheme="viridis", type="sqrt"),
            legend=alt.Legend(format="%", gradientLength=200),
        ),
    )  # fmt: skip
    return cells.properties(width=WIDTH - 170, height=alt.Step(19))


def density_shares(
    densities: dict[str, np.ndarray], width: float
) -> pd.DataFrame:
    """SAE, start, end (log10 density), density (words), latents, share."""
    live = np.concatenate([d[d > 0] for d in densities.values()])
    low = width * np.floor(np.log10(live.min()) / width) if len(live) else -1
    edges = np.arange(low, width, width)
    frames = []
    for name, density in densities.items():
        logs = np.minimum(np.log10(density[density > 0]), -1e-9)
        counts = np.histogram(logs, edges)[0]
        part = pd.DataFrame({"start": edges[:-1], "latents": counts})
        part["density"] = [f"from 10^{e:.2f}" for e in edges[:-1]]
        silent = [low - 2 * width, int((density == 0).sum()), NEVER]
        part.loc[len(part)] = silent
        frames.append(part.assign(SAE=name, share=part.latents / len(density)))
    whole = pd.concat(frames, ignore_index=True)
    whole = whole[whole["latents"] > 0].astype({"latents": int})
    whole["end"] = whole["start"] + width
    return whole.round({"start": 4, "end": 4, "share": 5})


def frontier(table: pd.DataFrame) -> alt.VConcatChart:
    """FVU and loss recovered against L0, a point an SAE, intervals.

    ``table``: name, kind (colour), series (points joined by a line), size
    (written beside the point above, may be empty), l0, and fvu and
    score_zero with _low and _high.
    """
    bare = table.drop(columns="size")  # no room for words below
    panels = [scatter(table, "l0", "fvu"), scatter(bare, "l0", "score_zero")]
    return alt.vconcat(*panels).resolve_scale(color="shared")


def scatter(
    table: pd.DataFrame, x: str, y: str, rule: float | None = None
) -> alt.LayerChart:
    """SAEs as points: one of the AXES against another, with intervals of y.

    ``table`` as for ``frontier``; without a column series there are no
    lines, without size no words. ``rule``: a level to compare with, dashed.
    """
    bounds = [c for c in (f"{y}_low", f"{y}_high") if c in table]
    kept = ["name", "kind", x, y, *bounds]
    kept += [c for c in ("series", "size") if c in table]
    frame = table.dropna(subset=[x, y])[kept].round({x: 4, y: 4})
    base = alt.Chart(frame).encode(
        _axis(alt.X, x), _axis(alt.Y, y), _colour(table["kind"]),
        tooltip=["name:N", x + ":Q", y + ":Q", *bounds],
    )  # fmt: skip
    layers = []
    if rule is not None:
        level = alt.Chart(pd.DataFrame({y: [rule]}))
        dashed = level.mark_rule(strokeDash=[5, 4])
        layers.append(dashed.encode(_axis(alt.Y, y)))
    if "series" in table:
        line = base.mark_line(opacity=0.75, strokeWidth=1.5)
        layers.append(line.encode(detail="series:N"))
    if bounds:
        ends = base.mark_rule(opacity=0.8)
        layers.append(ends.encode(_axis(alt.Y, bounds[0], y), y2=bounds[1]))
    layers.append(base.mark_point(size=60, filled=True, opacity=1))
    if "size" in table:
        words = base.mark_text(align="left", dx=7)
        layers.append(words.encode(color=alt.value(INK), text="size:N"))
    return alt.layer(*layers).properties(width=WIDTH - 40, height=210)


def by_length(table: pd.DataFrame, titles: dict[str, str]) -> alt.VConcatChart:
    """Measures against how much the language model read, a panel each.

    ``table``: what ``metrics.length_table`` returns; ``titles``: measure
    (in the order of the panels) -> what its axis says.
    """
    reads = list(dict.fromkeys(table["read"]))
    names = ["features", "neurons"]
    panels = []
    for measure, title in titles.items():
        part = table[table["measure"] == measure].round(4)
        base = alt.Chart(part).encode(
            x=alt.X("read:N", sort=reads, axis=alt.Axis(labelAngle=0),
                    title=READ if measure == [*titles][-1] else None),
            color=alt.Color("units:N", title=None, scale=alt.Scale(
                domain=names, range=COLOURS[:2])),
        )
        ends = base.mark_rule(opacity=0.8, strokeWidth=2).encode(
            y=alt.Y("low:Q", title=title, scale=alt.Scale(zero=False)),
            y2="high:Q",
        )
        line = base.mark_line(opacity=0.75, strokeWidth=1.5).encode(y="value:Q")
        mark = base.mark_point(size=60, opacity=1).encode(
            y="value:Q",
            shape=alt.Shape("units:N", title=None, scale=alt.Scale(
                domain=names, range=["circle", "diamond"])),
            tooltip=["read:N", "units:N", "value:Q", "low:Q", "high:Q"],
        )
        layers = alt.layer(ends, line, mark)
        panels.append(layers.properties(width=WIDTH - 150, height=130))
    return alt.vconcat(*panels).resolve_scale(color="shared", shape="shared")


def rare_histograms(cosines: pd.DataFrame, bins: int = 40) -> alt.TopLevelMixin:
    """Cosines with the mean rare direction, rare latents against others.

    ``cosines``: a row a latent, with where (the panel), group ("rare" or
    "others") and cosine. Without a row, a sentence takes the chart's place.
    """
    if cosines.empty:
        said = pd.DataFrame({"text": ["no SAE here has rare latents"]})
        words = alt.Chart(said).mark_text(color=INK).encode(text="text:N")
        return words.properties(width=WIDTH - 40, height=60)
    edges = np.linspace(-1, 1, bins + 1)
    frames = []
    for (where, group), part in cosines.groupby(
        ["where", "group"], sort=False
    ):
        counts = np.histogram(part["cosine"], edges)[0]
        frame = pd.DataFrame({"start": edges[:-1], "end": edges[1:]})
        frame["share"] = counts / max(len(part), 1)
        frames.append(frame.assign(where=where, group=group))
    data = pd.concat(frames, ignore_index=True)
    data = data[data["share"] > 0].round(4)
    names = list(dict.fromkeys(cosines["where"]))
    chart = (
        alt.Chart(data)
        .mark_bar(opacity=0.7, binSpacing=0)
        .encode(
            x=alt.X("start:Q", title="cosine with the mean rare direction",
                    scale=alt.Scale(domain=[-1, 1])),
            x2="end:Q",
            y=alt.Y("share:Q", title="share", stack=None,
                    axis=alt.Axis(format="%", tickCount=4)),
            y2=alt.datum(0),
            color=alt.Color(
                "group:N", title=None,
                scale=alt.Scale(domain=["rare", "others"],
                                range=[COLOURS[1], COLOURS[0]]),
            ),
            tooltip=["group:N", "start:Q", "end:Q",
                     alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width=WIDTH // 2 - 45, height=120)
    )  # fmt: skip
    return chart.facet(
        alt.Facet("where:N", title=None, sort=names), columns=2
    )


def by_density(profiles: pd.DataFrame) -> alt.VConcatChart:
    """Medians and bands over log10 density, a panel a value, a line an SAE.

    ``profiles``: rows of ``metrics.by_density``, with the SAE beside them.
    """
    values = list(dict.fromkeys(profiles["value"]))
    return alt.vconcat(
        *(_profile(profiles[profiles["value"] == v], v) for v in values)
    )


def _profile(part: pd.DataFrame, title: str) -> alt.LayerChart:
    names = list(dict.fromkeys(part["SAE"]))
    colour = alt.Color(
        "SAE:N", title=None,
        scale=alt.Scale(domain=names, range=COLOURS[: len(names)]),
    )  # fmt: skip
    base = alt.Chart(part.round(4)).encode(
        x=alt.X("density:Q", title="log10 of the share of tokens"),
        color=colour,
    )
    band = base.mark_area(opacity=0.3).encode(
        y=alt.Y("low:Q", title=None), y2="high:Q"
    )
    line = base.mark_line(point=True).encode(
        y=alt.Y("median:Q", title=None),
        tooltip=["SAE:N", "density:Q", "latents:Q", "low:Q", "median:Q",
                 "high:Q"],
    )  # fmt: skip
    return (band + line).properties(
        width=WIDTH - 40, height=120, title=title
    )


def _axis(channel, field: str, shown: str = ""):
    """The x or y channel of a field, as that of AXES which it belongs to."""
    title, style = AXES[shown or field]
    logs = (shown or field) in LOGS
    return channel(
        f"{field}:Q",
        title=title,
        axis=alt.Axis(format=style) if style else alt.Axis(),
        scale=alt.Scale(
            type="log" if logs else "linear", zero=False, padding=16,
            nice=not logs,
        ),
    )  # fmt: skip


def _colour(kinds) -> alt.Color:
    """The same colour for a kind in every chart; controls are grey."""
    names = list(dict.fromkeys(kinds))
    greys = iter([GREY, PALE] * len(names))
    others = iter(COLOURS * len(names))
    own = [
        KINDS.get(name) or next(greys if "control" in name else others)
        for name in names
    ]
    return alt.Color(
        "kind:N", title=None, legend=alt.Legend(columns=4),
        scale=alt.Scale(domain=names, range=own),
    )  # fmt: skip
