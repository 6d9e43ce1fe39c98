"""The whole report at the smoke profile, and the published book.

Every chapter runs once, in a folder of its own; the book of that run and
the published one are built with ``-W`` and opened in a real browser whose
every host but this machine is blocked.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from helpers import features, paths, synthesis, text, train
from helpers.execute import chapters, results
from helpers.sae.interchange import WEIGHTS
from tests import browser, checkpoints

NOTEBOOKS = chapters.sources()


def execute(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "helpers.execute", *words],
        cwd=paths.ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Artifacts of a smoke run made now; what it printed."""
    root = tmp_path_factory.mktemp("artifacts")
    said = execute("run", "--profile", "smoke", BOOK_ARTIFACTS=str(root))
    return root, said


def executed(smoke, name: str):
    return results.read(smoke[0] / "smoke" / "chapters" / f"{name}.ipynb")


def test_every_chapter_runs_and_the_book_builds(smoke):
    assert f"{len(NOTEBOOKS)} of {len(NOTEBOOKS)} chapters ran" in smoke[1]
    assert (paths.build("smoke") / "html" / "index.html").is_file()


def test_running_again_runs_nothing(smoke):
    said = execute("run", "--profile", "smoke", BOOK_ARTIFACTS=str(smoke[0]))
    assert f"0 of {len(NOTEBOOKS)} chapters ran" in said


LEAST = (  # what a run of another's model adds need not be measured well
    "tokens=20000 held_out_documents=4 topk_activations=6000 "
    "l1_activations=6000 short_activations=4000 sizes=1,2 05:sample=4 "
    "05:documents=4 factor_documents=40 10:documents=20 "
    "hook_point=blocks.2.hook_resid_post context=64"
)


