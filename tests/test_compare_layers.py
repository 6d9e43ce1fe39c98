"""Which layers differ: against plain loops, and where nothing differs."""

import numpy as np
import pandas as pd
import pytest

from helpers.charts import layers as charts
from helpers.compare import Contrast, layers
from helpers.errors import InputError

CONTRAST = Contrast("a", "b")


def documents(sets: int) -> pd.DataFrame:
    """A treatment and a control for each set, sets in another order."""
    groups = np.arange(sets)
    return pd.DataFrame({
        "label": ["a"] * sets + ["b"] * sets,
        "group": [*groups, *groups[::-1]],
    })  # fmt: skip


def drawn(sets: int, seed: int, shift=0.0, width: int = 6) -> np.ndarray:
    """Maxima of those documents: the sets differ, a lies ``shift`` higher."""
    random = np.random.default_rng(seed)
    common = random.gamma(2, size=(sets, width))
    noise = random.gamma(1, size=(2, sets, width))
    return np.concatenate([
        common + noise[0] + shift, (common + noise[1])[::-1]
    ]).astype(np.float32)  # fmt: skip


def plain(maxima: np.ndarray, sets: int) -> float:
    """The ratio by loops over pairs of different sets."""
    a, b = maxima[:sets].astype(float), maxima[sets:][::-1].astype(float)
    over = under = 0.0
    for i in range(sets):
        for j in range(sets):
            if i != j:
                over += (a[i] - b[i]) @ (a[j] - b[j])
                under += (a[i] + b[i]) @ (a[j] + b[j]) / 4
    return over / under


def test_the_difference_and_its_jackknife_are_those_of_plain_loops():
    sets, maxima = 7, drawn(7, 3, shift=0.3)
    found = layers.lengths({0: maxima}, documents(sets), [CONTRAST]).iloc[0]
    assert found["difference"] == pytest.approx(plain(maxima, sets))
    without = []
    for s in range(sets):
        kept = [n for n in range(2 * sets) if n not in (s, 2 * sets - 1 - s)]
        without.append(plain(maxima[kept], sets - 1))
    error = np.sqrt((sets - 1) / sets * np.var(without) * sets)
    low = found["difference"] - 2.446912 * error  # t(6), 97.5%
    assert found["low"] == pytest.approx(low, rel=1e-5)
    assert found["sets"] == sets


def test_noise_adds_nothing_and_intervals_hold_what_they_promise():
    values, held, naive = [], [], []
    for seed in range(200):
        maxima = drawn(30, seed)
        row = layers.lengths({0: maxima}, documents(30), [CONTRAST]).iloc[0]
        values.append(row["difference"])
        held.append(row["low"] <= 0 <= row["high"])
        gap = maxima[:30].mean(0) - maxima[30:].mean(0)
        naive.append(gap @ gap)
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error and np.mean(naive) > 0.1
    assert 0.9 <= np.mean(held) <= 1.0


def test_the_layer_that_differs_is_found():
    maxima = {0: drawn(40, 0), 1: drawn(40, 1, 1.0), 2: drawn(40, 2, 0.95),
              3: 10 * drawn(40, 3, 0.2)}  # fmt: skip
    found = layers.lengths(maxima, documents(40), [CONTRAST])
    assert found["behind"].tolist() == [True, False, False, True]
    depth = layers.Depth(pd.DataFrame(), found)
    first, other = (1, 2) if found["difference"].idxmax() == 1 else (2, 1)
    assert depth.leads == f"a vs b: layer {first} (or {other})"
    assert depth.count == 4
    with pytest.raises(InputError, match="2 matched sets.*three or more"):
        layers.lengths({0: drawn(2, 0)}, documents(2), [CONTRAST])


def test_charts_have_a_panel_and_an_interval_for_each_layer():
    frame = documents(40)
    maxima = {n: drawn(40, n, 0.2 * n) for n in range(3)}
    parts = [
        layers._deflections(values, frame, CONTRAST, 1e-3, 2)
        .assign(layer=n, contrast=CONTRAST.name)
        for n, values in maxima.items()
    ]
    panels = charts.panels(pd.concat(parts)).to_dict()
    rows = [r for d in panels["datasets"].values() for r in d]
    assert {r["layer"] for r in rows} == {0, 1, 2}
    assert sum(r["features"] for r in rows) == 3 * 6
    found = layers.lengths(maxima, frame, [CONTRAST])
    drawn_rows = charts.by_layer(found).to_dict()["datasets"].values()
    assert any(len(d) == 3 and d[0]["low"] < d[0]["high"] for d in drawn_rows)
