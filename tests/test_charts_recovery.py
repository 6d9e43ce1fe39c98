"""The charts of recovery: what they hold, and that they are drawn."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers import recovery
from helpers.charts import recovery as charts
from tests.test_recovery import study


@pytest.fixture(scope="module")
def found():
    return study(noise=0.1)[2]


def levels():
    random = np.random.default_rng(0)
    active = random.exponential(size=200) * (random.random(200) < 0.5)
    return recovery.by_level(active, random.random(200) < 0.4)


def by_model(found):
    frame = recovery.averages(found)
    return frame.assign(model=["A", "B"], units=["features", "neurons"])


def every_chart(found):
    two = [levels().assign(panel=p, kind=k) for p, k in PANELS.items()]
    grown = pd.DataFrame(
        {"target": "b", "basis": "good", "n": [1, 2], "f1": [0.5, 0.7]}
    )
    shares = pd.DataFrame(
        {"unit": ["neuron 1"] * 2, "class": ["x", "y"], "share": [0.25, 0.75]}
    )
    return {
        "dots": charts.dots(found.scores),
        "models": charts.models(by_model(found)),
        "gaps": charts.gaps(recovery.duel(found.scores, "bad")),
        "skills": charts.skills(found.units),
        "spectra": charts.spectra(pd.concat(two)),
        "by_level": charts.by_level(pd.concat(two)),
        "growth": charts.growth(grown),
        "class_bars": charts.class_bars(shares),
    }


PANELS = {"Arabic": "crisp", "mood": "vague"}
NAMES = "dots models gaps skills spectra by_level growth class_bars".split()


@pytest.mark.parametrize("name", NAMES)
def test_charts_are_whole_specifications(found, name):
    import vl_convert

    chart = every_chart(found)[name]
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    assert drawn.startswith("<svg") and "NaN" not in drawn


def rows_of(chart) -> list[dict]:
    spec = json.loads(chart.to_json())
    return [row for part in spec["datasets"].values() for row in part]


def test_gaps_hold_every_target(found):
    rows = rows_of(charts.gaps(recovery.duel(found.scores, "bad")))
    names = {row["target"] for row in rows if "target" in row}
    assert names == set(found.scores["target"])
    gap = {row["target"]: row["gap"] for row in rows if "target" in row}
    wanted = recovery.duel(found.scores, "bad").set_index("target")["gap"]
    assert gap["letter: b"] == pytest.approx(wanted["letter: b"], abs=1e-4)


def test_skills_count_every_unit(found):
    rows = [r for r in rows_of(charts.skills(found.units)) if "units" in r]
    assert sum(row["units"] for row in rows) == len(found.units)


def test_spectra_keep_every_active_token():
    made = levels()
    rows = rows_of(charts.spectra(made.assign(panel="one")))
    held = {r["truth"]: 0 for r in rows if "truth" in r}
    seen = {(r["truth"], r["start"], r["tokens"]) for r in rows if "mass" in r}
    for truth, _, tokens in seen:
        held[truth] += tokens
    assert held == {
        "has it": made["true"].sum(), "does not": made["false"].sum()
    }  # fmt: skip


def test_models_hold_every_average(found):
    rows = [r for r in rows_of(charts.models(by_model(found))) if "model" in r]
    wanted = recovery.averages(found)["f1"].round(4).tolist()
    assert [row["f1"] for row in rows] == wanted
