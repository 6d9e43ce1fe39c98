"""`make fetch` against a hub of our own: listed, asked, cut, killed.

A run of a profile whose model is on the hub begins with the same download,
so where the hub fails both are asked to do the same.
"""

import re
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from helpers import fetch, paths
from helpers.errors import InputError
from helpers.pretrained import hub as files
from helpers.pretrained.releases import locate, release_ids
from tests.hub import Hub, Repository

MODEL = {
    "config.json": b"{}", "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 8000,
    "pytorch_model.bin": b"x" * 999, "onnx/model.safetensors": b"x" * 99,
}  # fmt: skip


def repositories():
    """All that the profile gpt2 asks for, the content of no matter."""
    found = {"openai-community/gpt2": Repository(MODEL)}
    for release in ("gpt2-small-resid-post-v5-32k", "gpt2-small-res-jb"):
        places = [locate(release, i) for i in release_ids(release)]
        content = {p: p.encode() for place in places for p in place.paths}
        found[places[0].repository] = Repository(content, "apache-2.0")
    return found


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    with Hub(repositories()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.fetch", *words], text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


COMMANDS = {
    "fetch": ("helpers.fetch", "--profile", "gpt2", "--yes"),
    "run": ("helpers.execute", "run", "--profile", "local", "--params",
            "model=gpt2"),
}  # fmt: skip


@pytest.fixture
def begin(server, tmp_path, monkeypatch):
    """begin(name) starts one of the commands, in folders of its own."""
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    return lambda name: subprocess.Popen(
        [sys.executable, "-m", *COMMANDS[name]], text=True, cwd=paths.ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def refused(run, server) -> str:
    """The one sentence with which it stops, status 2, within 10 seconds of
    its first question (or of its start, if it asks nothing)."""
    begun = time.monotonic()
    while run.poll() is None and not server.requests:
        time.sleep(0.02)
    if server.requests:
        begun = time.monotonic()
    said = run.communicate(timeout=30)[1]
    assert time.monotonic() - begun < 10 and run.returncode == 2, said
    lines = [line for line in said.splitlines()
             if line.strip() and "%|" not in line]  # a bar is no sentence
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    return lines[0]


def finishes(run) -> None:
    """Wait until the model is there; what would follow is not wanted."""
    until = time.monotonic() + 30
    while files.snapshot("openai-community/gpt2") is None:
        assert run.poll() in (None, 0) and time.monotonic() < until
        time.sleep(0.05)
    run.kill()
    run.communicate()
    assert weights().read_bytes() == MODEL["model.safetensors"]


def weights():
    return files.snapshot("openai-community/gpt2") / "model.safetensors"


def partial():
    folder = files.cache_folder("openai-community/gpt2") / "blobs"
    return [p for p in folder.glob("*.partial") if p.stat().st_size > 200_000]


def test_it_lists_asks_downloads_and_verifies(server, capsys):
    asked = []
    assert not fetch.fetch("gpt2", False, lambda q: asked.append(q) or "n")
    assert "download 2.05 MB into" in asked[0]
    said = capsys.readouterr().out
    assert re.search(r"openai-community/gpt2 +3 +2.05 MB +2.05 MB +mit", said)
    assert re.search(r"GPT2-Small-SAEs-Reformatted +26 .*apache-2.0", said)
    assert not any("resolve" in path for _, path, _ in server.requests)
    assert fetch.fetch("gpt2", False, lambda question: "y")
    assert "verified" in capsys.readouterr().out
    assert weights().read_bytes() == MODEL["model.safetensors"]
    folder = weights().parent
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "tokenizer.json", "model.safetensors"}  # fmt: skip


def test_what_is_there_is_verified_and_only_the_rest_loaded(server, capsys):
    assert fetch.fetch("gpt2", True)
    server.reset()
    assert fetch.fetch("gpt2", False)  # nothing left to ask about
    assert server.asked(".safetensors") == 0
    weights().resolve().write_bytes(b"y" * len(MODEL["model.safetensors"]))
    assert fetch.fetch("gpt2", True)
    assert "model.safetensors is damaged" in capsys.readouterr().out
    assert weights().read_bytes() == MODEL["model.safetensors"]
    assert server.asked("model.safetensors") == 2


def test_killed_it_goes_on_from_the_last_byte(server):
    server.stall("model.safetensors", after=900_000, seconds=60)
    run = start("--profile", "gpt2", "--yes")
    until = time.monotonic() + 30
    while not partial():
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    kept = partial()[0].stat().st_size
    server.reset()
    again = start("--profile", "gpt2", "--yes")
    said = again.communicate(timeout=60)[0]
    assert again.returncode == 0, said
    assert weights().read_bytes() == MODEL["model.safetensors"]
    ranges = [r for _, path, r in server.requests
              if path.startswith("/cdn/openai")]  # fmt: skip
    assert ranges == [f"bytes={kept}-"]


def test_interrupted_or_unanswered_it_says_so(server):
    server.stall("model.safetensors", after=900_000, seconds=60)
    run = start("--profile", "gpt2", "--yes")
    until = time.monotonic() + 30
    while not partial():
        assert time.monotonic() < until
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=20)[0]
    assert run.returncode == 130 and "the same command goes on" in said
    quiet = start("--profile", "gpt2")
    said = quiet.communicate(timeout=30)[0]
    assert quiet.returncode == 2 and said.endswith("without asking\n")


