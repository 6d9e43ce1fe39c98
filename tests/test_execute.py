"""The executor, end to end on three tiny chapters (see sandbox.py)."""

import json
import os
import signal
import time

import nbformat
import psutil
import pytest

from helpers.execute import fingerprints
from tests.sandbox import Sandbox


@pytest.fixture
def fresh(tmp_path):
    """A sandbox in which nothing has run."""
    return Sandbox(tmp_path)


@pytest.fixture
def sandbox(tmp_path, finished):
    """A copy of the finished sandbox, to edit and break."""
    return Sandbox(tmp_path, like=finished)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sandbox whose chapters 01 and 02 have run; tests only read it."""
    sandbox = Sandbox(tmp_path_factory.mktemp("finished"))
    assert sandbox.chapters() == ["01-make", "02-use"]
    return sandbox


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# What runs again, and what does not


def test_nothing_unchanged_runs_again(finished):
    assert finished.chapters() == []
    for file in finished.root.rglob("*"):
        os.utime(file)
    assert finished.chapters() == []


def test_editing_a_chart_helper_reruns_only_chapters_importing_it(sandbox):
    made = sandbox.root / "artifacts/tiny/count/manifest.json"
    before = made.read_bytes()
    edit(sandbox.root / "helpers/drawing.py", "mark_bar", "mark_line")
    assert sandbox.chapters() == ["02-use"]
    assert made.read_bytes() == before


def test_comments_and_docstrings_of_a_helper_make_nothing_stale(sandbox):
    edit(sandbox.root / "helpers/tiny.py", "A stage for", "# One stage of")
    assert sandbox.chapters() == []


def test_a_parameter_reruns_its_chapter_and_what_depends_on_it(sandbox):
    assert sandbox.chapters("count=4") == ["01-make", "02-use"]
    # 14 gives the same bytes as 4: what reads them need not run again.
    assert sandbox.chapters("count=14") == ["01-make"]


def test_a_missing_artifact_is_made_again(sandbox):
    (sandbox.root / "artifacts/tiny/count/manifest.json").unlink()
    assert sandbox.chapters() == ["01-make"]


def test_new_prose_is_taken_over_without_running(sandbox):
    edit(sandbox.notebook("01-make"), "# Chapter 01-make", "# New title")
    assert sandbox.chapters() == []
    executed = nbformat.read(sandbox.executed("01-make"), 4)
    assert executed.cells[0].source == "# New title"
    assert executed.cells[-1].id == "provenance"
    assert any(cell.get("outputs") for cell in executed.cells)


def test_only_runs_a_chapter_and_what_it_needs(sandbox):
    status, said = sandbox.run(only="2")
    assert status == 0
    assert "01-make: current" in said and "02-use: current" in said
    assert "03-alone" not in said


# What a run leaves


def test_two_clones_give_the_same_bytes(finished, fresh):
    fresh.chapters()
    for name in ("01-make", "02-use"):
        ours, theirs = fresh.executed(name), finished.executed(name)
        assert ours.read_bytes() == theirs.read_bytes()
        assert str(fresh.root) not in ours.read_text()


def test_chapter_records_what_it_used(finished):
    book = nbformat.read(finished.executed("02-use"), 4).metadata["book"]
    made = json.loads(
        (finished.root / "artifacts/tiny/count/manifest.json").read_text()
    )
    assert book["reads"] == {"artifacts/tiny/count": made["digest"]}
    assert book["parameters"] == {"profile": "tiny", "pause": 0.0}
    provenance = nbformat.read(finished.executed("02-use"), 4).cells[-1]
    assert made["digest"][:12] in provenance.source
    assert "02-use.run.json" in provenance.source


def test_sidecar_holds_what_varies(finished):
    sidecar = finished.sidecar("01-make")
    assert sidecar["seconds"] > 0 and sidecar["peak_memory_mib"] > 10
    assert "artifacts/tiny/count" in sidecar["stages"]


def test_published_chapters_and_numbers_are_compared(sandbox):
    status, said = sandbox.run()
    assert status == 0, said
    assert (sandbox.root / "_build/tiny/html/index.html").is_file()
    assert "01-make: nothing published to compare with" in said
    assert sandbox.call("publish", "--profile", "tiny")[0] == 0
    results = json.loads((sandbox.root / "book/results/tiny.json").read_text())
    numbers = results["chapters"]["01-make"]["numbers"]
    assert numbers["made_count"]["value"] == 3
    _, said = sandbox.run()
    assert said.count("identical to the published one") == 3
    _, said = sandbox.run(params="count=4")
    assert "differs: made_count 4, published 3 (tolerance 10%)" in said


def test_publishing_an_unfinished_run_is_refused(finished):
    status, said = finished.call("publish", "--profile", "tiny")
    assert status == 2
    assert "chapters 03-alone have not run in profile tiny" in said


# Interruptions


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_run_goes_on_where_it_stopped(fresh, how):
    published = fresh.root / "book/chapters/02-use.ipynb"
    published.write_text("as it was")
    process = fresh.start("run", "--profile", "tiny", "--params",
                            "02-use:pause=30")
    made = fresh.root / "artifacts/tiny/count/manifest.json"
    wait_for(fresh.executed("01-make").exists)
    before = made.read_bytes()
    time.sleep(1)
    process.send_signal(how)
    process.wait(30)
    assert published.read_text() == "as it was"
    assert not fresh.executed("02-use").exists()
    assert fresh.chapters() == ["02-use"]
    assert made.read_bytes() == before
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert "goes on from there" in process.stdout.read()


def test_kill_inside_a_stage_leaves_no_half_artifact(fresh):
    process = fresh.start("run", "--profile", "tiny", "--params", "pause=30")
    folder = fresh.root / "artifacts/tiny"
    wait_for(lambda: list(folder.glob(".count.*")))
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(30)
    gone, alive = psutil.wait_procs(kernels, timeout=20)
    assert gone and not alive, "an orphaned kernel would go on writing"
    assert not (folder / "count").exists()
    assert fresh.chapters() == ["01-make", "02-use"]
    assert not list(folder.glob(".count.*"))


def test_a_second_run_of_the_same_profile_is_refused(fresh):
    process = fresh.start("run", "--profile", "tiny", "--params", "pause=30")
    wait_for((fresh.root / "artifacts/tiny/.lock").exists)
    time.sleep(1)
    status, said = fresh.run()
    process.kill()
    process.wait(30)
    assert status == 2 and "another run of profile tiny is at work" in said


# Bad input: one sentence, status 2, nothing lost

BAD = {
    "profile": (
        {"profile": "tinny"},
        "unknown profile 'tinny'; did you mean 'tiny'? Accepted: tiny",
    ),
    "chapter": (
        {"only": "09"},
        "unknown chapter '09'. Accepted: 01-make, 02-use, 03-alone",
    ),
    "parameter": (
        {"params": "cuont=3"},
        "unknown parameter 'cuont'; did you mean 'count'? "
        "Accepted: count, mode, pause, rate, seed",
    ),
    "parameter of a chapter": (
        {"params": "03-alone:count=3"},
        "unknown parameter of 03-alone 'count'. Accepted: seed",
    ),
    "type": (
        {"params": "count=many"},
        "count must be a whole number: how many",
    ),
    "fraction": (
        {"params": "count=2.5"},
        "count must be a whole number: how many",
    ),
    "range": (
        {"params": "count=101"},
        "count=101 is out of range; accepted are values from 1 to 100, the "
        "nearest is 100",
    ),
    "choice": (
        {"params": "mode=fanci"},
        "unknown mode 'fanci'; did you mean 'fancy'? Accepted: plain, fancy",
    ),
    "word": (
        {"params": "count"},
        "cannot read PARAMS word 'count'; write name=value or "
        "chapter:name=value, words separated by spaces",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(finished, case):
    arguments, sentence = BAD[case]
    status, said = finished.run(**arguments)
    assert (status, said) == (2, f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("02-usw: {pause: 1}", "unknown chapter in tiny.yaml '02-usw'; did "
         "you mean '02-use'?"),
        ("common: {sead: 1}", "unknown parameter 'sead'; did you mean 'seed'?"),
        ("common: {seed: 1", "tiny.yaml is not valid YAML"),
    ],
)
def test_bad_profile_file_is_one_sentence(sandbox, content, sentence):
    sandbox.profile_file.write_text(content)
    status, said = sandbox.run()
    assert status == 2 and said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1


def test_altered_artifact_is_refused_and_kept(sandbox):
    file = sandbox.root / "artifacts/tiny/count/count.txt"
    file.write_text("33")
    status, said = sandbox.run()
    assert status == 2
    assert said.endswith(
        "error: artifacts/tiny/count was altered or only half written "
        "(count.txt does not match its manifest); remove that folder and "
        "run again\n"
    )
    assert file.read_text() == "33"


def test_input_error_inside_a_chapter_is_one_sentence(sandbox):
    edit(sandbox.root / "helpers/tiny.py", "time.sleep(pause)",
         "from helpers.errors import InputError; raise InputError('no text')")
    status, said = sandbox.run()
    assert status == 2 and said.endswith("error: 01-make: no text\n")


def test_full_disk_inside_a_chapter_is_one_sentence(sandbox):
    edit(sandbox.root / "helpers/tiny.py", "time.sleep(pause)",
         "raise OSError(28, 'No space left on device')")
    status, said = sandbox.run()
    assert status == 2
    assert "01-make: no disk space left to write artifacts/tiny/count" in said
    folder = sandbox.root / "artifacts/tiny"
    assert (folder / "count/count.txt").read_text() == "3"
    assert not list(folder.glob(".count.*"))


def test_failing_chapter_names_the_cell_and_keeps_the_notebook(sandbox):
    edit(sandbox.root / "helpers/drawing.py", "import altair", "import altar")
    status, said = sandbox.run()
    assert status == 1
    assert "02-use stopped in cell 2 with ModuleNotFoundError" in said
    assert (sandbox.root / "artifacts/tiny/failed/02-use.ipynb").is_file()
    assert sandbox.executed("01-make").is_file()


def test_a_file_that_a_chapter_names_decides_whether_it_is_current(tmp_path):
    file = tmp_path / "results.json"
    notebook = nbformat.v4.new_notebook(
        metadata={"book": {"data": [str(file)]}}
    )
    found = set()
    for content in ("one", "two", "one"):
        file.write_text(content)
        found.add(fingerprints.fingerprint(notebook, {}))
    file.unlink()
    found.add(fingerprints.fingerprint(notebook, {}))
    assert len(found) == 3