def test_every_chapter_on_a_model_from_elsewhere(smoke, tmp_path):
    """A folder with GPT-2's five layers; corpora are the smoke run's."""
    root = tmp_path / "artifacts"
    for part in ("corpora", "natural_text", "superposition"):
        shutil.copytree(smoke[0] / "smoke" / part, root / "local" / part)
    model = checkpoints.model_folder("gpt2", tmp_path / "gpt2", context=512)
    done = subprocess.run(
        [sys.executable, "-m", "tests.one_process", "local",
         f"model={model} {LEAST}"],
        cwd=paths.ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "BOOK_ARTIFACTS": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(re.findall(r"^[\dA].*: .* s$", done.stdout, re.M)) == len(
        NOTEBOOKS)  # fmt: skip
    made = {p.name for p in (root / "local/language_models").iterdir()}
    assert made == {"A", "untrained", "shuffled"}
    for layer in range(checkpoints.LAYERS):
        sae = train.load_sae(root / f"local/saes/layer-{layer}")
        assert sae.hook_point == f"blocks.{layer}.hook_resid_post"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_chapter_reads_only_what_it_says_it_needs(smoke, name):
    needed = set(chapters.with_needs(name, NOTEBOOKS)) - {name}
    made = {
        path
        for other in needed
        for path in executed(smoke, other).metadata["book"]["writes"]
    }
    assert set(executed(smoke, name).metadata["book"]["reads"]) <= made


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_chapter_says_nothing_it_should_not(smoke, name):
    """No warnings, no paths, no widget, nothing empty where a chart is due."""
    notebook = executed(smoke, name)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "stream" or output.name != "stderr"
            text = str(output.get("text", "")) + str(output.get("data", ""))
            assert str(paths.ROOT) not in text
            assert "Warning" not in text and "Traceback" not in text
            assert not re.search(r" at 0x[0-9a-f]{6}", text)  # an address


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_numbers_in_prose_come_from_the_run(name):
    """A typed decimal or percentage stands only beside its citation.

    Formulas, code and what-if exercises are set aside, and 0.5, the AUROC
    of chance; what a chapter measured is glued.
    """
    for cell in NOTEBOOKS[name].cells:
        if cell.source.startswith("## Exercises"):
            break
        if cell.cell_type != "markdown":
            continue
        text = re.sub(r"```.*?\n|\$[^$]*\$|`[^`]*`|\$\$.*?\$\$", "",
                      cell.source, flags=re.S)
        for paragraph in text.split("\n\n"):
            if "{cite" not in paragraph:
                typed = re.findall(r"\d+\.\d+|\d+(?:\.\d+)? ?%", paragraph)
                assert set(typed) <= {"0.5"}, paragraph


def test_headline_numbers_are_collected(smoke):
    for name in NOTEBOOKS:
        assert results.headlines(executed(smoke, name)), name


@pytest.fixture
def smoke_corpora(smoke, monkeypatch):
    """{corpus: documents} of the run, whose artifacts are in use."""
    monkeypatch.setenv("BOOK_ARTIFACTS", str(smoke[0]))
    return {
        name: synthesis.load_corpus(paths.corpus("smoke", name))
        for name in synthesis.CORPORA
    }


def test_no_matched_set_is_trained_on_and_tested_on(smoke_corpora):
    """What the training stream says, decoded, against the tested rows."""
    tokens = text.load_tokens(paths.tokens("smoke"))
    tokenizer = text.load_tokenizer(paths.tokenizer("smoke"))
    stream = np.asarray(tokens.train)
    parts = np.split(stream, np.flatnonzero(stream == 0))
    said = {tokenizer.decode(part[1:].tolist()) for part in parts}
    tested = tokens.documents
    for name, frame in smoke_corpora.items():
        trained_on = set(frame.loc[frame["text"].isin(said), "group"])
        tested_on = set(tested.loc[tested["corpus"] == name, "group"])
        assert len(trained_on) > 10 and len(tested_on) > 3, name
        assert not trained_on & tested_on, name


def test_features_are_compared_on_held_out_documents(smoke, smoke_corpora):
    tables = sorted((smoke[0] / "smoke" / "features").iterdir())
    checked = 0
    for path in tables:
        corpus = path.name.split("--")[1]
        if corpus in smoke_corpora:
            table = features.load_features(path)
            used = smoke_corpora[corpus].iloc[table.documents]
            assert set(used["split"]) == {"held_out"}, path.name
            checked += 1
    assert checked >= len(smoke_corpora)


BAD_TEXT = {
    "unreadable": (b"caf\xe9", "text.txt is not UTF-8 text (byte 3)"),
    "empty": (b" \n\n", "holds no text"),
    "too short": (b"Only a few words.", "fewer than one context of 128"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_text_of_your_own_is_one_sentence(smoke, tmp_path, case):
    """Chapter 02 on a file that will not do; the finished run is kept."""
    content, sentence = BAD_TEXT[case]
    source = tmp_path / "text.txt"
    source.write_bytes(content)
    shutil.copytree(smoke[0], tmp_path / "artifacts")
    before = (smoke[0] / "smoke/tokens/manifest.json").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "helpers.execute", "run", "--profile", "smoke",
         "--only", "02", "--params",
         f"source={source}"],
        cwd=paths.ROOT, capture_output=True, text=True,
        env={**os.environ, "BOOK_ARTIFACTS": str(tmp_path / "artifacts")},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: 02-synthesis: ")
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    kept = tmp_path / "artifacts/smoke/tokens/manifest.json"
    assert kept.read_bytes() == before


@pytest.mark.parametrize("width, dark", [(1300, False), (400, True)])
def test_browser_opens_the_run_book_offline(smoke, width, dark):
    html = paths.build("smoke") / "html"
    assert browser.audit(html, width=width, dark=dark) == []


@pytest.fixture(scope="session")
def published():
    """The committed book, built as its reader builds it."""
    execute("book")
    return paths.ROOT / "_build" / "html"


@pytest.mark.parametrize("width, dark", [(1300, True), (400, False)])
def test_browser_opens_the_published_book_offline(published, width, dark):
    assert browser.audit(published, width=width, dark=dark) == []


def test_published_chapters_are_whole():
    """Every chapter is published with its record and headline numbers."""
    for name, notebook in NOTEBOOKS.items():
        file = paths.PUBLISHED / f"{name}.ipynb"
        book = results.read(file)
        assert book.metadata["book"]["profile"] == "laptop"
        assert chapters.sidecar_path(file).is_file()
        code = [c.source for c in notebook.cells if c.cell_type == "code"]
        ran = [
            c.source for c in book.cells
            if c.cell_type == "code" and c.id != "injected-parameters"
        ]
        assert ran == code, f"{name} was edited after it was published"
        numbers = results.published("laptop")["chapters"][name]["numbers"]
        assert numbers == results.headlines(book)


@pytest.fixture
def specimen(request, tmp_path):
    """A profile and a folder of artifacts with its model and tokens alone:
    the smoke run's, or those of a finished run that TEST_SPECIMEN names."""
    profile = os.environ.get("TEST_SPECIMEN", "smoke")
    root = paths.ROOT / "artifacts"
    if profile == "smoke":
        root, _ = request.getfixturevalue("smoke")
    for part in ("language_models", "tokens"):
        shutil.copytree(root / profile / part, tmp_path / profile / part)
    return profile, tmp_path


def training(specimen, name) -> subprocess.Popen:
    """``python -m helpers.train`` for one SAE, which keeps checkpoints."""
    profile, root = specimen
    file = root / f"{name}.yaml"
    common = {"activations": 256 * 800, "batch": 256, "k": 8, "log_every": 10,
              "dead_after": 20_000}  # fmt: skip
    wanted = {"profile": profile, "model": "A", "common": common,
              "saes": {name: {}}, "checkpoint_every": 0}  # fmt: skip
    file.write_text(yaml.safe_dump(wanted))
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.train", file], cwd=paths.ROOT,
        env={**os.environ, "BOOK_ARTIFACTS": str(root)},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_killed_at_random_moments(specimen):
    """SIGKILL while activations stream: the same weights and log."""
    profile, root = specimen
    assert training(specimen, "whole").wait(600) == 0
    metrics = root / profile / "checkpoints" / "killed" / "metrics.jsonl"

    def lines():
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    draw = random.Random(0)
    for _ in range(int(os.environ.get("TEST_KILLS", 2))):
        before, process = lines(), training(specimen, "killed")
        while lines() <= before:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(draw.random() / 10)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert training(specimen, "killed").wait(600) == 0
    whole, killed = (root / profile / "saes" / n for n in ("whole", "killed"))
    for file in (WEIGHTS, train.LOG):
        assert (whole / file).read_bytes() == (killed / file).read_bytes()
