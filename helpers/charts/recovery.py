"""Charts of feature recovery: who tells a factor, how well, by level."""

import altair as alt
import numpy as np
import pandas as pd

from helpers.charts.theme import COLOURS, GREY, HEIGHT, INK, WIDTH

SHAPES = ["circle", "diamond", "square", "triangle-up", "cross"]
OUTCOMES = {"ahead": COLOURS[0], "behind": COLOURS[1], "even": GREY}


def dots(scores: pd.DataFrame, title: str = "F1 on the other half"):
    """F1 with its interval: a line a target, a mark a basis.

    ``scores``: target, basis, f1, f1_low, f1_high, unit, base_rate, always
    (drawn as a tick: a unit that always fires).
    """
    fields = "f1 f1_low f1_high base_rate always".split()
    frame = scores[["target", "basis", "unit", *fields]]
    frame = frame.round({name: 4 for name in fields})
    order = list(dict.fromkeys(frame["target"]))
    names = list(dict.fromkeys(frame["basis"]))
    base = alt.Chart(frame).encode(
        y=alt.Y(
            "target:N",
            sort=order,
            title=None,
            axis=alt.Axis(labelLimit=150, grid=True),
        )
    )
    colour = alt.Color("basis:N", title=None, scale=_scale(names))
    shift = alt.YOffset("basis:N", sort=names)
    spans = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("f1_low:Q", title=title, scale=alt.Scale(domain=[0, 1])),
        x2="f1_high:Q",
        color=colour,
        yOffset=shift,
    )
    marks = base.mark_point(size=45, opacity=1).encode(
        x="f1:Q",
        color=colour,
        shape=alt.Shape("basis:N", title=None, scale=_shapes(names)),
        yOffset=shift,
        tooltip=["target:N", "basis:N", "unit:N", *(f"{f}:Q" for f in fields)],
    )
    chance = base.mark_tick(color=INK, thickness=1.5, opacity=0.6).encode(
        x="always:Q", tooltip=["target:N", "always:Q", "base_rate:Q"]
    )
    step = alt.Step(9 + 5 * len(names), **{"for": "position"})
    return alt.layer(chance, spans, marks).properties(
        width=WIDTH - 170, height=step
    )


