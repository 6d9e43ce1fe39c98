"""Charts of many SAEs: what they count, and that they are whole."""

import numpy as np
import pandas as pd
import pytest

from helpers.charts import quality as charts
from helpers.charts.theme import COLOURS, GREY


def rows(chart):
    """All data of a chart, by column."""
    parts = chart.to_dict()["datasets"].values()
    return pd.concat([pd.DataFrame(part) for part in parts])


def test_density_shares_by_hand():
    density = np.array([0, 0, 0.011, 0.02, 0.5, 1.0])
    found = charts.density_shares({"A": density}, width=1.0)
    live = found[found["density"] != charts.NEVER]
    assert live["start"].tolist() == [-2, -1]
    assert live["latents"].tolist() == [2, 2]
    never = found[found["density"] == charts.NEVER]
    assert never["latents"].tolist() == [2] and never["end"].item() < -2
    assert found["share"].sum() == pytest.approx(1, abs=1e-4)


def test_every_latent_of_every_sae_is_on_the_map():
    random = np.random.default_rng(0)
    densities = {n: random.random(50) ** 9 for n in "ab"} | {"c": np.zeros(9)}
    found = rows(charts.density_map(densities))
    assert found.groupby("SAE")["latents"].sum().to_dict() == {
        "a": 50, "b": 50, "c": 9
    }  # fmt: skip
    charts.density_map({"none": np.zeros(3)}).to_dict()


def table():
    return pd.DataFrame(
        {
            "name": ["a", "b", "c", "d"],
            "kind": ["TopK", "TopK", "random (control)", "L1"],
            "series": ["s", "s", "r", "l"], "size": ["", "32x", "", ""],
            "l0": [16, 32, 32, 90.0], "fvu": [0.3, 0.2, 0.9, 0.1],
            "fvu_low": [0.29, 0.19, 0.8, 0.09], "skill": [0.2, 0.3, 0.0, 0.1],
            "fvu_high": [0.31, 0.21, 1.0, 0.11],
            "score_zero": [0.9, 0.95, np.nan, 0.97],
            "score_zero_low": [0.8, 0.9, np.nan, 0.9],
            "score_zero_high": [0.95, 0.99, np.nan, 0.99],
        }
    )  # fmt: skip


def test_frontier_leaves_out_what_has_no_score():
    chart = charts.frontier(table()).to_dict()
    assert len(chart["vconcat"]) == 2
    names = [
        sorted({row["name"] for row in part})
        for part in chart["datasets"].values()
    ]
    assert sorted(names) == [["a", "b", "c", "d"], ["a", "b", "d"]]


def test_lengths_have_a_panel_for_each_measure():
    reads = ["0", "300,000"]
    frame = pd.DataFrame(
        [(read, measure, units, 0.2, 0.1, 0.3)
         for read in reads for measure in ("fvu", "context")
         for units in ("features", "neurons")
         if (measure, units) != ("fvu", "neurons")],
        columns=["read", "measure", "units", "value", "low", "high"],
    )  # fmt: skip
    titles = {"fvu": "FVU", "context": "skill, context"}
    made = charts.by_length(frame, titles)
    chart = made.to_dict()
    assert len(chart["vconcat"]) == 2 and len(rows(made)) == 6
    for panel, title in zip(chart["vconcat"], titles.values(), strict=True):
        encoding = panel["layer"][0]["encoding"]
        assert encoding["y"]["title"] == title
        assert encoding["x"]["sort"] == reads  # not in the order of letters


def test_controls_are_grey_and_axes_are_named():
    chart = charts.scatter(table(), "fvu", "skill", rule=0.2).to_dict()
    scale = chart["layer"][-1]["encoding"]["color"]
    text = str(chart)
    assert charts.AXES["skill"][0] in text and charts.AXES["fvu"][0] in text
    assert scale == {"value": "currentColor"}  # of the words
    dots = chart["layer"][-2]["encoding"]["color"]["scale"]
    assert dots["range"] == [COLOURS[0], GREY, COLOURS[1]]
    one = charts.scatter(table().tail(1), "l0", "fvu").to_dict()
    dots = one["layer"][-2]["encoding"]["color"]["scale"]
    assert dots == {"domain": ["L1"], "range": [COLOURS[1]]}  # as before
    budgets = table().assign(kind=["short", "short", "full", "full"])
    dots = charts.scatter(budgets, "l0", "fvu").to_dict()["layer"][-2]
    assert len({*dots["encoding"]["color"]["scale"]["range"]}) == 2
    encoding = chart["layer"][-2]["encoding"]
    assert encoding["x"]["scale"]["type"] == "log"  # FVU
    assert encoding["y"]["scale"]["type"] == "linear"  # skill


def test_l0_has_a_logarithmic_axis():
    chart = charts.scatter(table(), "l0", "fvu").to_dict()
    for side in "xy":
        used = [e["encoding"][side]["scale"]["type"] for e in chart["layer"]]
        assert set(used) == {"log"}


def test_no_rare_latents_are_said():
    none = pd.DataFrame(columns=["where", "group", "cosine"])
    assert rows(charts.rare_histograms(none))["text"].item().startswith("no ")


def test_rare_histograms_by_hand():
    cosines = pd.DataFrame(
        [["enc", "rare", 0.9], ["enc", "rare", 0.1], ["enc", "others", 0.1]],
        columns=["where", "group", "cosine"],
    )
    found = rows(charts.rare_histograms(cosines, bins=2))
    found = found.set_index("group")["share"]
    assert found.to_dict() == {"rare": 1.0, "others": 1.0}
    found = rows(charts.rare_histograms(cosines, bins=10))
    rare = found[found["group"] == "rare"].set_index("start")["share"]
    assert rare.to_dict() == {0.0: 0.5, 0.8: 0.5}


def test_by_density_draws_a_panel_a_value():
    profiles = pd.DataFrame(
        [["bias", -2.5, 9, -1, 0, 1, "A"], ["cosine", -2.5, 9, 0, 1, 2, "A"]],
        columns=["value", "density", "latents", "low", "median", "high",
                 "SAE"],
    )  # fmt: skip
    chart = charts.by_density(profiles).to_dict()
    assert [p["title"] for p in chart["vconcat"]] == ["bias", "cosine"]
