"""Which helper modules code imports, and when their hash changes."""

import ast

import pytest

from helpers import sources

CODE = '''
"""What it does."""
def double(x):
    """Twice x."""
    return 2 * x  # why
'''


def test_comments_docstrings_and_layout_do_not_count():
    other = "def double(x):\n\n    return 2*x\n"
    assert sources.syntax(CODE) == sources.syntax(other)


@pytest.mark.parametrize("old, new", [("2 * x", "3 * x"), ("double", "twice")])
def test_code_counts(old, new):
    assert sources.syntax(CODE) != sources.syntax(CODE.replace(old, new))


def test_imports_in_every_form_are_found():
    tree = ast.parse(
        "import os\nfrom helpers import report\n"
        "def f():\n    import helpers.progress\n"
        "    from helpers.execute.normalise import normalise\n"
    )
    assert sources.imported(tree) == [
        "helpers.execute.normalise",
        "helpers.progress",
        "helpers.report",
    ]


def test_relative_imports_are_resolved():
    tree = ast.parse("from . import results\nfrom .. import report\n")
    assert sources.imported(tree, "helpers.execute.book") == [
        "helpers.execute.results",
        "helpers.report",
    ]


def test_closure_follows_imports_but_not_infrastructure(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    folder = tmp_path / "helpers"
    folder.mkdir()
    (folder / "a.py").write_text("def f():\n    from helpers import b\n")
    (folder / "b.py").write_text("from helpers import artifacts, c\n")
    (folder / "c.py").write_text("import helpers.a\n")
    (folder / "d.py").write_text("")
    (folder / "artifacts.py").write_text("from helpers import d\n")
    found = sources.closure(["helpers.a"])
    assert found == ["helpers.a", "helpers.b", "helpers.c"]


def test_tables_beside_a_package_count(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    folder = tmp_path / "helpers" / "pack"
    folder.mkdir(parents=True)
    (folder / "reader.py").write_text("X = 1\n")
    (folder / "words.yaml").write_text("a: 1\n")
    before = sources.closure_hash("helpers.pack.reader")
    (folder / "words.yaml").write_text("a: 2\n")
    assert sources.closure_hash("helpers.pack.reader") != before
