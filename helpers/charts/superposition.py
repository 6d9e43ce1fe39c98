"""Charts of the toy models: one to drag, and what is read off it."""

import altair as alt
import pandas as pd
import torch

from helpers.charts.theme import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    VERMILLION,
    WIDTH,
)
from helpers.superposition.geometry import (
    dimensionality,
    dimensions_per_feature,
    interference,
    norms,
)
from helpers.superposition.phases import PHASES
from helpers.superposition.recovery import FOUND
from helpers.superposition.stage import Run

# Shares of a dimension that regular arrangements give (Elhage et al.).
FRACTIONS = {
    "alone": 1.0, "tetrahedron": 3 / 4, "triangle": 2 / 3, "pair": 1 / 2,
    "pentagon": 2 / 5,
}  # fmt: skip
PHASE_NAMES = dict(
    zip(PHASES, ("first only", "second only", "both, opposite"), strict=True)
)


def explorer(run: Run, small: Run, seed: int = 0) -> alt.HConcatChart:
    """Drag the sparsity: W W^T, the norms and the features of a small toy.

    ``run`` and ``small`` share their densities; ``small`` has two hidden
    dimensions, and of its seeds the one with the least loss is drawn for
    each density. Every value is in the chart, as a list by density, so that
    no kernel is needed.
    """
    level = alt.param(
        name="level",
        value=0,
        bind=alt.binding_range(
            min=0, max=len(run.densities) - 1, step=1,
            name="drag from dense to sparse ",
        ),
    )  # fmt: skip
    output = alt.param(
        name="output",
        value=run.outputs[0],
        bind=alt.binding_radio(options=list(run.outputs), name="output "),
    )
    shares = [f"{density:g}" for density in run.densities]
    share = f"'1 - S = ' + {shares}[level] + ': how often a feature is present'"
    title = alt.TitleParams(text=alt.ExprRef(share))
    return (
        alt.hconcat(
            _products(run, seed), _norms(run, seed), _arrows(small),
            title=title, spacing=12,
        )
        .add_params(level, output)
        .resolve_scale(color="independent")
    )  # fmt: skip


def _products(run: Run, seed: int) -> alt.Chart:
    """The heat map of W W^T."""
    products = [W @ W.mT for W in _by_output(run, seed)]
    count = products[0].shape[-1]
    rows = [
        {"i": i, "j": j, "v": [_listed(p[:, i, j]) for p in products]}
        for i in range(count)
        for j in range(count)
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .transform_calculate(product=_pick("v", run))
        .mark_rect()
        .encode(
            x=alt.X("j:O", title="feature", axis=_sparse_axis(count)),
            y=alt.Y("i:O", title="feature", axis=_sparse_axis(count)),
            color=alt.Color(
                "product:Q",
                title="W_i · W_j",
                scale=alt.Scale(
                    domain=[-1, 1], clamp=True, scheme="purpleorange"
                ),
                legend=alt.Legend(gradientLength=120, values=[-1, 0, 1]),
            ),
            tooltip=["i:O", "j:O", alt.Tooltip("product:Q", format=".2f")],
        )
        .properties(width=220, height=220)
    )


def _norms(run: Run, seed: int) -> alt.Chart:
    """A bar a feature: its length, coloured by interference."""
    weights = _by_output(run, seed)
    lengths = [norms(W) for W in weights]
    others = [interference(W) for W in weights]
    rows = [
        {
            "i": i,
            "length": [_listed(one[:, i]) for one in lengths],
            "shared": [_listed(one[:, i]) for one in others],
        }
        for i in range(len(run.importance))
    ]
    return (
        alt.Chart(alt.Data(values=rows))
        .transform_calculate(
            norm=_pick("length", run), interference=_pick("shared", run)
        )
        .mark_bar(clip=True)
        .encode(
            x=alt.X(
                "norm:Q",
                title="length of W_i",
                scale=alt.Scale(domain=[0, 1.4]),
                axis=alt.Axis(values=[0, 0.5, 1]),
            ),
            y=alt.Y("i:O", title=None, axis=None),
            color=alt.Color(
                "interference:Q",
                title="interference",
                scale=alt.Scale(
                    domain=[0, 1], clamp=True, scheme="viridis"
                ),
                legend=alt.Legend(gradientLength=80, values=[0, 1]),
            ),
            tooltip=[
                "i:O", alt.Tooltip("norm:Q", format=".2f"),
                alt.Tooltip("interference:Q", format=".2f"),
            ],
        )
        .properties(width=90, height=220)
    )  # fmt: skip


