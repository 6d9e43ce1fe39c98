"""Downloads from a hub of our own: resumed, verified, never for long."""

import time

import pytest

from helpers.errors import InputError
from helpers.pretrained import hub as files
from tests.hub import Hub, Repository

WEIGHTS = bytes(range(256)) * 4000
REPOSITORY = Repository(
    {"config.json": b"{}", "model.safetensors": WEIGHTS, "more.bin": b"no"}
)
WANTED = ("*.json", "*.safetensors")
NAME = "some/model"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    with Hub({NAME: REPOSITORY}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def get():
    return files.download(files.listing(NAME, WANTED))


def test_only_what_is_wanted_and_each_file_once(server):
    listed = files.listing(NAME, WANTED)
    assert [f.path for f in listed.files] == ["config.json",
                                              "model.safetensors"]
    assert listed.size == len(WEIGHTS) + 2 and listed.licence == "mit"
    told = []
    folder = files.download(listed, told.append)
    assert sum(told) == listed.size
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "more.bin").exists() and not listed.missing()
    assert files.snapshot(NAME) == folder
    files.download(listed)
    assert server.asked("model.safetensors") == 2  # the redirect, the file


def test_the_real_client_finds_it_in_the_cache(server):
    from huggingface_hub import hf_hub_download, snapshot_download

    folder = get()
    how = dict(cache_dir=files.cache(), local_files_only=True)
    assert hf_hub_download(NAME, "config.json", **how) == str(
        folder / "config.json")  # fmt: skip
    assert snapshot_download(NAME, **how) == str(folder)


def test_a_file_cut_off_goes_on_at_once(server):
    server.cut("model.safetensors", after=300_000)
    told = []
    folder = files.download(files.listing(NAME, WANTED), told.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sum(told) == len(WEIGHTS) + 2
    ranges = [r for _, path, r in server.requests if path.startswith("/cdn")]
    assert ranges[0] == "" and ranges[1] not in ("", "bytes=0-")


def test_a_dead_hub_stops_it_and_the_next_run_goes_on(server):
    server.cut("model.safetensors", after=300_000)
    server.cut("model.safetensors", after=0, times=9)
    start = time.monotonic()
    with pytest.raises(InputError, match="cut off .* of 1.02 MB .*run again"):
        get()
    assert time.monotonic() - start < 10
    server.reset()
    folder = get()
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    first = [r for _, path, r in server.requests if path.startswith("/cdn")]
    assert first[0].startswith("bytes=") and first[0] != "bytes=0-"


def test_a_stalled_hub_stops_it(server, monkeypatch):
    monkeypatch.setattr(files, "SILENCE", 0.3)
    server.stall("model.safetensors", after=1000, seconds=30)
    start = time.monotonic()
    with pytest.raises(InputError, match="cut off .*run again"):
        get()
    assert time.monotonic() - start < 5


def test_a_damaged_file_is_never_used(server):
    server.corrupt("model.safetensors")
    with pytest.raises(InputError, match="damaged on its way"):
        get()
    assert files.snapshot(NAME) is None
    assert (get() / "model.safetensors").read_bytes() == WEIGHTS


def test_files_damaged_on_disk_are_found(server):
    listed = files.listing(NAME, WANTED)
    folder = files.download(listed)
    assert files.damaged(listed) == []
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[:-1] + b"x")
    assert [f.path for f in files.damaged(listed)] == ["model.safetensors"]
    assert [f.path for f in listed.missing()] == ["model.safetensors"]
    assert (get() / "model.safetensors").read_bytes() == WEIGHTS


def test_a_gated_repository_asks_for_a_token(server, monkeypatch):
    server.repositories[NAME] = Repository(REPOSITORY.files, token="good")
    assert files.listing(NAME, WANTED).gated
    with pytest.raises(InputError, match="is gated.*accept.*set HF_TOKEN"):
        get()
    monkeypatch.setenv("HF_TOKEN", "bad")
    with pytest.raises(InputError, match="is gated.*has no access yet"):
        get()
    monkeypatch.setenv("HF_TOKEN", "good")
    assert (get() / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai/gpt3", "has no repository.*'openai-community/gpt2'"),
        ("google/gema-2b", "did you mean 'google/gemma-2b'"),
        ("a b/c", "not a name of a repository"),
    ],
)
def test_an_unknown_name_is_told(server, name, said):
    with pytest.raises(InputError, match=said):
        files.listing(name, WANTED)


def test_a_hub_that_is_down_is_told(server):
    server.status = 503
    with pytest.raises(InputError, match="error 503.*HF_ENDPOINT"):
        get()


def test_no_network_is_told_in_time(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match="cannot be reached.*models--some--mo"):
        get()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(files, "SILENCE", 0.3)
    server.pause = 30
    with pytest.raises(InputError, match="does not answer.*make fetch"):
        get()
    assert time.monotonic() - start < 8


def test_offline_nobody_is_asked(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        get()
    assert server.requests == []


def test_a_name_lookup_without_end_does_not_hang():
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        files.within(0.2, lambda: time.sleep(5))
    assert time.monotonic() - start < 2


def test_a_full_disk_is_told(server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write", full)
    with pytest.raises(InputError, match="no disk space.*HF_HOME"):
        get()
