"""Chapters are numbered by their file names: ``04-sae-training`` is 4.

Sphinx would count from 1 in each part. A reader who types ``ONLY=04`` must
find chapter 4 and figure 4.1 there.
"""

import functools
import re

from docutils import nodes
from sphinx.environment.collectors.toctree import TocTreeCollector

NUMBERED = re.compile(r"(?:^|/)(\d+)-[^/]*$")


def chapter_number(docname: str) -> int | None:
    """The number in a page's name, None if there is none.

    >>> chapter_number("book/chapters/04-sae-training")
    4
    """
    match = NUMBERED.search(docname)
    return int(match[1]) if match else None


def renumber(env) -> None:
    """Replace the first part of every section number of every chapter."""
    for docname, numbers in env.toc_secnumbers.items():
        chapter = chapter_number(docname)
        if chapter is None:
            continue
        for anchor, number in numbers.items():
            numbers[anchor] = (chapter, *number[1:]) if number else number
        holders = [env.titles[docname]]
        holders += env.tocs[docname].findall(nodes.reference)
        for holder in holders:
            if holder.get("secnumber"):
                holder["secnumber"] = [chapter, *holder["secnumber"][1:]]


def wrap(assign):
    """Sphinx's numbering of figures, with our chapter numbers before it.

    It is the step that follows all numbering of sections, in which
    sphinx_external_toc has a part of its own.
    """

    @functools.wraps(assign)
    def assign_figure_numbers(self, env):
        renumber(env)
        return assign(self, env)

    assign_figure_numbers.by_file_name = True
    return assign_figure_numbers


def setup(app):
    """Register with Sphinx."""
    current = TocTreeCollector.assign_figure_numbers
    if not hasattr(current, "by_file_name"):  # a second build in a process
        TocTreeCollector.assign_figure_numbers = wrap(current)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