def models(frame: pd.DataFrame):
    """Mean F1 with its interval: a panel a corpus, a line a model.

    ``frame``: the columns of ``recovery.averages``, model and units (what
    is scored in it: a mark each).
    """
    fields = ["f1", "f1_low", "f1_high"]
    names = ["corpus", "model", "units", "targets"]
    frame = frame[[*names, *fields]].round({name: 4 for name in fields})
    kinds = list(dict.fromkeys(frame["units"]))
    order = list(dict.fromkeys(frame["model"]))
    base = alt.Chart().encode(
        y=alt.Y("model:N", sort=order, title=None, axis=alt.Axis(grid=True)),
        yOffset=alt.YOffset("units:N", sort=kinds),
        color=alt.Color("units:N", title=None, scale=_scale(kinds)),
    )
    spans = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X(
            "f1_low:Q",
            title="mean F1 on the other half",
            scale=alt.Scale(zero=False),
            axis=alt.Axis(tickCount=4),
        ),
        x2="f1_high:Q",
    )
    marks = base.mark_point(size=45, opacity=1).encode(
        x="f1:Q",
        shape=alt.Shape("units:N", title=None, scale=_shapes(kinds)),
        tooltip=[*(f"{n}:N" for n in names), *(f"{f}:Q" for f in fields)],
    )
    corpora = list(dict.fromkeys(frame["corpus"]))
    step = alt.Step(20, **{"for": "position"})
    return (
        alt.layer(spans, marks, data=frame)
        .properties(width=(WIDTH - 110) // len(corpora) - 20, height=step)
        .facet(column=alt.Column("corpus:N", sort=corpora, title=None))
        .resolve_scale(x="independent")
    )


def gaps(frame: pd.DataFrame):
    """Every target: F1 gained over the rival, against the base rate.

    ``frame``: target, corpus, base_rate, gap, gap_low, gap_high, outcome,
    features, rival (the two F1). A click on a corpus in the legend of the
    shapes singles it out.
    """
    fields = "base_rate gap gap_low gap_high features rival".split()
    rates = frame["base_rate"]
    frame = frame[["target", "corpus", "outcome", *fields]].round(4)
    frame = frame.assign(base_rate=rates.round(6))  # rare ones are far below
    corpora = list(dict.fromkeys(frame["corpus"]))
    menu = alt.binding_select(
        options=[None, *corpora], labels=["all", *corpora], name="corpus "
    )
    chosen = alt.selection_point(fields=["corpus"], bind=menu)
    shown = alt.when(chosen).then(alt.value(0.9)).otherwise(alt.value(0.08))
    x = alt.X(
        "base_rate:Q",
        title="share of the corpus's tokens that have the factor (log)",
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(format=".2~%", values=[0.001, 0.01, 0.03, 0.1, 0.3]),
    )
    colour = alt.Color(
        "outcome:N",
        title="best feature is",
        scale=alt.Scale(domain=list(OUTCOMES), range=list(OUTCOMES.values())),
    )
    tips = ["target:N", "corpus:N", *(f"{f}:Q" for f in fields)]
    base = alt.Chart(frame).encode(x=x, color=colour, opacity=shown)
    spans = base.mark_rule(strokeWidth=1).encode(
        y=alt.Y("gap_low:Q", title="F1: best feature − best neuron"),
        y2="gap_high:Q",
    )
    marks = base.mark_circle(size=45).encode(y="gap:Q", tooltip=tips)
    zero = alt.Chart().mark_rule(color=INK).encode(y=alt.datum(0))
    return (
        alt.layer(spans, zero, marks.add_params(chosen), data=frame)
        .properties(width=WIDTH, height=HEIGHT)
    )


def skills(units: pd.DataFrame, bins: int = 24):
    """Share of each basis's units by the skill of what they tell best.

    ``units``: basis, skill (below 0: worse than firing always).
    """
    edges = np.linspace(-0.2, 1, bins + 1)
    parts = []
    for name, part in units.groupby("basis", sort=False):
        held = part["skill"].clip(-0.2, 1)
        count = np.histogram(held, edges)[0]
        parts.append(
            pd.DataFrame(
                {
                    "basis": name,
                    "skill": edges[:-1].round(3),
                    "to": edges[1:].round(3),
                    "share": (count / len(part)).round(5),
                    "units": count,
                }
            )
        )
    names = list(dict.fromkeys(units["basis"]))
    return (
        alt.Chart(pd.concat(parts))
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("skill:Q", title="skill for the factor it tells best"),
            y=alt.Y(
                "share:Q",
                title="share of units (square-root scale)",
                scale=alt.Scale(type="sqrt"),
                axis=alt.Axis(format="%"),
            ),
            color=alt.Color("basis:N", title=None, scale=_scale(names)),
            strokeDash=alt.StrokeDash(
                "basis:N", title=None, scale=alt.Scale(domain=names)
            ),
            tooltip=["basis:N", "skill:Q", "to:Q", "units:Q", "share:Q"],
        )
        .properties(width=WIDTH, height=200)
    )


def spectra(levels: pd.DataFrame):
    """Activation spectra split by truth: tokens above, their mass below.

    ``levels``: panel (a unit's name), and the columns of ``by_level``.
    """
    long = pd.concat(
        [
            levels[["panel", "start", "end"]].assign(
                truth=name, tokens=levels[kind], mass=levels[f"{kind}_mass"]
            )
            for kind, name in {"true": "has it", "false": "does not"}.items()
        ]
    ).round({"start": 4, "end": 4, "mass": 2})
    names = list(dict.fromkeys(levels["panel"]))
    rows = [
        alt.hconcat(
            *(
                _bars(long[long["panel"] == name], field, name if top else "")
                for name in names
            ),
            spacing=25,
        )
        for field, top in (("tokens", True), ("mass", False))
    ]
    return alt.vconcat(*rows).resolve_scale(color="shared")


