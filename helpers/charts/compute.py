"""The calculator of chapter 21, and the table of verdicts of chapter 22.

The calculator's formulas are ``helpers.compute.costs`` applied to Altair
parameters: the page computes what the tests check, with no kernel.
"""

import json
import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from helpers.charts.theme import BLUE, GREY, INK, VERMILLION
from helpers.compute import costs, plans
from helpers.compute.measured import Device
from helpers.conclusions import FAILS, HOLDS, MISSING

PANELS = {
    "hours": ("Hours", 1.0, "h"),
    "memory": ("Memory of each card", 1e9, "GB"),
    "disk": ("Disk, if activations are kept", 1e9, "GB"),
}
PHONE = 190  # px of a bar: with its labels it fits a narrow screen
NUMBER = ",.3~r"  # three digits that count
START = "gemma-2b"  # the profile that the sliders show first


def calculator(devices: Sequence[Device]) -> alt.VConcatChart:
    """Hours, memory and disk of training SAEs, with sliders.

    ``devices``: those with measured rates, offered beside cards of which
    only the published peak is known and of which the reader says what share
    is reached. A device with a missing rate is left out.
    """
    whole = [d for d in devices if _is_measured(d)]
    asked, made = _inputs(whole), _derived(whole)
    named = {p.name: p for p in (*asked, *made)}
    parts = costs.bill(_plan(named))
    panels = [_panel(name, parts[name]) for name in PANELS]
    return (
        alt.vconcat(*panels, title=_title(), spacing=18)
        .add_params(*asked, *made)
    )  # fmt: skip


def _is_measured(device: Device) -> bool:
    return all(map(math.isfinite, [device.model, *device.sae.values()]))


def _inputs(devices: Sequence[Device]) -> list[alt.Parameter]:
    """What the reader sets; the poster's case to begin with."""
    start, said = plans.find_profile(START), plans.poster()

    def slide(name, value, low, high, step, label):
        bind = alt.binding_range(min=low, max=high, step=step, name=label)
        return alt.param(name=name, value=value, bind=bind)

    def choose(name, value, options, label):
        bind = alt.binding_select(options=list(options), name=label)
        return alt.param(name=name, value=value, bind=bind)

    power = round(math.log10(start["tokens"]), 3)
    fold = start["d_sae"] // start["d_in"]
    names = [*(device.name for device in devices), *plans.cards()]
    kinds = alt.binding_radio(options=["TopK", "dense"], name="kind of SAE ")
    expansions = [2**n for n in range(9)]
    return [
        slide("power", power, 5, 11, 0.004, "tokens, 10 to the power of "),
        slide("d_in", start["d_in"], 64, 8192, 64, "d_in "),
        choose("expansion", fold, expansions, "expansion "),
        slide("layers", start["saes"], 1, 40, 1, "layers with an SAE "),
        slide("depth", start["read"], 1, 40, 1,
              "layers of the model that run "),
        choose("model", start["model"], plans.shapes(), "language model "),
        alt.param(name="kind", value=start["kind"], bind=kinds),
        choose("device", said["card"], names, "device "),
        slide("cards", said["cards"], 1, 16, 1, "how many "),
        slide("share", 0.1, 0.01, 1, 0.01,
              "share of a card's peak reached "),
    ]  # fmt: skip


def _derived(devices: Sequence[Device]) -> list[alt.Parameter]:
    """What follows from the choices by looking it up."""
    known, shapes = plans.cards(), plans.shapes()
    names = [*(device.name for device in devices), *known]
    peaks = [card["peak"] for card in known.values()]
    kinds = {
        kind: [device.sae[kind] for device in devices] + peaks
        for kind in ("TopK", "dense")
    }
    model = [device.model for device in devices] + peaks
    room = [0] * len(devices) + [card["memory"] for card in known.values()]
    reached = f"(indexof({json.dumps(names)}, device) < {len(devices)} "
    reached += "? 1 : share)"
    rate = f"(kind == 'TopK' ? {_look('device', names, kinds['TopK'])} : "
    rate += f"{_look('device', names, kinds['dense'])})"
    depths = [shape.layers for shape in shapes.values()]
    layer = [costs.layer_parameters(shape) for shape in shapes.values()]
    attn = [shape.d_attn for shape in shapes.values()]
    held = [2 * costs.model_parameters(shape) for shape in shapes.values()]
    formulas = {
        "run": f"min(depth, {_look('model', shapes, depths)})",
        "per_layer": _look("model", shapes, layer),
        "d_attn": _look("model", shapes, attn),
        "model_bytes": _look("model", shapes, held),
        "sae_rate": f"{rate} * {reached}",
        "model_rate": f"{_look('device', names, model)} * {reached}",
        "room": _look("device", names, room),
        "is_card": f"indexof({json.dumps(names)}, device) >= {len(devices)}",
    }
    return [alt.param(name=n, expr=text) for n, text in formulas.items()]


