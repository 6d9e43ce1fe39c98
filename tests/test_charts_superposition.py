"""Charts of the toys: what they hold, and dragging one with no network."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.charts import superposition as charts
from helpers.charts import theme
from helpers.superposition import stage, toys
from tests import browser

DENSITIES = 1.0, 0.1, 0.01


def run(n, m, outputs=toys.OUTPUTS, seeds=2):
    random = torch.Generator().manual_seed(n)
    shape = len(outputs), len(DENSITIES), seeds, n
    found = toys.Toys(
        torch.randn(*shape, m, generator=random), torch.zeros(shape)
    )
    importance = toys.geometric(n, 0.7)
    return stage.Run(found, tuple(outputs), DENSITIES, importance)


@pytest.fixture(scope="module")
def pair():
    return run(8, 3), run(5, 2, outputs=["relu"])


def test_explorer_holds_every_density_and_output(pair):
    large, small = pair
    chart = charts.explorer(large, small).to_dict()
    rows = chart["hconcat"][0]["data"]["values"]
    assert len(rows) == 64
    for output in range(2):
        for at in range(3):
            W = large.toys.W[output, at, 0]
            found = [row["v"][output][at] for row in rows]
            expected = (W @ W.T).flatten()
            assert np.allclose(found, expected, atol=0.0051)
    sliders = {p["name"]: p["bind"] for p in chart["params"]}
    assert sliders["level"]["max"] == 2
    assert sliders["output"]["options"] == ["relu", "linear"]


def test_explorer_is_light():
    large, small = run(20, 5), run(5, 2, outputs=["relu"])
    size = len(json.dumps(charts.explorer(large, small).to_dict()))
    assert size < 100_000


def test_the_drawn_polygon_is_the_seed_with_the_least_loss(pair):
    small = pair[1]
    found = small.outcomes()
    best = charts.best_of_seeds(small)
    for at, density in enumerate(DENSITIES):
        part = found[found.density == density]
        seed = part.seed[part.loss.idxmin()]
        assert best[at].equal(small.toys.W[0, at, seed])


def test_other_charts_are_whole(pair):
    charts.kept(pair[0].outcomes()).to_dict()
    drawn = charts.dimensions(pair[0]).to_dict()
    rows = [r for d in drawn["datasets"].values() for r in d]
    assert sum("feature" in row for row in rows) == 8 * len(DENSITIES)
    grid = pd.DataFrame([
        [0.1, 1.0, "both", "first", 0.2, 1.0, -1.0],
        [0.2, 1.0, "first", "first", 0.2, 1.0, 0.0],
    ], columns=["density", "importance", "phase", "trained", "loss",
                "w_first", "w_second"])  # fmt: skip
    maps = charts.phase_maps(grid).to_dict()
    assert [m["title"] for m in maps["hconcat"]] == ["closed form", "trained"]
    found = pd.DataFrame({"density": [1.0], "seed": [0], "feature": [3],
                          "cosine": [0.95]})  # fmt: skip
    assert charts.recovery(found).to_dict()


# --- dragging ------------------------------------------------------------

MARKS = """
const fills = name => [...document.querySelectorAll(name)];
const heat = fills(".concat_0_group .mark-rect.role-mark path");
const bars = fills(".concat_1_group .mark-rect.role-mark path");
const arrows = fills(".concat_2_group .mark-rule.role-mark line");
return {
  heat: heat.map(n => getComputedStyle(n).fill),
  labels: heat.map(n => n.getAttribute("aria-label")),
  bars: bars.map(n => n.getAttribute("d")),
  arrows: arrows.map(n => [n.getAttribute("x2"), n.getAttribute("y2"),
                           n.getAttribute("transform")].join()),
  title: [...document.querySelectorAll(".role-title text")]
    .map(n => n.textContent).join(" "),
};
"""


@pytest.fixture(scope="module")
def page(pair, tmp_path_factory):
    """The chart as a file with all its scripts inside."""
    browser.require()
    folder = tmp_path_factory.mktemp("explorer")
    chart = charts.explorer(*pair)
    chart.save(folder / "chart.html", inline=True,
               embed_options=theme.EMBED)  # fmt: skip
    return folder


def test_dragging_redraws_all_three_panels_offline(page, pair):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    with browser.served(page) as base, browser.browser() as driver:
        driver.get(f"{base}/chart.html")
        slider = driver.find_element(By.CSS_SELECTOR, "input[type=range]")
        seen = [driver.execute_script(MARKS)]
        width = slider.size["width"]
        for _ in range(2):  # from the left end to the middle and the right
            ActionChains(driver).click_and_hold(slider).move_by_offset(
                len(seen) * width // 2 - width // 2, 0
            ).release().perform()
            seen.append(driver.execute_script(MARKS))
        driver.find_element(
            By.CSS_SELECTOR, "input[type=radio][value=linear]"
        ).click()
        linear = driver.execute_script(MARKS)
        browser.check_quiet(driver, base)
    large = pair[0]
    for at, marks in enumerate(seen[1:], start=1):
        assert f"1 - S = {DENSITIES[at]:g}" in marks["title"]
    for name in ("heat", "bars", "arrows"):
        assert len(seen[0][name]) == {"heat": 64, "bars": 8, "arrows": 5}[name]
        assert seen[0][name] != seen[1][name] != seen[2][name], name
    assert linear["heat"] != seen[2]["heat"]
    W = large.toys.W[1, 2, 0]
    shown = [float(text.split("W_i · W_j: ")[1].split(";")[0]
                   .replace("\u2212", "-")) for text in linear["labels"]]
    assert np.allclose(shown, (W @ W.T).flatten(), atol=0.011)
