"""One basis against another: by hand, and what the verdict says."""

import re

import numpy as np
import pandas as pd
import pytest

from helpers import recovery
from tests.test_recovery import study


def test_contest_pools_the_targets_of_all_corpora():
    studies = [study(noise=0.2, resamples=300, seed=s)[2] for s in (0, 1)]
    found = recovery.contest(studies, "good", "bad")
    scores = pd.concat(s.scores for s in studies).groupby("basis")["f1"]
    assert found.value == pytest.approx(
        scores.mean()["good"] - scores.mean()["bad"]
    )
    gaps = np.hstack([s.drawn["good"] - s.drawn["bad"] for s in studies])
    ends = np.quantile(gaps.mean(1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(tuple(ends))
    assert 0 < found.low < found.value < found.high
    back = recovery.contest(studies, "bad", "good")
    assert back.value == pytest.approx(-found.value)


def test_median_gaps_cover():
    """The medians of two exponentials; 200 pairs of samples."""
    random, held = np.random.default_rng(2), 0
    for seed in range(200):
        a, b = random.exponential(2, 120), random.exponential(1, 80)
        gap = recovery.median_gap(a, b, resamples=300, seed=seed)
        assert gap.value == np.median(a) - np.median(b)
        held += gap.low <= np.log(2) <= gap.high
    assert 181 <= held <= 198  # binomial, 95% of 200, 99.8% of the time


UP, DOWN = recovery.Gap(0.2, 0.1, 0.3), recovery.Gap(-0.2, -0.3, -0.1)
OPEN = recovery.Gap(0.1, -0.1, 0.3)


@pytest.mark.parametrize(
    ("active", "behind", "spread", "whole"),
    [
        ((200, 40), UP, UP, "reproduced"),
        ((200, 40), DOWN, DOWN, "not reproduced"),
        ((200, 40), OPEN, OPEN, "not comparable, because both.*"),
        ((200, 40), UP, DOWN, "not reproduced as a whole, because detection "
         "is reproduced and purity is not reproduced"),
        ((200, 40), UP, OPEN, "not reproduced as a whole, because detection "
         "is reproduced and purity is not decided.*"),
        ((200, 120), UP, UP, "not comparable, because the penalty left 120.*"),
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_intervals(active, behind, spread, whole):
    found = recovery.penalty_verdict(active, behind, spread)
    assert re.fullmatch(whole, found["whole"])
