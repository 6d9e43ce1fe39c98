"""`make fetch` against a hub of our own: listed, asked, cut, killed."""

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


def test_without_a_network_it_stops_in_time(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    run = start("--profile", "distilgpt2", "--yes")
    said = run.communicate(timeout=30)[0]
    assert time.monotonic() - begun < 10
    assert run.returncode == 2 and said.count("\n") == 1
    assert "cannot be reached" in said and "Traceback" not in said


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
