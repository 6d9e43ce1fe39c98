"""Download what a profile needs, ahead of its run.

``make fetch PROFILE=gpt2`` lists repositories with sizes and licences, asks,
downloads with a progress bar and checks every file's hash, also of those
that are there already. Stopped or cut off, the same command goes on.
"""

import argparse
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from helpers.errors import InputError, unknown
from helpers.execute import parameters
from helpers.pretrained import hub
from helpers.pretrained.folders import PATTERNS, check_listed
from helpers.pretrained.releases import locate, release_ids
from helpers.progress import track

NEEDS = Path(__file__).parent / "pretrained" / "profiles.yaml"


def main(words: list[str] | None = None) -> int:
    """List, ask, download, verify; the exit status.

    0 all is there, 1 declined, 2 it cannot be done, 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog="helpers.fetch")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return 0 if fetch(arguments.profile, arguments.yes) else 1
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was downloaded is kept, the same command "
              "goes on from there", file=sys.stderr)
        return 130


def fetch(profile: str, yes: bool, ask: Callable[[str], str] = input) -> bool:
    """Bring all that a profile needs into the cache; False if declined.

    Raises InputError for an unknown profile, a hub that cannot be asked, a
    disk that is too small, or where nobody can answer.
    """
    found = [hub.listing(name, paths) for name, paths in needed(profile)]
    if not found:
        print(f"the profile {profile} needs nothing from a hub")
        return True
    for listing in found:
        check(listing, profile)
        for file in hub.damaged(listing):
            print(f"{listing.name}: {file.path} is damaged, to be replaced")
    left = sum(file.size for one in found for file in one.missing())
    print(table(found))
    if left and not (yes or _agreed(left, ask)):
        return False
    _check_space(left)
    for listing in found:
        with track(listing.name, listing.size) as bar:
            hub.download(listing, bar.update)
    print(f"all files of {profile} are in {hub.cache()}, verified")
    return True


def needed(profile: str) -> list[tuple[str, list[str]]]:
    """(repository, patterns of its files) of a profile, each once."""
    needs = yaml.safe_load(NEEDS.read_text())
    known = sorted({*needs, *parameters.profiles()})
    if profile not in known:
        raise unknown("profile", profile, known)
    wanted: dict[str, list[str]] = {}
    for name in needs.get(profile, {}).get("models", ()):
        wanted[name] = [*PATTERNS]
    for release, ids in needs.get(profile, {}).get("saes", {}).items():
        for sae_id in release_ids(release) if ids == "all" else ids:
            place = locate(release, sae_id)
            wanted.setdefault(place.repository, []).extend(place.paths)
    return list(wanted.items())


def check(listing: hub.Listing, profile: str) -> None:
    """Raise InputError if a repository lacks what the profile names."""
    wanted = dict(needed(profile))[listing.name]
    if wanted == [*PATTERNS]:
        check_listed(listing)
        return
    there = {file.path for file in listing.files}
    lacking = [p for p in wanted if p not in there and p[-11:] != "config.json"]
    if lacking:
        raise InputError(
            f"{listing.name} has no {lacking[0]} (and {len(lacking) - 1} "
            "more of what SAELens lists); is HF_ENDPOINT a whole mirror?"
        )


def table(found: list[hub.Listing]) -> str:
    """What is to be downloaded, a line for each repository."""
    rows = [("repository", "files", "size", "to load", "licence")]
    for one in found:
        left = sum(file.size for file in one.missing())
        licence = one.licence + (" (gated)" if one.gated else "")
        rows.append((
            one.name, str(len(one.files)), hub.gigabytes(one.size),
            hub.gigabytes(left) if left else "nothing", licence,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows
    )


def _agreed(size: int, ask: Callable[[str], str]) -> bool:
    question = f"download {hub.gigabytes(size)} into {hub.cache()}? [y/N] "
    try:
        return ask(question).strip().lower() in ("y", "yes")
    except EOFError:
        raise InputError(
            "nobody is there to answer; say YES=1 to download without asking"
        ) from None


def _check_space(size: int) -> None:
    hub.cache().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(hub.cache()).free
    if size > free:
        raise InputError(
            f"{hub.gigabytes(size)} do not fit on the disk of {hub.cache()} "
            f"({hub.gigabytes(free)} free); set HF_HOME to a larger one"
        )


if __name__ == "__main__":
    sys.exit(main())
