"""Artifacts: written whole or not at all, chained by content."""

import json
import os

import pytest

from helpers import artifacts
from helpers.errors import InputError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    monkeypatch.delenv("BOOK_RECORD", raising=False)
    return tmp_path


class Maker:
    """Writes ``text`` and counts how often it was asked to."""

    def __init__(self, text="one"):
        self.text, self.calls = text, 0
        self.__module__ = "helpers.progress"

    def __call__(self, folder):
        self.calls += 1
        (folder / "data.txt").write_text(self.text)


def produce(path, make, parameters=None, inputs=()):
    return artifacts.produce(
        path, make, parameters=parameters or {}, inputs=inputs
    )


def test_made_once_for_the_same_parameters(root):
    make = Maker()
    for _ in range(2):
        assert (produce(root / "p/a", make) / "data.txt").read_text() == "one"
    assert make.calls == 1
    produce(root / "p/a", make, {"n": 2})
    assert make.calls == 2


def test_inputs_count_by_content_not_by_history(root):
    first, second = Maker(), Maker()
    source = produce(root / "p/a", first, {"n": 1})
    produce(root / "p/b", second, inputs=[source])
    produce(root / "p/a", first, {"n": 2})  # same bytes, other parameters
    produce(root / "p/b", second, inputs=[source])
    assert (first.calls, second.calls) == (2, 1)
    first.text = "two"
    produce(root / "p/a", first, {"n": 3})
    produce(root / "p/b", second, inputs=[source])
    assert second.calls == 2


def test_manifest_records_what_was_made(root):
    path = produce(root / "p/a", Maker(), {"n": 1})
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["parameters"] == {"n": 1}
    assert manifest["files"]["data.txt"][0] == 3
    assert {"seconds", "peak_memory_mib", "at"} <= set(manifest["made"])
    assert "torch" in manifest["versions"]


def test_failure_keeps_what_stood_there(root):
    path = produce(root / "p/a", Maker())

    def broken(folder):
        (folder / "data.txt").write_text("half")
        raise RuntimeError("stopped")

    broken.__module__ = "helpers.progress"
    with pytest.raises(RuntimeError):
        produce(path, broken, {"n": 2})
    assert (path / "data.txt").read_text() == "one"
    assert os.listdir(path.parent) == ["a"]


def test_missing_artifact_is_one_sentence(root):
    with pytest.raises(InputError) as error:
        artifacts.require(root / "laptop/saes/topk-8x")
    assert str(error.value) == (
        "artifacts/laptop/saes/topk-8x is not there; run the chapter that "
        "makes it first (`make execute` runs all of them in order)"
    )


@pytest.mark.parametrize("damage", ["shorter", "changed", "gone", "manifest"])
def test_damaged_artifact_is_refused(root, damage):
    path = produce(root / "p/a", Maker())
    file = path / "data.txt"
    if damage == "gone":
        file.unlink()
    elif damage == "manifest":
        (path / "manifest.json").write_text('{"key": ')
    else:
        file.write_text({"shorter": "o", "changed": "two"}[damage])
    for use in (artifacts.require, lambda p: produce(p, Maker())):
        with pytest.raises(InputError, match="altered or only half written"):
            use(path)


def test_full_disk_is_one_sentence_and_loses_nothing(root):
    path = produce(root / "p/a", Maker())

    def full(folder):
        raise OSError(28, "No space left on device")

    full.__module__ = "helpers.progress"
    with pytest.raises(InputError, match="no disk space left to write"):
        produce(path, full, {"n": 2})
    assert (path / "data.txt").read_text() == "one"


def test_executor_is_told_what_was_read_and_written(root, monkeypatch):
    record = root / "record.jsonl"
    monkeypatch.setenv("BOOK_RECORD", str(record))
    source = produce(root / "p/a", Maker())
    produce(root / "p/b", Maker(), inputs=[source])
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["kind"], line["path"]) for line in lines] == [
        ("writes", "artifacts/p/a"),
        ("reads", "artifacts/p/a"),
        ("writes", "artifacts/p/b"),
    ]
    assert lines[0]["digest"] == artifacts.digest(source)


def test_json_is_independent_of_key_order(root):
    for name, value in (("a", {"x": 1, "y": 2}), ("b", {"y": 2, "x": 1})):
        artifacts.write_json(root / name, value)
    assert (root / "a").read_bytes() == (root / "b").read_bytes()
