"""Headline numbers of a run, and how they compare with the published ones."""

import json
from pathlib import Path

from helpers import artifacts, paths


def headlines(notebook) -> dict[str, dict]:
    """The headline numbers that a chapter stored with ``report.number``."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            metadata = output.get("metadata", {})
            if "headline" in metadata:
                scrap, data = metadata["scrapbook"], output["data"]
                shown = data[scrap["mime_prefix"] + "text/plain"]
                found[scrap["name"]] = {
                    **metadata["headline"],
                    "shown": shown.strip("'"),
                }
    return found


def collect(chapters: dict) -> dict:
    """The results of a run: {"chapters": {name: {"numbers": ...}}}."""
    return {
        "chapters": {
            name: {"numbers": numbers}
            for name, notebook in sorted(chapters.items())
            if (numbers := headlines(notebook))
        }
    }


def published(profile: str) -> dict:
    """The published results of a profile, empty where there are none."""
    file = paths.results(profile)
    return json.loads(file.read_text()) if file.is_file() else {}


def comparison(name: str, profile: str, executed: Path) -> str:
    """How a chapter of a run compares with the published one, in words."""
    shown = paths.PUBLISHED / executed.name
    if shown.is_file() and shown.read_bytes() == executed.read_bytes():
        return "identical to the published one"
    known = published(profile).get("chapters", {}).get(name)
    if known is None:
        return "nothing published to compare with"
    return _agreement(known["numbers"], headlines(read(executed)))


def _agreement(known: dict, found: dict) -> str:
    different = [
        f"{key} {found[key]['shown'] if key in found else 'missing'}, "
        f"published {number['shown']} "
        f"(tolerance {number['relative_tolerance']:.0%})"
        for key, number in known.items()
        if key not in found or not agrees(found[key], number)
    ]
    if different:
        return "differs: " + "; ".join(different)
    return f"not identical, {len(known)} of {len(known)} headline numbers agree"


def agrees(found: dict, known: dict) -> bool:
    """Whether a number is within the published one's tolerance."""
    room = known["relative_tolerance"] * abs(known["value"])
    return abs(found["value"] - known["value"]) <= room + 1e-12


def read(path: Path):
    """An executed chapter, or None where there is no whole one."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (FileNotFoundError, nbformat.reader.NotJSONError):
        return None


def write(profile: str, path: Path) -> None:
    """Write the headline numbers of a run's chapters as one JSON file."""
    chapters = {
        file.stem: read(file)
        for file in sorted(paths.chapters(profile).glob("*.ipynb"))
    }
    artifacts.write_json(path, collect(chapters))