def _plan(p: dict[str, alt.Parameter]) -> costs.Plan:
    """The plan that the parameters describe."""
    d_sae = p["d_in"] * p["expansion"]
    is_topk = p["kind"] == "TopK"
    return costs.Plan(
        tokens=alt.expr.pow(10, p["power"]), d_in=p["d_in"], d_sae=d_sae,
        saes=p["layers"], cards=p["cards"],
        codes=alt.expr.if_(is_topk, *map(costs.codes_held, ("TopK", "dense"))),
        sae_flops=alt.expr.if_(
            is_topk, costs.topk_flops(p["d_in"], d_sae, plans.K),
            costs.dense_flops(p["d_in"], d_sae),
        ),
        model_flops=costs.forward_flops(
            p["run"] * p["per_layer"], p["run"], costs.CONTEXT, p["d_attn"]
        ),
        sae_rate=p["sae_rate"], model_rate=p["model_rate"],
        model_bytes=p["model_bytes"],
    )  # fmt: skip


def _panel(name: str, parts: dict) -> alt.LayerChart:
    """A bar for each part, its number beside it; the sum in the title."""
    title, unit, word = PANELS[name]
    texts = {part: _text(value / unit) for part, value in parts.items()}
    total = f"format({' + '.join(texts.values())}, '{NUMBER}')"
    words = f"'{title}: ' + {total} + ' {word}'"
    if name == "memory":
        words += " + (is_card ? ' of ' + room / 1e9 + ' GB' : '')"
    listed = ", ".join(f"'{part}': {text}" for part, text in texts.items())
    base = alt.Chart(alt.Data(values=[{"part": part} for part in parts]))
    base = base.transform_calculate(
        value=f"({{{listed}}})[datum.part]",
        shown=f"format(datum.value, '{NUMBER}') + ' {word}'",
    )
    rows = alt.Y("part:N", title=None, sort=list(parts))
    x = alt.X("value:Q", title=None, axis=None)
    bars = base.mark_bar(color=BLUE, height={"band": 0.7}).encode(
        x=x, y=rows, tooltip=["part:N", "shown:N"]
    )
    labels = base.mark_text(align="left", dx=5, color=INK).encode(
        x=x, y=rows, text="shown:N"
    )
    return (bars + labels).properties(
        width=PHONE, height=alt.Step(24),
        title=alt.TitleParams(text=alt.ExprRef(words)),
    )  # fmt: skip


def _title() -> alt.TitleParams:
    """What is computed, and which part of it was measured."""
    lines = [
        "format(pow(10, power), '.3~s') + ' tokens, ' + run + ' layer' + "
        "(run > 1 ? 's' : '') + ' of ' + model",
        "layers + ' ' + kind + ' SAE' + (layers > 1 ? 's' : '') + ' of ' + "
        "format(d_in, ',') + ' x ' + format(d_in * expansion, ',')",
        "'on ' + cards + ' x ' + device + (is_card ? ' at ' + "
        "format(share, '.0%') + ' of its peak:' : ':')",
        "is_card ? 'arithmetic, nothing was measured on it' : "
        "'rates measured on it at one size, the rest arithmetic'",
    ]
    text = alt.ExprRef(f"[{', '.join(lines)}]")
    return alt.TitleParams(
        text=text, fontWeight="normal", fontSize=13, frame="bounds"
    )


def _look(parameter: str, names, values) -> str:
    """Vega: the value whose name the parameter holds."""
    numbers = [float(value) for value in values]
    return f"{numbers}[indexof({json.dumps(list(names))}, {parameter})]"


def _text(value) -> str:
    """An Altair expression as Vega reads it."""
    found = (value * 1).to_dict()
    return f"({found['expr'] if isinstance(found, dict) else found})"


VERDICTS = {
    HOLDS: (BLUE, "circle"),
    FAILS: (VERMILLION, "cross"),
    MISSING: (GREY, "stroke"),
}


def verdicts(table: pd.DataFrame) -> alt.Chart:
    """A row a conclusion, a column a profile, a mark a verdict.

    ``table``: of ``conclusions.judge``. A close verdict's mark is hollow.
    """
    names = list(dict.fromkeys(table["profile"]))
    rows = alt.Y(
        "conclusion:N", title=None, axis=alt.Axis(labelLimit=360),
        sort=list(dict.fromkeys(table["conclusion"])),
    )  # fmt: skip
    x = alt.X(
        "profile:N", title=None, sort=names,
        axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
    )  # fmt: skip
    domain = list(VERDICTS)
    colours, shapes = zip(*VERDICTS.values(), strict=True)
    colour = alt.Color(
        "verdict:N", title=None,
        scale=alt.Scale(domain=domain, range=list(colours)),
    )  # fmt: skip
    shape = alt.Shape(
        "verdict:N", title=None,
        scale=alt.Scale(domain=domain, range=list(shapes)),
    )  # fmt: skip
    fields = ["conclusion", "profile", "verdict", "shown", "close"]
    return (
        alt.Chart(table[fields])
        .mark_point(filled=True, size=130, strokeWidth=2)
        .encode(
            x=x, y=rows, color=colour, shape=shape, stroke=colour,
            fillOpacity=alt.condition("datum.close", alt.value(0.1),
                                      alt.value(1)),
            tooltip=[f"{name}:N" for name in fields],
        )
        .properties(width=alt.Step(max(60, 180 // len(names))),
                    height=alt.Step(24))
    )  # fmt: skip
