"""Conclusions compared over one, two and more profiles."""

import json

import pytest

from helpers import artifacts, conclusions, paths
from helpers.conclusions import FAILS, HOLDS, MISSING
from helpers.errors import InputError
from helpers.execute import chapters, fingerprints, results

CHAPTER = "10-neurons-features"
RULES = [
    {"name": "first", "chapter": CHAPTER, "more": ["a"], "less": [0.5]},
    {"name": "both", "chapter": CHAPTER, "more": ["a", "b"], "less": ["c"]},
]


def numbers(tolerance=0.1, **values) -> dict:
    """The chapter's headline numbers as a results file has them."""
    found = {
        name: {"value": value, "relative_tolerance": tolerance, "shown": "?"}
        for name, value in values.items()
    }
    return {CHAPTER: {"numbers": found}}


@pytest.fixture
def rules(monkeypatch):
    monkeypatch.setattr(conclusions, "known", lambda: RULES)


def verdicts(table) -> dict:
    return {
        (row.conclusion, row.profile): row.verdict
        for row in table.itertuples()
    }


def test_one_profile(rules):
    profiles = {"laptop": numbers(a=1, b=0.2, c=0.1)}
    table = conclusions.judge(profiles)
    assert set(table["verdict"]) == {HOLDS}
    sorts = conclusions.everywhere(table)
    assert sorts[HOLDS] == ["first", "both"] and sorts["depends"] == []
    assert conclusions.moves(table).empty
    assert conclusions.scope(profiles).startswith("One profile cannot say")


def test_two_profiles_and_one_that_ran_nothing(rules):
    profiles = {
        "laptop": numbers(a=1, b=0.2, c=0.1),
        "gpu": numbers(a=2, b=0.05, c=0.1),  # the worst of a and b counts
        "other": {},
    }
    table = conclusions.judge(profiles)
    assert verdicts(table) == {
        ("first", "laptop"): HOLDS, ("first", "gpu"): HOLDS,
        ("first", "other"): MISSING, ("both", "laptop"): HOLDS,
        ("both", "gpu"): FAILS, ("both", "other"): MISSING,
    }  # fmt: skip
    sorts = conclusions.everywhere(table)
    assert sorts == {HOLDS: ["first"], FAILS: [], "depends": ["both"],
                     MISSING: []}  # fmt: skip
    moved = conclusions.moves(table)
    # from (0.2 - 0.1) / 0.2 to (0.05 - 0.1) / 0.1
    assert moved.index[0] == "both"
    assert moved["moved"].iloc[0] == pytest.approx(1.0)
    assert conclusions.scope(profiles).startswith("With 2 profiles")


def test_nothing_ran(rules):
    table = conclusions.judge({"smoke": {}})
    assert set(table["verdict"]) == {MISSING}
    assert conclusions.everywhere(table)[MISSING] == ["first", "both"]


def test_equal_numbers_do_not_hold_and_are_close(rules):
    table = conclusions.judge({"laptop": numbers(a=0.5, b=1, c=3)})
    first, both = table.to_dict("records")
    assert first["verdict"] == FAILS and first["close"]
    assert both["verdict"] == FAILS and not both["close"]
    assert both["shown"] == "0.5 against 3"


def test_published_numbers_have_every_name_that_is_compared():
    found = json.loads(paths.results("laptop").read_text())["chapters"]
    table = conclusions.judge({"laptop": found})
    assert len(table) > 15 and MISSING not in set(table["verdict"])
    names = [one["name"] for one in conclusions.known()]
    assert len(set(names)) == len(names) and max(map(len, names)) <= 50


# --- where the numbers come from -----------------------------------------


@pytest.fixture
def places(rules, tmp_path, monkeypatch):
    """A run of laptop with a = 1, published results with a = 2."""
    monkeypatch.setattr(paths, "BOOK", tmp_path / "book")
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path / "artifacts"))
    ran = {"laptop": 1}
    monkeypatch.setattr(
        results, "read", lambda path: ran.get(path.parent.parent.name)
    )
    monkeypatch.setattr(
        results, "headlines",
        lambda value: numbers(a=value)[CHAPTER]["numbers"],
    )  # fmt: skip
    publish("laptop", numbers(a=2))
    artifacts.write_json(paths.results("bench"), {"units": []})
    return ran


def publish(profile: str, content: dict) -> None:
    artifacts.write_json(paths.results(profile), {"chapters": content})


def value(profiles: dict, name: str) -> float:
    return profiles[name][CHAPTER]["numbers"]["a"]["value"]


def test_the_run_speaks_for_itself_and_others_are_read(places):
    publish("gpu", numbers(a=3))
    found = conclusions.gather("laptop")
    assert list(found) == ["laptop", "gpu"]  # the benchmark is no profile
    assert value(found, "laptop") == 1 and value(found, "gpu") == 3
    other = conclusions.gather("smoke")
    assert list(other) == ["smoke", "gpu", "laptop"]
    assert other["smoke"] == {} and value(other, "laptop") == 2


def test_a_broken_results_file_is_one_sentence(places):
    paths.results("gpu").write_text("{")
    with pytest.raises(InputError, match="gpu.json is not a results file"):
        conclusions.gather("laptop")


def test_the_chapter_runs_again_when_what_it_compares_changes(places):
    notebook = chapters.sources()["22-profiles"]
    assert set(notebook.metadata["book"]["needs"]) <= set(chapters.sources())

    def mark() -> str:
        return fingerprints.fingerprint(notebook, {"profile": "laptop"})

    first = mark()
    publish("laptop", numbers(a=5))  # its own publication changes nothing
    assert mark() == first
    publish("gpu", numbers(a=3))
    second = mark()
    assert second != first
    places["laptop"] = 7
    assert mark() not in (first, second)


def test_the_chapter_needs_all_that_it_compares():
    notebook = chapters.sources()["22-profiles"]
    compared = {one["chapter"] for one in conclusions.known()}
    assert compared == set(notebook.metadata["book"]["needs"])
