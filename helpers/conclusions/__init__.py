"""Which conclusions hold in which profile: headline numbers, compared.

A profile's numbers are those of ``book/results/PROFILE.json``; those of the
run in progress come from its own executed chapters, so that a chapter that
compares is never one publication behind.
"""

import functools
import json
from pathlib import Path

import pandas as pd
import yaml

from helpers import paths
from helpers.errors import InputError
from helpers.execute import results

FILE = Path(__file__).with_name("conclusions.yaml")
HOLDS, FAILS, MISSING = "holds", "does not hold", "not run"


@functools.cache
def known() -> list[dict]:
    """The conclusions: name, chapter, more, less (see the file)."""
    return yaml.safe_load(FILE.read_text())


def gather(profile: str) -> dict[str, dict]:
    """{profile: {chapter: {"numbers": ...}}}, the run's own profile first.

    Others are those with published results. Raises InputError for a results
    file that cannot be read.
    """
    found = {profile: _of_run(profile)}
    for file in sorted(paths.results(profile).parent.glob("*.json")):
        content = _read(file)
        if file.stem != profile and "chapters" in content:
            found[file.stem] = content["chapters"]
    return found


def judge(profiles: dict[str, dict]) -> pd.DataFrame:
    """A row a conclusion and profile.

    Columns: conclusion, chapter, profile, verdict (``HOLDS``, ``FAILS``, or
    ``MISSING`` where a number is not there), more and less (the two numbers
    that were compared), shown (both, as text), close (whether they differ by
    less than another machine's run may: the larger of their tolerances).
    """
    rows = [
        {"conclusion": one["name"], "chapter": one["chapter"],
         "profile": profile, **_verdict(one, chapters)}
        for one in known()
        for profile, chapters in profiles.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def everywhere(table: pd.DataFrame) -> dict[str, list[str]]:
    """Conclusions by how they fare over the profiles in which they ran:
    ``holds``, ``does not hold`` (in all), ``depends``, ``not run``."""
    sorts = {HOLDS: [], FAILS: [], "depends": [], MISSING: []}
    for name, part in table.groupby("conclusion", sort=False):
        verdicts = set(part["verdict"]) - {MISSING}
        sort = verdicts.pop() if len(verdicts) == 1 else "depends"
        if set(part["verdict"]) == {MISSING}:
            sort = MISSING
        sorts[sort].append(name)
    return sorts


def moves(table: pd.DataFrame) -> pd.DataFrame:
    """How far the difference that decides a conclusion moves between
    profiles: its least and largest, as shares of the larger number, and
    their distance; the furthest first. Empty with fewer than two profiles.
    """
    ran = table[table["verdict"] != MISSING].copy()
    larger = ran[["more", "less"]].astype(float).abs().max(axis=1)
    ran["gap"] = (ran["more"] - ran["less"]).astype(float) / larger
    spread = ran.groupby("conclusion", sort=False)["gap"].agg(["min", "max"])
    several = ran.groupby("conclusion", sort=False)["profile"].nunique() > 1
    spread["moved"] = spread["max"] - spread["min"]
    return spread[several].sort_values("moved", ascending=False)


def scope(profiles: dict[str, dict]) -> str:
    """What so many profiles can say, in a sentence."""
    counted = [name for name, chapters in profiles.items() if chapters]
    if len(counted) < 2:
        return (
            "One profile cannot say what depends on scale: until another is "
            'published, "everywhere" below means this one.'
        )
    return (
        f"With {len(counted)} profiles, what differs between them may depend "
        "on scale; what agrees may still change beyond them."
    )


def _of_run(profile: str) -> dict:
    """Headline numbers of this run's chapters that are compared."""
    wanted = dict.fromkeys(one["chapter"] for one in known())
    run = {
        name: results.read(paths.chapters(profile) / f"{name}.ipynb")
        for name in wanted
    }
    return results.collect({k: v for k, v in run.items() if v})["chapters"]


def _read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except ValueError:
        raise InputError(
            f"{file.name} is not a results file (no valid JSON); publish "
            "that profile again or remove the file"
        ) from None


def _verdict(one: dict, chapters: dict) -> dict:
    numbers = chapters.get(one["chapter"], {}).get("numbers", {})
    sides = {
        side: [_value(what, numbers) for what in one[side]]
        for side in ("more", "less")
    }
    if any(value is None for side in sides.values() for value in side):
        return {"verdict": MISSING, "more": None, "less": None, "shown": "",
                "close": False}  # fmt: skip
    (more, room), (less, other) = min(sides["more"]), max(sides["less"])
    return {
        "verdict": HOLDS if more > less else FAILS, "more": more,
        "less": less, "shown": f"{more:.3g} against {less:.3g}",
        "close": abs(more - less) < max(room, other),
    }  # fmt: skip


def _value(what: str | float, numbers: dict) -> tuple[float, float] | None:
    """A number and how far off another machine's may be; None if missing."""
    if not isinstance(what, str):
        return float(what), 0.0
    if what not in numbers:
        return None
    value = numbers[what]["value"]
    if what.endswith("_bound"):  # it follows from the number of splits alone
        return value, 0.0
    return value, numbers[what]["relative_tolerance"] * abs(value)
