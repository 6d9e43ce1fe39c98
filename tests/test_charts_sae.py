"""The charts: what they count, and that they are whole specifications."""

import numpy as np
import pandas as pd
import pytest

from helpers.charts import sae as charts


def test_density_counts_by_hand():
    density = np.array([0, 0, 0.001, 0.0011, 0.1, 1.0])
    counts, low = charts.density_counts({"A": density}, bins=3)
    assert low == pytest.approx(-3, abs=1e-3)
    lives = counts[counts["fires"] == "yes"]
    assert lives["latents"].tolist() == [2, 2]  # nothing in the middle third
    assert lives["start"].round(1).tolist() == [-3, -1]
    never = counts[counts["fires"] == "never"]
    assert never["latents"].tolist() == [2] and (never["end"] < low).all()


def test_density_with_no_latent_alive():
    counts, _ = charts.density_counts({"A": np.zeros(7)})
    assert counts["latents"].tolist() == [7]
    charts.density_histogram({"A": np.zeros(7)}).to_dict()


def log(lines):
    tokens = np.arange(1, lines + 1) * 1000
    return pd.DataFrame(
        {"tokens": tokens, "fvu": 1 / tokens, "l0": 32.0, "dead": 0.0}
    )


def test_training_curves_stay_small_and_keep_the_last_line():
    chart = charts.training_curves({"A": log(1000), "B": log(3)})
    data = chart.to_dict()["datasets"]
    for rows in data.values():
        assert len(rows) <= 123
        assert max(row["millions"] for row in rows) == 1.0
    titles = [panel["title"] for panel in chart.to_dict()["vconcat"]]
    assert titles == list(charts.PANELS.values())


def test_size_curves_draw_a_line_a_series_in_both_panels():
    ends = pd.DataFrame(
        [["a 1x", "a", 1, 0.5, 0.0], ["a 8x", "a", 8, 0.2, 0.1],
         ["b 8x", "b", 8, 0.3, 0.4]],
        columns=["SAE", "series", "expansion", "fvu", "dead"],
    )  # fmt: skip
    chart = charts.size_curves(ends).to_dict()
    assert [p["title"] for p in chart["vconcat"]] == [
        charts.PANELS["fvu"], charts.PANELS["dead"]
    ]  # fmt: skip
    for panel in chart["vconcat"]:
        assert len(chart["datasets"][panel["data"]["name"]]) == 3
        assert panel["encoding"]["x"]["axis"]["values"] == [1, 8]


def test_loss_bars_hold_every_treatment_of_every_class():
    losses = pd.DataFrame(
        [[1, 2, 4, 3.0]], columns=["clean", "sae", "zero", "mean"]
    ).rename(index=["prose"].__getitem__)
    losses.index.name = "text_class"
    (rows,) = charts.loss_bars(losses).to_dict()["datasets"].values()
    found = {row["treatment"]: row["nats"] for row in rows}
    assert found == {
        "clean": 1, "SAE's reconstruction": 2,
        "mean instead": 3, "zero instead": 4,
    }  # fmt: skip


def test_score_bars():
    scores = pd.DataFrame(
        [["A", 0.79, "published"], ["B", 0.9, "ours"]],
        columns=["what", "score", "whose"],
    )
    (rows,) = charts.score_bars(scores).to_dict()["datasets"].values()
    assert [row["score"] for row in rows] == [0.79, 0.9]
