"""Charts of comparisons: what is counted, what is drawn, how large."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers.charts import deflections

CONTRASTS = ["positive vs neutral", "negative vs neutral"]


def table(features=4096, contrasts=CONTRASTS, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    parts = []
    for name in contrasts:
        size = rng.normal(0, scale, features)
        parts.append(
            pd.DataFrame(
                {
                    "contrast": name,
                    "feature": np.arange(features),
                    "deflection": size,
                    "auroc": 1 / (1 + np.exp(-size / scale)),
                    "cohens_d": size / scale,
                    "mean_treatment": 2 + size,
                    "mean_control": 2.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def weight(chart):
    """Kilobytes of a chart's specification."""
    return len(chart.to_json(indent=None).encode()) / 1000


def rows(chart):
    """All data rows in a chart."""
    return [
        row for data in chart.to_dict()["datasets"].values() for row in data
    ]


def test_histogram_counts_are_numpys_and_have_no_empty_bin():
    frame, null = table(), table(500, seed=1, scale=0.2)
    counts = deflections.histogram_counts(frame, null, bins=21)
    assert (counts["features"] > 0).all()
    sums = counts.groupby(["contrast", "kind"])["features"].sum()
    assert sums.xs("contrast", level="kind").tolist() == [4096, 4096]
    assert sums.xs("null pair", level="kind").tolist() == [500, 500]
    part = counts[
        (counts["contrast"] == CONTRASTS[0]) & (counts["kind"] == "contrast")
    ]
    reach = frame["deflection"].abs().max() * 1.001
    expected, _ = np.histogram(
        frame["deflection"][:4096], np.linspace(-reach, reach, 22)
    )
    assert part["features"].tolist() == expected[expected > 0].tolist()
    middle = counts[(counts["start"] < 0) & (counts["end"] > 0)]
    assert middle["start"].to_numpy() == pytest.approx(-middle["end"])


def test_histogram_of_nothing_that_moves():
    still = table(10).assign(deflection=0.0)
    counts = deflections.histogram_counts(still)
    assert counts["features"].tolist() == [10, 10]


def test_histogram_draws_a_panel_per_contrast_on_a_log_scale():
    chart = deflections.histogram(table(), table(seed=1))
    panels = chart.to_dict()["concat"]
    assert [panel["title"]["text"] for panel in panels] == CONTRASTS
    bars = panels[0]["layer"][0]
    assert bars["encoding"]["y"]["scale"]["type"] == "log"
    floor = bars["encoding"]["y"]["scale"]["domainMin"]
    drawn = [row["features"] for row in rows(chart) if "features" in row]
    assert 0 < floor < min(drawn)
    many = [f"language {i} vs English" for i in range(7)]
    assert deflections.histogram(table(50, many)).to_dict()["columns"] == 2


def test_outline_falls_to_the_floor_in_a_gap():
    counts = pd.DataFrame(
        {
            "contrast": "a",
            "kind": "null pair",
            "start": [0.0, 1.0, 3.0],
            "end": [1.0, 2.0, 4.0],
            "features": [5, 7, 1],
        }
    )
    path = deflections.outline_path(counts)
    low = deflections.FLOOR
    assert list(zip(path["x"], path["y"], strict=True)) == [
        (0, low), (0, 5), (1, 5), (1, 7), (2, 7),
        (2, low), (3, low), (3, 1), (4, 1), (4, low),
    ]  # fmt: skip


def test_scatter_shows_every_feature_once():
    frame = table(2000)
    chart = deflections.scatter(frame, {3: "tok"}, shown=100)
    assert weight(chart) < 150
    data = rows(chart)
    points = [row for row in data if "feature" in row]
    cells = [row for row in data if "count" in row]
    assert len(points) + sum(row["count"] for row in cells) == len(frame)
    for name in CONTRASTS:
        part = frame[frame["contrast"] == name]
        strongest = part["deflection"].abs().idxmax()
        assert any(
            row["contrast"] == name
            and row["feature"] == part.loc[strongest, "feature"]
            for row in points
        )


def test_scatter_of_few_features_and_of_one_contrast():
    frame = table(5, CONTRASTS[:1])
    chart = deflections.scatter(frame, {3: " tok"})
    data = [row for row in rows(chart) if "feature" in row]
    assert sorted(row["feature"] for row in data) == [0, 1, 2, 3, 4]
    assert {row["token"] for row in data} == {"", "␣tok"}
    assert "bind" not in json.dumps(chart.to_dict()["params"])


def test_specifications_stay_small():
    many = [f"language {i} vs English" for i in range(7)]
    frame = table(4096, many)
    tokens = {i: f" token{i}" for i in range(4096)}
    assert weight(deflections.histogram(frame, frame)) < 150
    assert weight(deflections.scatter(frame, tokens, shown=80)) < 150
    assert weight(deflections.top_bars(frame, tokens, count=5)) < 150


def test_top_bars_take_the_largest_of_each_contrast():
    frame = table(300)
    chart = deflections.top_bars(frame, {}, count=4)
    data = pd.DataFrame(rows(chart)).drop_duplicates(["contrast", "feature"])
    for name in CONTRASTS:
        part = frame[frame["contrast"] == name]
        expected = part["deflection"].abs().nlargest(4).index
        assert set(data[data["contrast"] == name]["feature"]) == set(
            part.loc[expected, "feature"]
        )


def test_overlaps_have_a_point_and_an_interval():
    frame = pd.DataFrame(
        {
            "contrast": ["Korean", "Korean"],
            "pair": ["twin", "stranger"],
            "share": [0.5, 0.4],
            "low": [0.45, 0.39],
            "high": [0.55, 0.41],
        }
    )
    spans, dots = deflections.overlaps(frame).to_dict()["layer"]
    assert spans["encoding"]["x2"]["field"] == "high"
    assert dots["encoding"]["x"]["field"] == "share"


def test_charts_compile():
    """Vega-Lite accepts them (its compiler runs, no browser)."""
    import vl_convert

    frame = table(200)
    for chart in (
        deflections.histogram(frame, frame),
        deflections.scatter(frame, {}),
        deflections.top_bars(frame, {}),
    ):
        assert vl_convert.vegalite_to_svg(chart.to_json()).startswith("<svg")


def test_shorten():
    assert deflections.shorten(" a\n\tb") == "␣a↵⇥b"
    assert deflections.shorten("x" * 30) == "x" * 13 + "…"
