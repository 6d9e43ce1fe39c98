"""Charts of minimal pairs: what they hold, and that they are drawn."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers.charts import deflections, syntax


def paired(count=400, contrasts=("voice", "tense")):
    rng = np.random.default_rng(0)
    parts = []
    for name in contrasts:
        d_z = rng.normal(0, 0.3, count)
        parts.append(
            pd.DataFrame(
                {
                    "contrast": name,
                    "feature": np.arange(count),
                    "d_z": d_z,
                    "difference": d_z * 2,
                    "higher": 0.25,
                    "lower": 0.1,
                    "q": 10.0 ** -np.abs(8 * d_z),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def curves():
    return pd.DataFrame(
        {
            "contrast": ["voice"] * 3, "offset": [-1, 0, 1], "pairs": 9,
            "difference": [0, 1, 0.4], "low": [0, 1, 0.3],
            "high": [0, 1, 0.5],
        }
    )  # fmt: skip


def scores(value="accuracy"):
    return pd.DataFrame(
        {
            "model": ["A", "A", "A", "bigram"],
            "kind": ["opposite", "none", "same", "none"],
            "nouns": [2, 0, 1, 0],
            value: [0.25, 0.75, 0.5, 0.6], "low": 0.1, "high": 0.9,
        }
    )  # fmt: skip


def judged():
    return scores().assign(phenomenon=["voice", "tense", "case", "voice"],
                           pairs=8)


def rows(chart):
    return [r for data in chart.to_dict()["datasets"].values() for r in data]


def every_chart():
    return {
        "volcano": deflections.volcano(paired(), {3: " tok"}),
        "carried": syntax.carried(curves()),
        "by_nouns": syntax.by_nouns(scores(), "accuracy", "model", "right"),
        "phenomena": syntax.phenomena(judged()),
    }


@pytest.mark.parametrize("name", every_chart())
def test_chart_is_drawn_and_small(name):
    import vl_convert

    said = every_chart()[name].to_json()
    assert vl_convert.vegalite_to_svg(said).startswith("<svg")
    assert len(said) < 300_000


def test_volcano_holds_the_extremes_and_a_brush():
    frame = paired()
    chart = deflections.volcano(frame, {7: " tok"}, shown=40)
    points = pd.DataFrame([r for r in rows(chart) if "feature" in r])
    for name, part in frame.groupby("contrast"):
        shown = set(points[points["contrast"] == name]["feature"])
        assert set(part.nsmallest(20, "q")["feature"]) <= shown
        assert len(shown) <= 40
    first = points.iloc[0]
    real = frame[(frame["contrast"] == first["contrast"])
                 & (frame["feature"] == first["feature"])].iloc[0]
    assert first["y"] == pytest.approx(-np.log10(real["q"]), abs=1e-3)
    assert first["x"] == pytest.approx(real["d_z"], abs=1e-3)
    assert "brush" in json.dumps(chart.to_dict()["params"])
    counted = sum(r.get("count", 0) for r in rows(chart))
    assert counted + len(points) == len(frame)


def test_volcano_leaves_out_undefined_effects():
    frame = paired(50, ["voice"])
    frame.loc[3, "d_z"] = np.nan
    held = rows(deflections.volcano(frame))
    assert 3 not in {r["feature"] for r in held if "feature" in r}
    assert sum("feature" in r for r in held) == 49


def test_nouns_of_the_other_number_are_on_the_left():
    held = rows(syntax.by_nouns(scores(), "accuracy", "model", "right"))
    at = {(r["kind"], r["nouns"]): r["at"] for r in held if "at" in r}
    assert at == {("opposite", 2): -2, ("none", 0): 0, ("same", 1): 1}


def test_phenomena_are_ordered_by_the_first_model():
    chart = syntax.phenomena(judged()).to_dict()
    sort = next(
        layer["encoding"]["y"]["sort"]
        for layer in chart["layer"]
        if "y" in layer["encoding"]
    )
    assert sort == ["tense", "case", "voice"]


def test_a_line_is_broken_where_a_distance_is_missing():
    frame = curves().assign(offset=[-1, 0, 4])
    held = rows(syntax.carried(frame))
    runs = {r["offset"]: r["run"] for r in held if "run" in r}
    assert runs[-1] == runs[0] != runs[4]
