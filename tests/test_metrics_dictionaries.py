"""MMCS, MCC and uniqueness against SAELens, scikit-learn and by hand."""

import itertools

import numpy as np
import pytest
import torch
from sae_lens.synthetic import evals
from sklearn.metrics.pairwise import cosine_similarity

from helpers import metrics
from helpers.errors import InputError

E = np.eye(3)


def dictionaries(n=7, m=11, d=5, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * 3, random.normal(size=(m, d))


def test_mmcs_by_hand():
    reference = np.array([[2.0, 0, 0], [0, 3, 0]])
    learned = np.array([[1.0, 0, 0], [0, -1, 0], [0, 1, 1]])
    # e1 is found; of e2 only the opposite, and one at 45 degrees
    assert metrics.mmcs(reference, learned) == pytest.approx((1 + 0.5**0.5) / 2)
    # the other way: 1, then max(0, -1), then 45 degrees
    assert metrics.mmcs(learned, reference) == pytest.approx(
        (1 + 0 + 0.5**0.5) / 3
    )


def test_mmcs_counts_what_was_not_learned():
    assert metrics.mmcs(E, E[:2]) == pytest.approx(2 / 3)
    assert metrics.mmcs(E[:2], E) == 1
    assert metrics.mmcs(E, -E) == 0


@pytest.mark.parametrize("seed", range(5))
def test_mmcs_against_scikit_learn(seed):
    reference, learned = dictionaries(seed=seed)
    expected = cosine_similarity(reference, learned).max(1).mean()
    assert metrics.mmcs(reference, learned) == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("shape", [(7, 11), (11, 7), (6, 6)])
def test_mcc_and_uniqueness_against_sae_lens(shape):
    reference, learned = (torch.tensor(d) for d in dictionaries(*shape))
    assert metrics.mcc(reference, learned) == pytest.approx(
        evals.mean_correlation_coefficient(learned, reference), abs=1e-6
    )
    assert metrics.uniqueness(reference, learned) == pytest.approx(
        evals.feature_uniqueness(learned, reference), abs=1e-12
    )


def test_mcc_is_the_best_of_all_matchings():
    reference, learned = dictionaries(4, 5)
    cosines = np.abs(cosine_similarity(reference, learned))
    best = max(
        cosines[range(4), list(columns)].mean()
        for columns in itertools.permutations(range(5), 4)
    )
    assert metrics.mcc(reference, learned) == pytest.approx(best, abs=1e-12)
    assert metrics.mcc(learned, reference) == pytest.approx(best, abs=1e-12)


def test_mcc_by_hand():
    assert metrics.mcc(E, -E[[2, 0, 1]]) == pytest.approx(1)  # |cosine|
    # three copies of e1: only one of them is matched to it
    assert metrics.mcc(E, E[[0, 0, 0]]) == pytest.approx(1 / 3)


def test_uniqueness_by_hand():
    assert metrics.uniqueness(E, E[[2, 0, 1]]) == 1
    assert metrics.uniqueness(E, -E[[0, 0, 1]]) == pytest.approx(2 / 3)
    assert metrics.uniqueness(E[:1], E) == pytest.approx(1 / 3)


def test_blocks_change_nothing(monkeypatch):
    reference, learned = dictionaries(9, 8)
    measures = (metrics.mmcs, metrics.mcc, metrics.uniqueness)
    whole = [measure(reference, learned) for measure in measures]
    monkeypatch.setattr(metrics.dictionaries, "ROWS", 4)
    for measure, expected in zip(measures, whole, strict=True):
        assert measure(reference, learned) == pytest.approx(expected)


def test_a_row_of_zeros_resembles_nothing():
    learned = torch.tensor([[1.0, 0], [0, 0]], requires_grad=True)
    assert metrics.mmcs(np.eye(2), learned) == 0.5
    assert metrics.mcc(np.eye(2), learned) == 0.5


def test_bfloat16_is_taken_as_it_is():
    reference, learned = (torch.tensor(d).bfloat16() for d in dictionaries())
    exact = metrics.mmcs(reference.double(), learned.double())
    assert metrics.mmcs(reference, learned) == exact


@pytest.mark.parametrize(
    ("reference", "learned", "said"),
    [
        (E, np.eye(2), "of the same space"),
        (E, E[0], r"shape \[3\]"),
        (E, E[:0], r"shape \[0, 3\]"),
        (E, E * np.nan, "not finite"),
    ],
)
def test_what_cannot_be_compared(reference, learned, said):
    for measure in (metrics.mmcs, metrics.mcc, metrics.uniqueness):
        with pytest.raises(InputError, match=said):
            measure(reference, learned)
