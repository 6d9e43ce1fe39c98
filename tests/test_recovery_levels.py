"""Levels, dictionary rows, kinds of text, several units; the proxies."""

import numpy as np
import pandas as pd
import pytest

from helpers import proxies, recovery
from helpers.errors import InputError
from tests.test_recovery import LENGTH, frame_of, letters, sparse, table_of


def test_levels_by_hand():
    active = np.array([0.0, 0.5, 1.5, 2.0, 2.0, 1.0])
    truth = np.array([1, 0, 1, 1, 0, 0], bool)
    found = recovery.by_level(active, truth, levels=2)
    assert found["true"].tolist() == [0, 2]
    assert found["false"].tolist() == [2, 1]
    assert found["true_mass"].tolist() == [0, 3.5]
    assert found["false_mass"].tolist() == [1.5, 2]
    assert found["specificity"].tolist() == [0, pytest.approx(2 / 3)]
    assert found["sensitivity"].tolist() == pytest.approx([2 / 3, 2 / 3])
    with pytest.raises(InputError, match="silent on all"):
        recovery.by_level(np.zeros(3), np.ones(3, bool))


def test_correlations_agree_with_numpy():
    dense = sparse(50, 5, seed=3)
    dense[:, 4] = 0
    column = np.random.default_rng(4).random(50)
    found = recovery.correlations(table_of(dense), column)
    wanted = np.corrcoef(dense[:, :4].astype(float).T, column)[-1, :-1]
    assert found[:4] == pytest.approx(wanted, abs=1e-5)
    assert found[4] == 0


def test_what_a_row_is_made_of():
    rows = np.array([[0, 0, 5.0, 0], [1, -1, 1, 1], [10, 1, 0.5, 0]])
    found = recovery.made_of(rows)
    assert found["above"].tolist() == [1, 4, 1]
    assert found["effective"].tolist()[:2] == pytest.approx([1, 4])
    assert found["largest"].tolist()[:2] == pytest.approx([1, 0.5])
    assert found["neuron"].tolist() == [2, 0, 0]


def test_strong_classes_by_hand():
    first = np.zeros((2 * LENGTH, 3))
    first[0, 0], first[5, 0], first[6, 0] = 4, 4, 1  # the last is not strong
    first[0:5, 1] = 2
    second = np.zeros((LENGTH, 3))
    second[0, 0] = 8 / 3 + 0.1
    tables = {"one": table_of(first), "two": table_of(second)}
    labels = {"one": np.array(["x", "y"]), "two": np.array(["z"])}
    shares, strong = recovery.strong_classes(tables, labels)
    assert strong.tolist() == [3, 5, 0]
    assert shares.loc[0].tolist() == pytest.approx([1 / 3] * 3)
    assert shares.loc[1].tolist() == [1, 0, 0]
    effective = recovery.effective_classes(shares)
    assert effective.tolist() == pytest.approx([3, 1, 1])


def test_where_a_unit_fires():
    dense = np.zeros((10, 2))
    dense[:4, 1] = [1, 2, 3, 4]
    found = recovery.fires_on({"t": table_of(dense)}, [1, 1, 0], [3, 1, 1])
    assert found["t"].tolist() == [0.2, 0.4, 0]


def test_two_units_together_find_what_neither_does():
    frame = frame_of(40)
    text = letters(frame)
    odd = np.arange(len(text)) % 2 == 1
    halves = [(text == "b") & odd, (text == "b") & ~odd]
    noise = np.random.default_rng(1).random(len(text)) < 0.2
    split = table_of(np.stack([*halves, noise], 1).astype(float))
    whole = table_of((text == "b").astype(float)[:, None])
    names = pd.DataFrame({"factor": ["letter"], "value": ["b"]})
    found = recovery.together({"s": split, "w": whole}, frame, names, most=3)
    f1 = found.set_index(["basis", "n"])["f1"]
    assert f1["s", 1] < 0.9 and f1["s", 2] == 1 and f1["w", 1] == 1
    assert f1["s", 3] == 1  # no third one is added, though noise was there


