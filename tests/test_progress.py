"""Progress lines for the executor and for a person."""

import pytest

from helpers import progress


def test_executor_gets_lines_and_the_notebook_nothing(
    tmp_path, monkeypatch, capfd
):
    file = tmp_path / "progress.txt"
    monkeypatch.setenv("BOOK_PROGRESS", str(file))
    monkeypatch.setattr(progress, "INTERVAL", -1.0)
    with progress.track("training A", 4) as follow:
        follow.update(1, "loss 3.1")
        follow.update(3)
    first, last = file.read_text().splitlines()
    assert first.startswith("training A  25%, ") and first.endswith("loss 3.1")
    assert last == "training A 100%, 0 s left"
    assert capfd.readouterr() == ("", "")


def test_lines_come_at_intervals(tmp_path, monkeypatch):
    file = tmp_path / "progress.txt"
    file.touch()
    monkeypatch.setenv("BOOK_PROGRESS", str(file))
    with progress.track("quick", 100) as follow:
        for _ in range(100):
            follow.update()
    assert file.read_text() == ""


def test_a_person_gets_a_bar(monkeypatch, capsys):
    monkeypatch.delenv("BOOK_PROGRESS", raising=False)
    with progress.track("reading", 2) as follow:
        follow.update(2, "done")
    assert "reading" in capsys.readouterr().err


@pytest.mark.parametrize(
    "seconds, said",
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s")],
)
def test_clock(seconds, said):
    assert progress.clock(seconds) == said
