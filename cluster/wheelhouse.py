"""The folder of wheels that nodes with no internet install from.

``make wheelhouse`` fills it, ``make setup WHEELHOUSE=folder`` checks it and
installs from it. It runs before anything is installed, so it needs nothing
but Python's own library.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

SUMS, FOR = "sha256sums", "made-for"  # beside the wheels


def main() -> None:
    """Make a wheelhouse, or check one; one sentence if that fails."""
    parser = argparse.ArgumentParser(prog="wheelhouse")
    parser.add_argument("what", choices=["make", "check"])
    parser.add_argument("lock", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--system-torch", action="store_true")
    given = parser.parse_args()
    lines = locked(given.lock, given.system_torch)
    if given.what == "make":
        make(lines, given.folder, complete=not given.system_torch)
    check(lines, given.folder)


def locked(lock: Path, system_torch: bool) -> list[str]:
    """The lines ``name==version`` of a lock file, torch's left out or not."""
    return [
        line
        for line in lock.read_text().split()
        if not (system_torch and line.startswith("torch=="))
    ]


def make(lines: list[str], folder: Path, complete: bool) -> None:
    """Download what the lines name, and build wheels where there are none.

    ``complete``: also what they need and the lock does not name, which are
    the CUDA libraries of torch. The folder is replaced when all is there.
    """
    part = folder.with_name(folder.name + ".partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        wanted = Path(place, "lock.txt")
        wanted.write_text("\n".join(lines) + "\n")
        command = ["-m", "pip", "wheel", "--wheel-dir", part, "-r", wanted]
        command += [] if complete else ["--no-deps"]
        done = subprocess.run([Path(place, "bin", "python"), *command])
    if done.returncode:
        sys.exit("the wheelhouse could not be made, pip says why above; run "
                 "it again, pip keeps what it has downloaded")  # fmt: skip
    sums = [f"{sha256(wheel)}  {wheel.name}\n" for wheel in wheels(part)]
    (part / FOR).write_text(here() + "\n")
    (part / SUMS).write_text("".join(sums))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def check(lines: list[str], folder: Path) -> None:
    """Exit with one sentence unless all wheels are there and intact."""
    if not (folder / SUMS).is_file():
        sys.exit(f"{folder} is no finished wheelhouse (it has no {SUMS}); "
                 "run `make wheelhouse` where there is internet")  # fmt: skip
    made_for = (folder / FOR).read_text().strip()
    if made_for != here():
        sys.exit(f"{folder} was made for {made_for}, this is {here()}; name "
                 "that Python with PYTHON=, or make one for this")  # fmt: skip
    for line in (folder / SUMS).read_text().splitlines():
        expected, name = line.split(maxsplit=1)
        if not (folder / name).is_file():
            sys.exit(f"{folder} lacks {name}; copy it again")
        if sha256(folder / name) != expected:
            sys.exit(f"{folder}/{name} is damaged; copy it again")
    there = {named(wheel.name) for wheel in wheels(folder)}
    missing = [line for line in lines if wheel_of(line) not in there]
    if missing:
        sys.exit(f"{folder} has no wheel of {', '.join(missing)}; run `make "
                 "wheelhouse` again where there is internet")  # fmt: skip
    size = sum(wheel.stat().st_size for wheel in wheels(folder)) / 2**20
    print(f"{folder}: {len(there)} wheels, {size:,.0f} MiB, {made_for}")


def wheels(folder: Path) -> list[Path]:
    """The wheels of a folder, by name."""
    return sorted(folder.glob("*.whl"))


def named(wheel: str) -> tuple[str, str]:
    """Name and version in a wheel's file name, in one spelling.

    A local version such as torch's ``+cpu`` is left off, as pip does where
    the lock has none.
    """
    name, version = wheel.split("-")[:2]
    return re.sub(r"[-_.]+", "-", name).lower(), version.split("+")[0]


def wheel_of(line: str) -> tuple[str, str]:
    """What ``named`` says of the wheel that a line of the lock asks for."""
    return named(re.sub(r"[-_.]+", "_", line.partition("==")[0]) + "-"
                 + line.partition("==")[2])  # fmt: skip


def here() -> str:
    """This Python and platform, which a wheel may be bound to."""
    version = ".".join(platform.python_version_tuple()[:2])
    return f"Python {version} on {platform.system()} {platform.machine()}"


def sha256(file: Path) -> str:
    """The sha256 of a file, in hex."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    main()