def _bars(part, field, title):
    scale = {"tokens": "sqrt", "mass": "linear"}[field]
    what = {"tokens": "tokens (square root)", "mass": "tokens × activation"}
    colour = alt.Color(
        "truth:N",
        title="token",
        scale=alt.Scale(
            domain=["has it", "does not"], range=[COLOURS[0], COLOURS[1]]
        ),
    )
    return (
        alt.Chart(part)
        .mark_bar(binSpacing=1, opacity=0.85)
        .encode(
            x=alt.X("start:Q", title="activation", bin="binned"),
            x2="end:Q",
            y=alt.Y(
                f"{field}:Q",
                stack=False if field == "tokens" else "zero",
                title=what[field],
                scale=alt.Scale(type=scale),
            ),
            color=colour,
            opacity=alt.value(0.75 if field == "tokens" else 0.9),
            tooltip=["truth:N", "start:Q", "end:Q", f"{field}:Q"],
        )
        .properties(width=WIDTH // 2 - 50, height=130, title=title)
    )


def by_level(levels: pd.DataFrame):
    """Specificity and sensitivity against the level, a line a factor.

    ``levels``: panel (the factor), kind ("crisp" or "vague") and the columns
    of ``recovery.by_level``; levels are shown in shares of the maximum.
    """
    frame = levels.assign(
        level=levels["start"] / levels.groupby("panel")["end"].transform("max")
    )
    long = frame.melt(
        ["panel", "kind", "level"], ["specificity", "sensitivity"], "what"
    ).dropna()
    long = long.round({"level": 3, "value": 4})
    names = list(dict.fromkeys(levels["panel"]))
    titles = {
        "specificity": "share of the tokens at this level that have it",
        "sensitivity": "share of all that have it, at this level or above",
    }
    panels = [
        alt.Chart(long[long["what"] == what])
        .mark_line(point=True)
        .encode(
            x=alt.X("level:Q", title="activation / its maximum"),
            y=alt.Y(
                "value:Q",
                title=what,
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%"),
            ),
            color=alt.Color("panel:N", title=None, scale=_scale(names)),
            strokeDash=alt.StrokeDash(
                "kind:N",
                title=None,
                scale=alt.Scale(
                    domain=["crisp", "vague"], range=[[1, 0], [4, 3]]
                ),
            ),
            tooltip=["panel:N", "level:Q", "value:Q"],
        )
        .properties(width=WIDTH, height=150, title=title)
        for what, title in titles.items()
    ]
    return alt.vconcat(*panels)


def growth(frame: pd.DataFrame):
    """Mean F1 of n units together, a line a basis.

    ``frame``: target, basis, n, f1; thin lines are single targets.
    """
    frame = frame.round({"f1": 4})
    names = list(dict.fromkeys(frame["basis"]))
    colour = alt.Color("basis:N", title=None, scale=_scale(names))
    x = alt.X("n:O", title="units together", axis=alt.Axis(labelAngle=0))
    score = alt.Y("f1:Q", scale=alt.Scale(domain=[0, 1]))
    thin = (
        alt.Chart(frame)
        .mark_line(strokeWidth=1, opacity=0.45)
        .encode(
            x=x,
            y=score,
            color=alt.Color("basis:N", legend=None, scale=_scale(names)),
            detail="target:N",
            tooltip=["target:N", "basis:N", "n:O", "f1:Q"],
        )
    )
    mean = (
        frame.groupby(["basis", "n"], sort=False)["f1"]
        .mean()
        .round(4)
        .reset_index()
    )
    thick = (
        alt.Chart(mean)
        .mark_line(strokeWidth=3, point=True)
        .encode(
            x=x,
            y=alt.Y("f1:Q", title="F1 on the other half"),
            color=colour,
            tooltip=["basis:N", "n:O", "f1:Q"],
        )
    )
    return (
        alt.layer(thin, thick)
        .resolve_scale(color="independent")
        .properties(width=WIDTH, height=HEIGHT)
    )


def class_bars(shares: pd.DataFrame):
    """On which classes units are strong: columns unit, class, share."""
    names = list(dict.fromkeys(shares["unit"]))
    panels = [
        alt.Chart(shares[shares["unit"] == name].round({"share": 4}))
        .mark_bar(color=COLOURS[place])
        .encode(
            x=alt.X(
                "share:Q",
                title="share of strong tokens",
                axis=alt.Axis(format="%", tickCount=4),
                scale=alt.Scale(domain=[0, 1]),
            ),
            y=alt.Y(
                "class:N",
                sort=list(dict.fromkeys(shares["class"])),
                title=None,
                axis=alt.Axis(labels=place == 0, ticks=False),
            ),
            tooltip=["unit:N", "class:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(
            width=(WIDTH - 110) // len(names) - 15,
            height=alt.Step(17),
            title=alt.Title(name, fontSize=13, fontWeight="normal"),
        )
        for place, name in enumerate(names)
    ]
    return alt.hconcat(*panels, spacing=15)


def _scale(names: list[str]) -> alt.Scale:
    return alt.Scale(domain=names, range=COLOURS[: len(names)])


def _shapes(names: list[str]) -> alt.Scale:
    return alt.Scale(domain=names, range=SHAPES[: len(names)])
