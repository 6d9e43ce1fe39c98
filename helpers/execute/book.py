"""Build the book with jupyter-book, and publish a finished run."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.execute import results

CONFIGURATION = ("_config.yml", "_toc.yml")
STAMP = ".built-from"


class BuildFailed(Exception):
    """jupyter-book did not build the book."""


def build_published() -> Path:
    """Build the committed book into ``_build/html``; its first page."""
    return _build(paths.ROOT, paths.ROOT / "_build")


def build_run(profile: str) -> Path:
    """Build a run's own book into ``_build/PROFILE/html``; its first page.

    The source tree is a copy of the book with the run's chapters and
    results in place of the published ones.
    """
    target = paths.build(profile)
    with artifacts.replacing(target / "source") as source:
        _assemble(profile, source)
    return _build(target / "source", target)


def publish(profile: str) -> list[str]:
    """Copy a finished run's chapters and results into ``book/``.

    Raises InputError when a chapter of the profile has not been run.
    """
    finished = executed_chapters(profile)
    with artifacts.replacing(paths.PUBLISHED) as folder:
        folder.mkdir()
        for file in finished:
            shutil.copy(file, folder)
            shutil.copy(file.with_suffix(".run.json"), folder)
    results.write(profile, paths.results(profile))
    return [file.stem for file in finished]


def executed_chapters(profile: str) -> list[Path]:
    """The executed chapters of a run; InputError if one is missing."""
    wanted = sorted(paths.NOTEBOOKS.glob("[0-9A-Z]*.ipynb"))
    files = [paths.chapters(profile) / file.name for file in wanted]
    missing = [file.stem for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"chapters {', '.join(missing)} have not run in profile "
            f"{profile}; run `make execute PROFILE={profile}` first"
        )
    return files


def _assemble(profile: str, source: Path) -> None:
    shutil.copytree(
        paths.BOOK, source / "book",
        ignore=shutil.ignore_patterns("chapters", "__pycache__"),
    )
    for name in CONFIGURATION:
        shutil.copy(paths.ROOT / name, source)
    (source / "book" / "chapters").mkdir()
    for file in executed_chapters(profile):
        shutil.copy(file, source / "book" / "chapters")
        sidecar = file.with_suffix(".run.json")
        shutil.copy(sidecar, source / "book" / "chapters")
    results.write(profile, source / "book" / "results" / f"{profile}.json")


def _build(source: Path, target: Path) -> Path:
    """Run jupyter-book unless the same content was built already."""
    html = target / "html"
    content = _content_hash(source)
    stamp = html / STAMP
    if not stamp.is_file() or stamp.read_text() != content:
        output = target if source == paths.ROOT else target / "work"
        _jupyter_book(source, target, output)
        if output != target:
            _link(html, output / "_build" / "html")
        artifacts.write_text(stamp, content)
    return html / "index.html"


def _jupyter_book(source: Path, target: Path, output: Path) -> None:
    """``jupyter-book build -W -n --keep-going``, quietly; log on failure."""
    script = Path(sys.executable).with_name("jupyter-book")
    command = [str(script), "build", str(source), "-W", "-n", "--keep-going"]
    if output != target:
        command += ["--path-output", str(output)]
    target.mkdir(parents=True, exist_ok=True)
    log = target / "build.log"
    with open(log, "w") as stream:
        status = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=source
        ).returncode
    if status:
        lines = log.read_text().splitlines()
        warnings = [line for line in lines if "WARNING" in line]
        tail = "\n".join((warnings or lines)[-12:])
        raise BuildFailed(f"the book did not build ({log}):\n{tail}")


def _link(html: Path, built: Path) -> None:
    temporary = html.with_name(".html.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(built, html.parent))
    os.replace(temporary, html)


def _content_hash(source: Path) -> str:
    """sha256 over everything that the book is built from."""
    total = hashlib.sha256()
    files = [source / name for name in CONFIGURATION]
    files += [f for f in (source / "book").rglob("*") if f.is_file()]
    for file in sorted(files):
        if "__pycache__" not in file.parts:
            total.update(str(file.relative_to(source)).encode())
            total.update(file.read_bytes())
    return total.hexdigest()