TEXTS = ["ab שלום 안녕", "مرحبا xy 水", "שab"]


def letters_table():
    """One token a character, each with its own id."""
    from helpers import features

    everything = "".join(TEXTS)
    ids = [sorted(set(everything)).index(c) for c in everything]
    sizes = [len(text) for text in TEXTS]
    place = np.concatenate([np.arange(n) for n in sizes])
    count = len(everything)
    return features.FeatureTable(
        1, 0.0, np.zeros(0, np.float16), np.zeros(0, np.int32),
        np.zeros(count + 1, int), np.array(ids), np.arange(3),
        np.concatenate([[0], np.cumsum(sizes)]), place, place + 1,
    )  # fmt: skip


LETTERS = {
    "Hebrew": "שלום",
    "Arabic": "مرحبا",
    "Korean": "안녕",
    "Chinese": "水",
}


@pytest.mark.parametrize("script", LETTERS)
def test_script_proxy_is_positive_on_the_script(script):
    characters = LETTERS[script]
    found = proxies.script_proxy(letters_table(), TEXTS, script)
    held = np.array([c in characters for c in "".join(TEXTS)])
    assert ((found > 0) == held).all()
    assert found[held] == pytest.approx(-np.log(held.mean()))
    with pytest.raises(InputError, match="Hebrew"):
        proxies.script_proxy(letters_table(), TEXTS, "Hebrw")


def test_a_piece_of_a_character_counts_by_its_occurrences():
    table = letters_table()
    ids = np.asarray(table.token_ids).copy()
    pieces = [TEXTS[0].index("ש"), len(TEXTS[0]) + TEXTS[1].index("水")]
    ids[pieces] = 99  # the same piece begins a Hebrew and a Chinese letter
    shared = type(table)(**{**vars(table), "token_ids": ids})
    found = proxies.script_proxy(shared, TEXTS, "Hebrew")
    base = np.mean(["\u0590" <= c <= "\u05ff" for c in "".join(TEXTS)])
    assert found[pieces] == pytest.approx(np.log(0.5 / base))


def best_by_hand(ratio, offsets, least):
    """Every suffix, one by one."""
    found = []
    for start, end in zip(offsets, offsets[1:], strict=False):
        for t in range(start, end):
            sums = [ratio[s : t + 1].sum() for s in range(start, t + 2 - least)]
            found.append(max(sums, default=-np.inf))
    return found


@pytest.mark.parametrize("least", [1, 2])
def test_best_suffix_agrees_with_all_suffixes(least):
    ratio = np.random.default_rng(6).normal(size=30)
    offsets = np.array([0, 1, 11, 11, 30])
    found = proxies._best_suffix(ratio, offsets, least)
    assert found == pytest.approx(best_by_hand(ratio, offsets, least))


def test_string_proxy_by_hand():
    strings = ["AC", "G", " x", "T"]
    unigram = proxies.unigram_of(np.array([2] * 92), 4)
    assert unigram.tolist() == pytest.approx([1 / 96, 1 / 96, 93 / 96, 1 / 96])
    table = letters_table()
    table = type(table)(
        **{
            **vars(table),
            "token_ids": np.array([0, 1, 2, 1]),
            "offsets": np.array([0, 4]),
        }
    )
    found = proxies.string_proxy(table, strings, unigram, "DNA")
    ac = np.log(96 / 16)
    g = np.log(96 / 4)
    x = 2 * np.log(1e-10) - np.log(93 / 96)
    wanted = [-np.inf, ac + g, ac + g + x, max(x + g, ac + g + x + g)]
    assert found == pytest.approx(wanted)
    with pytest.raises(InputError, match="base64"):
        proxies.string_proxy(table, strings, unigram, "base46")
