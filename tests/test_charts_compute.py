"""The calculator, its sliders moved with no network, against the arithmetic
in Python; the marks of the verdicts."""

import math

import pandas as pd
import pytest

from helpers import conclusions
from helpers.charts import compute as charts
from helpers.charts import theme
from helpers.compute import costs, plans
from helpers.compute.measured import Device
from tests import browser

MEASURED = Device("A processor", "today", {"TopK": 2e10, "dense": 3e11}, 7e10,
                  "the harvest")  # fmt: skip
HALF = Device("Half", "today", {"TopK": math.nan, "dense": 1.0}, 1.0, "")

SEEN = """
return {
  shown: [...document.querySelectorAll(".mark-text.role-mark text")]
    .map(n => n.textContent),
  titles: [...document.querySelectorAll(".role-title text")]
    .map(n => n.textContent),
};
"""
SET = """
for (const [label, value] of Object.entries(arguments[0])) {
  const row = [...document.querySelectorAll(".vega-bind")]
    .find(n => n.textContent.includes(label));
  const node = row.querySelector("select")
    || row.querySelector(`input[value="${value}"]`)
    || row.querySelector("input");
  if (node.type === "radio") { node.click(); continue; }
  if (node.tagName === "SELECT") {
    node.selectedIndex = [...node.options]
      .findIndex(o => o.textContent === String(value));
    node.dispatchEvent(new Event("change"));
    continue;
  }
  node.value = value;
  node.dispatchEvent(new Event("input"));
  node.dispatchEvent(new Event("change"));
}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The calculator as a file with all its scripts inside."""
    browser.require()
    folder = tmp_path_factory.mktemp("calculator")
    chart = charts.calculator([MEASURED, HALF])
    chart.save(folder / "chart.html", inline=True, embed_options=theme.EMBED)
    return folder


def plan(power, d_in, expansion, saes, depth, model, kind, cards, sae_rate,
         model_rate):  # fmt: skip
    """The plan that the sliders describe, made by Python alone."""
    shape, d_sae = plans.shapes()[model], d_in * expansion
    flops = costs.dense_flops(d_in, d_sae)
    if kind == "TopK":
        flops = costs.topk_flops(d_in, d_sae, 32)
    used = depth * costs.layer_parameters(shape)
    return costs.Plan(
        10**power, d_in, d_sae, saes, cards, costs.codes_held(kind), flops,
        costs.forward_flops(used, depth, 128, shape.d_attn), sae_rate,
        model_rate, 2 * costs.model_parameters(shape),
    )  # fmt: skip


def numbers(seen: dict) -> list[float]:
    """What stands beside the bars, in hours and bytes."""
    units = {"h": 1.0, "GB": 1e9}
    parts = [text.replace(",", "").split() for text in seen["shown"]]
    return [float(value) * units[unit] for value, unit in parts]


def expected(wanted: costs.Plan) -> list[float]:
    bill = costs.bill(wanted)
    return [value for panel in charts.PANELS for value in bill[panel].values()]


def test_sliders_compute_what_python_computes_offline(page):
    with browser.served(page) as base, browser.browser() as driver:
        driver.get(f"{base}/chart.html")
        browser.settle(driver)
        first = driver.execute_script(SEEN)
        chosen = {"power": 7.2, "d_in": 640, "expansion": 32, "with an SAE": 3,
                  "that run": 12, "language model": "gemma-3-270m",
                  "kind": "TopK", "device": "A processor", "how many": 4,
                  "share": 0.5}  # fmt: skip
        driver.execute_script(SET, chosen)
        second = driver.execute_script(SEEN)
        driver.execute_script(SET, {
            "device": "H200 141 GB", "language model": "distilgpt2",
        })  # fmt: skip
        third = driver.execute_script(SEEN)
        browser.check_quiet(driver, base)

    start = plan(8.176, 2048, 8, 6, 6, "gemma-2b", "dense", 3, 31.2e12,
                 31.2e12)  # fmt: skip
    assert numbers(first) == pytest.approx(expected(start), rel=6e-3)
    poster = costs.bill(plans.plan_of("gemma-2b", 31.2e12, 31.2e12, 3))
    assert sum(numbers(first)[:2]) == pytest.approx(
        sum(poster["hours"].values()), rel=6e-3
    )
    after = (7.2, 640, 32, 3, 12, "gemma-3-270m", "TopK", 4)
    measured = plan(*after, 2e10, 7e10)
    assert numbers(second) == pytest.approx(expected(measured), rel=6e-3)
    # of the twelve layers asked for, the model has six
    after = (7.2, 640, 32, 3, 6, "distilgpt2", "TopK", 4)
    card = plan(*after, 0.5 * 989e12, 0.5 * 989e12)
    assert numbers(third) == pytest.approx(expected(card), rel=6e-3)

    said = [" ".join(seen["titles"]) for seen in (first, second, third)]
    assert "nothing was measured on it" in said[0] and "of 80 GB" in said[0]
    assert "rates measured on it" in said[1]
    assert "15.8M tokens, 12 layers of gemma-3-270m" in said[1]
    assert "of 80 GB" not in said[1]
    assert "50%" in said[2] and "of 141 GB" in said[2]
    assert "4 x H200 141 GB" in said[2]


def test_a_device_with_a_missing_rate_is_not_offered():
    text = charts.calculator([MEASURED, HALF]).to_json()
    assert "A processor" in text and "Half" not in text
    assert "NaN" not in text and len(text) < 60_000
    assert "A100" in charts.calculator([]).to_json()


def test_verdicts_are_a_mark_each():
    rows = [
        {"conclusion": name, "profile": profile, "verdict": verdict,
         "shown": "1 against 0", "close": verdict == conclusions.FAILS}
        for name in ("a", "b")
        for profile, verdict in zip(
            ("one", "two", "three"),
            (conclusions.HOLDS, conclusions.FAILS, conclusions.MISSING),
            strict=True,
        )
    ]  # fmt: skip
    chart = charts.verdicts(pd.DataFrame(rows)).to_dict()
    (values,) = chart["datasets"].values()
    assert len(values) == 6
    assert chart["encoding"]["x"]["sort"] == ["one", "two", "three"]
    assert chart["encoding"]["color"]["scale"]["domain"] == [
        conclusions.HOLDS, conclusions.FAILS, conclusions.MISSING,
    ]  # fmt: skip
