"""A project of three tiny chapters around the real executor.

01-make writes an artifact, 02-use reads it and draws, 03-alone stands by
itself. Everything is a copy, so a test may edit, break and kill it.
"""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent

HELPERS = {
    "tiny.py": '''
        """A stage for the sandbox."""
        import time
        from helpers import artifacts, paths, progress

        def make_count(profile, count, pause=0.0):
            def make(folder):
                with progress.track("counting", 1) as p:
                    time.sleep(pause)
                    p.update(1)
                (folder / "count.txt").write_text(str(count % 10))
            path = paths.artifacts(profile) / "count"
            return artifacts.produce(
                path, make, parameters={"count": count, "pause": pause})

        def load_count(profile):
            path = artifacts.require(paths.artifacts(profile) / "count")
            return int((path / "count.txt").read_text())
    ''',
    "drawing.py": '''
        """A chart helper for the sandbox."""

        def draw(n):
            import altair as alt
            import pandas as pd
            return alt.Chart(pd.DataFrame({"x": range(n)})).mark_bar().encode(
                x="x:Q")
    ''',
}

MAKE = ["""\
profile: str = "tiny"  # which folder of artifacts/ to use
seed: int = 0  # every random choice follows from it [0, 1000]
count: int = 3  # how many [1, 100]
rate: float = 0.5  # how fast [0, 1]
mode: str = "plain"  # how it is done {plain, fancy}
pause: float = 0.0  # seconds that the stage takes [0, 60]""",
        """\
from helpers import report, tiny
tiny.make_count(profile, count, pause)
report.number("made_count", count, ".0f", rel=0.1)"""]
USE = ["""\
profile: str = "tiny"  # which folder of artifacts/ to use
pause: float = 0.0  # seconds that the chapter takes [0, 60]""",
       """\
import time
from helpers import drawing, tiny
time.sleep(pause)
drawing.draw(tiny.load_count(profile))"""]
ALONE = ["""\
profile: str = "tiny"  # which folder of artifacts/ to use
seed: int = 0  # every random choice follows from it [0, 1000]""",
         "print(seed)"]
CHAPTERS = {"01-make": (MAKE, []), "02-use": (USE, ["01-make"]),
            "03-alone": (ALONE, [])}


def write_notebook(path: Path, cells: list[str], needs: list[str]) -> None:
    """A notebook source: a title, then code cells, the first parameters."""
    nodes = [nbformat.v4.new_markdown_cell(f"# Chapter {path.stem}")]
    nodes += [nbformat.v4.new_code_cell(source) for source in cells]
    nodes[1].metadata["tags"] = ["parameters"]
    for number, node in enumerate(nodes):
        node["id"] = f"cell-{number}"
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3",
                               "language": "python"},
                "book": {"needs": needs}}
    notebook = nbformat.v4.new_notebook(cells=nodes, metadata=metadata)
    nbformat.write(notebook, path)


class Sandbox:
    """A copy of the executor with three tiny chapters; see the module."""

    def __init__(self, root: Path, like: "Sandbox | None" = None):
        self.root = root
        if like:
            shutil.copytree(like.root, root, dirs_exist_ok=True)
            return
        shutil.copytree(
            ROOT / "helpers", root / "helpers",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name, source in HELPERS.items():
            (root / "helpers" / name).write_text(textwrap.dedent(source))
        (root / "notebooks" / "profiles").mkdir(parents=True)
        for name, (cells, needs) in CHAPTERS.items():
            write_notebook(self.notebook(name), cells, needs)
        self.profile_file.write_text("common: {seed: 0}\n")
        self._write_book()

    def _write_book(self) -> None:
        shutil.copytree(ROOT / "book" / "_ext", self.root / "book" / "_ext")
        if (ROOT / "book" / "_static").is_dir():
            shutil.copytree(ROOT / "book" / "_static",
                            self.root / "book" / "_static")
        for folder in ("chapters", "results"):
            (self.root / "book" / folder).mkdir()
        (self.root / "book" / "index.md").write_text("# Tiny book\n\nText.\n")
        (self.root / "book" / "references.bib").write_text("")
        shutil.copy(ROOT / "_config.yml", self.root)
        lines = ["format: jb-book", "root: book/index", "chapters:"]
        lines += [f"- file: book/chapters/{name}" for name in CHAPTERS]
        (self.root / "_toc.yml").write_text("\n".join(lines) + "\n")

    @property
    def profile_file(self) -> Path:
        return self.root / "notebooks" / "profiles" / "tiny.yaml"

    def notebook(self, name: str) -> Path:
        return self.root / "notebooks" / f"{name}.ipynb"

    def executed(self, name: str) -> Path:
        return self.root / "artifacts" / "tiny" / "chapters" / f"{name}.ipynb"

    def sidecar(self, name: str) -> dict:
        file = self.executed(name).with_suffix(".run.json")
        return json.loads(file.read_text())

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "helpers.execute", *words]

    def environment(self) -> dict:
        return {**os.environ, "PYTHONPATH": str(self.root)}

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*words), cwd=self.root, env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def call(self, *words: str) -> tuple[int, str]:
        """Exit status and everything printed."""
        done = subprocess.run(
            self.command(*words), cwd=self.root, env=self.environment(),
            capture_output=True, text=True, timeout=180,
        )
        return done.returncode, done.stdout + done.stderr

    def run(self, only: str = "", params: str = "", profile: str = "tiny"):
        """``make execute``: exit status and everything printed."""
        return self.call("run", "--profile", profile, "--only", only,
                         "--params", params)

    def chapters(self, params: str = "") -> list[str]:
        """Run without the book's build; the chapters that really ran."""
        # The last chapter left out keeps the book from being built.
        status, said = self.run(only="01 02", params=params)
        assert status == 0, said
        return [name for name in CHAPTERS if f"{name}: done" in said]
