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
from tests import checkpoints
from tests.hub import Hub

NOTEBOOKS = chapters.sources()


@pytest.mark.parametrize("is_pretrained", (True, False))
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_left_out_is_not_missed(name, is_pretrained):
    """No cell of a run uses a name that only a left-out cell makes."""
    known = {*dir(builtins), "display"}
    for cell in origin.suited(NOTEBOOKS[name], is_pretrained).cells:
        if cell.cell_type != "code":
            continue
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
        tags = {tag for c in kept.cells for tag in c.metadata.get("tags", [])}
        assert not tags & {origin.TRAINED, origin.PRETRAINED}
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


def execute(*words):
    """`make execute PROFILE=local`, in a process."""
    return subprocess.run(
        [sys.executable, "-m", "helpers.execute", "run", "--profile", "local",
         *words],
        cwd=paths.ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("word, said", [
    ("", "no folder /path/to/its/folder"),
    ("model=/tmp", "/tmp holds no whole model: it lacks config.json"),
])  # fmt: skip
def test_a_missing_model_is_told_at_once(tmp_path, monkeypatch, word, said):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    begun = time.monotonic()
    done = execute("--params", word)
    assert time.monotonic() - begun < 10
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert "PARAMS" in done.stderr


V5 = "gpt2-small-resid-post-v5-32k"


@pytest.mark.parametrize("release, sae_id, hook_point, more, said", [
    (V5, "blocks.3.hook_resid_post", "blocks.3.hook_resid_post",
     "center_writing_weights=true",
     "needs gpt2 loaded with center_writing_weights=False, not True"),
    ("gpt2-small-res-jb", "blocks.2.hook_resid_pre",
     "blocks.1.hook_resid_pre", "center_writing_weights=true",
     "trained on blocks.2.hook_resid_pre and means nothing on 'blocks.1"),
])  # fmt: skip
def test_a_published_sae_that_does_not_belong_stops_the_run(
    tmp_path, monkeypatch, release, sae_id, hook_point, more, said
):
    """By the real clients, from the hub: one sentence, status 2."""
    words = (f"model=gpt2 hook_point={hook_point} release={release} "
             f"sae_id={sae_id} {more}")  # fmt: skip
    with Hub(checkpoints.repositories()) as hub:
        for name, value in [("HF_ENDPOINT", hub.url),
                            ("HF_HOME", str(tmp_path / "home")),
                            ("BOOK_ARTIFACTS", str(tmp_path / "artifacts"))]:
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        done = execute("--params", words)
    assert done.returncode == 2 and done.stdout == ""
    lines = [n for n in done.stderr.splitlines() if n.strip() and "%|" not in n]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert said in lines[0]