def _arrows(small: Run) -> alt.LayerChart:
    """The features of a toy with two hidden dimensions, as arrows."""
    W = best_of_seeds(small)
    rows = [
        {"i": i, "xs": _listed(W[:, i, 0]), "ys": _listed(W[:, i, 1])}
        for i in range(W.shape[1])
    ]
    base = (
        alt.Chart(alt.Data(values=rows))
        .transform_calculate(
            x="datum.xs[level]", y="datum.ys[level]", zero="0"
        )
        .properties(width=180, height=180)
    )
    scale, none = alt.Scale(domain=[-1.4, 1.4]), alt.Axis(
        labels=False, ticks=False, grid=False, values=[0]
    )
    x = alt.X("x:Q", scale=scale, axis=none, title="hidden 1")
    y = alt.Y("y:Q", scale=scale, axis=none, title="hidden 2")
    lines = base.mark_rule(strokeWidth=2, color=BLUE, opacity=0.9).encode(
        x=alt.X("zero:Q", scale=scale, axis=none, title="hidden 1"),
        y=alt.Y("zero:Q", scale=scale, axis=none, title="hidden 2"),
        x2="x:Q", y2="y:Q",
    )  # fmt: skip
    ends = base.mark_point(size=45, color=VERMILLION, opacity=1).encode(
        x=x, y=y, tooltip=["i:O"]
    )
    names = (
        base.transform_filter("abs(datum.x) + abs(datum.y) > 0.2")
        .mark_text(dx=9, dy=-7, color=INK)
        .encode(x=x, y=y, text="i:O")
    )
    title = f"{W.shape[1]} features, 2 numbers"
    return (lines + ends + names).properties(title=title)


def best_of_seeds(run: Run) -> torch.Tensor:
    """ReLU W of the seed with the least loss, a density: [conditions, n, m]."""
    found = run.outcomes()
    found = found[found.output == "relu"]
    best = found.loc[found.groupby("density", sort=False)["loss"].idxmin()]
    at = run.outputs.index("relu")
    return torch.stack(
        [run.toys.W[at, c, seed] for c, seed in enumerate(best.seed)]
    )


def kept(outcomes: pd.DataFrame) -> alt.VConcatChart:
    """Features kept, antipodal pairs and mean bias against density."""
    panels = {
        "kept": "features kept", "pairs": "antipodal pairs",
        "bias": "mean bias of those kept",
    }  # fmt: skip
    frame = outcomes[["output", "density", "seed", *panels]].round(4)
    outputs = list(dict.fromkeys(frame.output))
    colour = alt.Color(
        "output:N",
        title=None,
        scale=alt.Scale(domain=outputs, range=COLOURS[: len(outputs)]),
    )
    charts = [
        _against_density(frame, field, title, colour)
        for field, title in panels.items()
    ]
    return alt.vconcat(*charts)


def _against_density(frame, field, title, colour) -> alt.LayerChart:
    base = alt.Chart(
        frame[["output", "density", "seed", field]]
    ).properties(width=WIDTH, height=120, title=title)
    x = alt.X(
        "density:Q",
        title="1 - S: the chance that a feature is present",
        scale=alt.Scale(type="log", reverse=True),
        axis=alt.Axis(values=sorted(set(frame.density)), format="~g"),
    )
    y = alt.Y(f"{field}:Q", title=None)
    points = base.mark_point(opacity=0.6).encode(
        x=x, y=y, color=colour, tooltip=["output", "density", "seed", field]
    )
    lines = base.mark_line().encode(
        x=x, y=alt.Y(f"mean({field}):Q", title=None), color=colour
    )
    return lines + points


def phase_maps(diagram: pd.DataFrame) -> alt.HConcatChart:
    """The cheapest of the closed forms beside what training found."""
    titles = {"phase": "closed form", "trained": "trained"}
    frame = diagram.round(4).replace(
        {"phase": PHASE_NAMES, "trained": PHASE_NAMES}
    )
    return alt.hconcat(
        *(_phase_map(frame, field, titles[field]) for field in titles)
    )


def _phase_map(frame: pd.DataFrame, field: str, title: str) -> alt.Chart:
    columns = ["density", "importance", "loss", "w_first", "w_second", field]
    across, up = (_few(sorted(set(frame[name]))) for name in columns[1::-1])
    return (
        alt.Chart(frame[columns])
        .mark_rect()
        .encode(
            x=alt.X(
                "importance:O",
                title="importance of the first feature",
                axis=alt.Axis(
                    values=across, format=".2~g", labelAngle=0
                ),
            ),
            y=alt.Y(
                "density:O",
                title="1 - S",
                sort="descending",
                axis=alt.Axis(values=up, format=".2~g"),
            ),
            color=alt.Color(
                f"{field}:N",
                title=None,
                scale=alt.Scale(
                    domain=list(PHASE_NAMES.values()), range=COLOURS[:3]
                ),
            ),
            tooltip=columns,
        )
        .properties(width=250, height=250, title=title)
    )


