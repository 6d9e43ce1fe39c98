"""Runs of a model from elsewhere: what is asked first, what is left out."""

import ast
import builtins
import subprocess
import sys
import time

import pytest

from helpers import paths
from helpers.errors import InputError
from helpers.execute import chapters, origin, parameters

NOTEBOOKS = chapters.sources()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_left_out_is_not_missed(name):
    """No cell of such a run uses a name that only a left-out cell makes."""
    known = {*dir(builtins), "display"}
    for cell in origin.suited(NOTEBOOKS[name], True).cells:
        if cell.cell_type != "code":
            continue
        assert origin.PRETRAINED not in cell.metadata.get("tags", [])
        nodes = list(ast.walk(ast.parse(cell.source)))
        known |= {n.id for n in nodes
                  if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        known |= {(n.asname or n.name).split(".")[0] for n in nodes
                  if isinstance(n, ast.alias)}
        known |= {n.name for n in nodes
                  if isinstance(n, ast.FunctionDef | ast.ExceptHandler)}
        known |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        used = {n.id for n in nodes if isinstance(n, ast.Name)}
        assert used <= known, cell.id


def test_a_run_of_ones_own_model_keeps_every_line_of_code():
    """So what is published for it is all that there is to run."""
    for name, notebook in NOTEBOOKS.items():
        kept = origin.suited(notebook, False)
        both = [[c.source for c in n.cells if c.cell_type == "code"]
                for n in (kept, notebook)]  # fmt: skip
        assert both[0] == both[1], name
    left = [len(n.cells) - len(origin.suited(n, True).cells)
            for n in NOTEBOOKS.values()]  # fmt: skip
    assert sum(left) > 20


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_refers_to_a_figure_that_is_left_out(name):
    cells = origin.suited(NOTEBOOKS[name], True).cells
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for part in prose.split("{numref}`")[1:]:
        assert f':name: "{part.split("`")[0]}"' in prose, part[:40]


def test_all_chapters_have_one_model():
    values = parameters.resolve(NOTEBOOKS, "local", "model=/x/y")
    assert origin.model_of(values) == "/x/y"
    values = parameters.resolve(NOTEBOOKS, "laptop", "")
    assert origin.model_of(values) == ""
    assert origin.model_of({"01-superposition": values["01-superposition"]}) \
        == ""
    values = parameters.resolve(NOTEBOOKS, "laptop", "03:model=gpt2")
    with pytest.raises(InputError, match="02-synthesis none, 03-language-mod"):
        origin.model_of(values)


@pytest.mark.parametrize("word, said", [
    ("", "no folder /path/to/its/folder"),
    ("model=/tmp", "/tmp holds no whole model: it lacks config.json"),
])  # fmt: skip
def test_a_missing_model_is_told_at_once(tmp_path, monkeypatch, word, said):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "helpers.execute", "run", "--profile", "local",
         "--params", word],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert time.monotonic() - begun < 10
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert "PARAMS" in done.stderr