@pytest.mark.parametrize("name, how", [
    ("fetch", "cut"), ("run", "cut"), ("run", "silent")
])  # fmt: skip
def test_a_hub_that_fails_in_the_middle(server, begin, name, how):
    """It stops in time and goes on from the last byte in the next run."""
    if how == "silent":
        server.stall("model.safetensors", after=900_000, seconds=60)
    else:
        server.cut("model.safetensors", after=900_000)
        server.cut("model.safetensors", after=0, times=9)
    said = refused(begin(name), server)
    assert "was cut off" in said and "run again" in said
    kept = partial()[0].stat().st_size
    server.reset()
    finishes(begin(name))
    ranges = [r for _, path, r in server.requests
              if path.startswith("/cdn/openai")]  # fmt: skip
    assert ranges == [f"bytes={kept}-"]


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_network_it_stops_in_time(server, begin, name, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused(begin(name), server)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    finishes(begin(name))


@pytest.mark.parametrize("fault, said", [
    ("gated", "is gated"), ("down", "error 503"), ("unknown", "no repository"),
    ("corrupted", "damaged on its way"), ("offline", "HF_HUB_OFFLINE is set"),
])  # fmt: skip
def test_a_run_says_what_is_wrong_at_once(
    server, begin, monkeypatch, fault, said
):
    name = "openai-community/gpt2"
    if fault == "gated":
        server.repositories[name] = Repository(MODEL, token="good")
    elif fault == "down":
        server.status = 503
    elif fault == "unknown":
        del server.repositories[name]
    elif fault == "corrupted":
        server.corrupt("model.safetensors")
    else:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert said in refused(begin("run"), server)


@pytest.mark.parametrize("profile", ("gpt2", "distilgpt2", "gemma-2b",
                                     "gemma-scope"))  # fmt: skip
def test_every_profile_names_what_saelens_knows(profile):
    assert fetch.needed(profile)


def test_bad_input_is_one_sentence(server, capsys, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'gpt2'"):
        fetch.fetch("gtp2", True)
    assert fetch.fetch("laptop", True)
    assert "needs nothing from a hub" in capsys.readouterr().out
    name = "jbloom/GPT2-Small-SAEs-Reformatted"
    whole = server.repositories[name]
    server.repositories[name] = Repository({"cfg.json": b""})
    with pytest.raises(InputError, match="has no blocks.*whole mirror"):
        fetch.fetch("gpt2", True)
    server.repositories[name] = whole
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda p: usage(1000))
    with pytest.raises(InputError, match="do not fit .*HF_HOME"):
        fetch.fetch("gpt2", True)
