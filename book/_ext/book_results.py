"""The role {result}`profile/chapter/name`: a published headline number.

It prints the number as it was shown in the chapter of that run, read from
``book/results/PROFILE.json``. A number that is not there is a warning.
"""

import functools
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxRole

FORMAT = "profile/chapter/name"


class ResultRole(SphinxRole):
    """Look one number up and print it."""

    def run(self):
        """The number's text, or a problem node and a warning."""
        parts = self.text.strip().split("/")
        if len(parts) != 3:
            return self._problem(f"is not of the form {FORMAT}")
        profile, chapter, name = parts
        folder = Path(self.env.srcdir, self.config.book_results)
        path = folder / f"{profile}.json"
        self.env.note_dependency(str(path))
        if not path.is_file():
            return self._problem(f"no results are published for {profile!r}")
        try:
            shown = lookup(path, path.stat().st_mtime_ns, chapter, name)
        except KeyError as missing:
            return self._problem(f"{missing.args[0]!r} is not in {path.name}")
        return [nodes.inline(shown, shown, classes=["result"])], []

    def _problem(self, why: str):
        message = self.inliner.reporter.warning(
            f"{{result}}`{self.text}`: {why}", line=self.lineno
        )
        text = self.rawtext or self.text
        return [self.inliner.problematic(text, text, message)], [message]


def lookup(path: Path, mtime: int, chapter: str, name: str) -> str:
    """A number as it was shown; KeyError naming the part that is missing."""
    numbers = _read(path, mtime)["chapters"][chapter]["numbers"]
    return numbers[name]["shown"]


@functools.lru_cache(maxsize=16)
def _read(path: Path, mtime: int) -> dict:
    return json.loads(path.read_text())


def setup(app):
    """Register with Sphinx."""
    app.add_config_value("book_results", "book/results", "env")
    app.add_role("result", ResultRole())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