def dimensions(run: Run, seed: int = 0) -> alt.LayerChart:
    """D_i of every feature against 1 / (1 - S), and D* as a line."""
    W = run.weights(seed=seed)
    long = pd.DataFrame(
        [
            {
                "inverse": round(1 / density, 3), "feature": i,
                "D": round(float(value), 3),
            }
            for density, part in zip(run.densities, W, strict=True)
            for i, value in enumerate(dimensionality(part))
        ]
    )  # fmt: skip
    star = pd.DataFrame(
        {
            "inverse": [round(1 / density, 3) for density in run.densities],
            "D": dimensions_per_feature(W).numpy().round(3),
        }
    )
    x = alt.X(
        "inverse:Q",
        title="1 / (1 - S): right is sparser",
        scale=alt.Scale(
            type="log", nice=False,
            domain=[0.85 * star.inverse.min(), 1.2 * star.inverse.max()],
        ),
        axis=alt.Axis(values=list(star.inverse), format=".3~g"),
    )  # fmt: skip
    y = alt.Y(
        "D:Q",
        title="hidden dimensions for a feature",
        scale=alt.Scale(domain=[0, 1.05], nice=False),
    )
    dots = (
        alt.Chart(long)
        .mark_tick(
            orient="horizontal", thickness=1.5, size=26,
            opacity=0.35, color=BLUE,
        )  # fmt: skip
        .encode(x=x, y=y, tooltip=["inverse", "feature", "D"])
    )
    line = (
        alt.Chart(star)
        .mark_line(
            color=VERMILLION, point=alt.OverlayMarkDef(color=VERMILLION)
        )
        .encode(x=x, y=y, tooltip=["inverse", "D"])
    )
    return (_fractions(y) + dots + line).properties(
        width=WIDTH - 60, height=300
    )


def _fractions(y: alt.Y) -> alt.LayerChart:
    """A dashed line for each regular arrangement, named at the right."""
    frame = pd.DataFrame(
        {"D": list(FRACTIONS.values()), "name": list(FRACTIONS)}
    ).round(3)
    base = alt.Chart(frame).encode(y=y)
    rules = base.mark_rule(strokeDash=[4, 4], opacity=0.5)
    names = base.mark_text(align="left", dx=4).encode(
        x=alt.value(WIDTH - 60), text="name:N"
    )
    return rules + names


def recovery(found: pd.DataFrame) -> alt.LayerChart:
    """Each represented feature's largest cosine with a latent, by density."""
    frame = found[["density", "seed", "feature", "cosine"]].round(4)
    x = alt.X(
        "density:O",
        title="1 - S: the chance that a feature is present",
        sort="descending",
        axis=alt.Axis(labelAngle=0, format="~g"),
    )
    low = min(0.3, float(frame.cosine.min()))
    points = (
        alt.Chart(frame)
        .mark_point(opacity=0.5)
        .encode(
            x=x,
            xOffset="seed:N",
            y=alt.Y(
                "cosine:Q",
                title="largest cosine with a latent",
                scale=alt.Scale(domain=[round(low, 2), 1.01]),
            ),
            tooltip=["density", "seed", "feature", "cosine"],
        )
    )
    line = (
        alt.Chart(pd.DataFrame({"cosine": [FOUND]}))
        .mark_rule(strokeDash=[4, 4], color=GREY)
        .encode(y="cosine:Q")
    )
    return (line + points).properties(width=WIDTH, height=240)


def _by_output(run: Run, seed: int) -> list[torch.Tensor]:
    """W of every output, [conditions, n, m] each."""
    return [run.weights(output, seed) for output in run.outputs]


def _pick(field: str, run: Run) -> str:
    """Vega: the number of the output and the density that are chosen."""
    return f"datum.{field}[indexof({list(run.outputs)}, output)][level]"


def _listed(values: torch.Tensor) -> list[float]:
    """Numbers short enough to be sent: two decimals, no minus zero."""
    return [round(value, 2) + 0.0 for value in values.tolist()]


def _sparse_axis(count: int) -> alt.Axis:
    """Every fifth feature named."""
    return alt.Axis(values=list(range(0, count, 5)), labelAngle=0)


def _few(values: list[float]) -> list[float]:
    """Five of many, the first and the last among them."""
    step = max(1, (len(values) - 1) // 4)
    return values[::step]
