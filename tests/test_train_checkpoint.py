"""A run that is stopped goes on to the same weights, to the last bit."""

import errno
import json
import os
import random
import signal
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from helpers import sae, train
from helpers.train import checkpoint, loop
from tests import train_worker

SETTINGS = train.Settings(
    activations=64 * 20, batch=64, lr=3e-3, dead_after=100, log_every=4,
    aux_k=8,
)  # fmt: skip
KILLS = int(os.environ.get("TEST_KILLS", 5))  # in one run, one after another


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(loop, "find_precision", lambda _: torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def finish(architecture, folder, kill=None, how=signal.SIGKILL):
    """Run once in a child; how it ended."""
    folder.mkdir(exist_ok=True)
    process = train_worker.start(
        train_worker.streamed, architecture, folder, kill, how
    )
    process.join(120)
    return process.exitcode


def outcome(folder):
    found = json.loads((folder / "log.json").read_text())
    return torch.load(folder / "weights.pt"), found


def new_model():
    return sae.TopKSAE(12, 36, "h", 4, seed=1)


def kept(folder, **arguments):
    return train.Checkpoints(folder, "key", **{"every": 0, **arguments})


def until(folder, steps, settings=SETTINGS, **arguments):
    """Train from data that ends after some steps; the model."""
    model = new_model()

    def batches(first):
        for step, x in enumerate(train_worker.data()):
            if step == steps:
                raise InterruptedError
            if step >= first:
                yield x

    with pytest.raises(InterruptedError):
        train.fit(model, batches, settings, kept(folder, **arguments))
    return model


@pytest.mark.parametrize("architecture", ["topk", "l1", "batchtopk"])
def test_killed_at_random_steps(architecture, tmp_path):
    steps = train_worker.KILLED.steps
    assert finish(architecture, tmp_path / "whole") == 0
    weights, found = outcome(tmp_path / "whole")
    if architecture == "l1":
        assert found["resampled"] > 0
    else:
        assert any(line["dead"] > 0 for line in found["log"][:-1])
    draw = random.Random(architecture)
    places = sorted(draw.sample(range(2, steps), KILLS))
    for place in [*places, "write"]:
        ended = finish(architecture, tmp_path / "killed", place)
        assert ended == -signal.SIGKILL or place == "write"
    assert finish(architecture, tmp_path / "killed") == 0
    again, log = outcome(tmp_path / "killed")
    for name, weight in weights.items():
        assert torch.equal(weight, again[name]), (name, places)
    assert log["log"] == found["log"]


def test_killed_while_a_checkpoint_is_written(tmp_path):
    assert finish("topk", tmp_path, "write") == -signal.SIGKILL
    left = sorted(p.suffix for p in (tmp_path / "kept").iterdir())
    assert left == [".jsonl", ".partial", ".pt"]
    assert finish("topk", tmp_path) == 0
    assert not list((tmp_path / "kept").glob("*.partial"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_leaves(how, tmp_path):
    ended = finish("topk", tmp_path / "cut", 10, how)
    assert ended == (-signal.SIGTERM if how == signal.SIGTERM else 1)
    newest = kept(tmp_path / "cut" / "kept").newest
    assert newest.name == "step-0000000011.pt"  # not at a line of log
    for folder in ("cut", "whole"):
        assert finish("topk", tmp_path / folder) == 0
    (cut, log), (whole, all_of_it) = (
        outcome(tmp_path / folder) for folder in ("cut", "whole")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert log == all_of_it


def test_a_second_signal_leaves_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def batches(_):
        for step, x in enumerate(train_worker.data()):
            if step == 10:
                signal.raise_signal(signal.SIGINT)
                assert signal.getsignal(signal.SIGINT) is before
                signal.raise_signal(signal.SIGINT)  # before the step is done
            yield x

    with pytest.raises(KeyboardInterrupt):
        train.fit(new_model(), batches, SETTINGS, kept(tmp_path))
    assert kept(tmp_path).newest.name == "step-0000000008.pt"
    assert signal.getsignal(signal.SIGINT) is before


def test_the_last_two_are_kept_and_removed_at_the_end(tmp_path):
    until(tmp_path, 14)
    names = sorted(file.name for file in tmp_path.glob("*.pt"))
    assert names == ["step-0000000008.pt", "step-0000000012.pt"]
    kept(tmp_path).remove()
    assert not tmp_path.exists()


def test_time_decides_when_but_not_what(tmp_path):
    until(tmp_path, 14, every=3600)
    assert not list(tmp_path.glob("*.pt"))
    first, second = new_model(), new_model()
    train.fit(first, train_worker.data(), SETTINGS, kept(tmp_path))
    train.fit(second, train_worker.data(), SETTINGS)
    assert torch.equal(first.W_enc, second.W_enc)


def test_another_runs_checkpoint_is_left_alone(tmp_path):
    until(tmp_path, 14)
    other = train.Checkpoints(tmp_path, "other key", 0)
    with pytest.warns(UserWarning, match="other settings, data or code"):
        assert other.state is None


def test_a_damaged_checkpoint_is_left_out(tmp_path):
    until(tmp_path, 14)
    newest = kept(tmp_path).newest
    newest.write_bytes(newest.read_bytes()[:-2000])
    with pytest.warns(UserWarning, match="0012.pt is damaged"):
        assert kept(tmp_path).state["step"] == 8


def test_metrics_line_by_line_across_a_stop(tmp_path):
    file = tmp_path / checkpoint.METRICS
    until(tmp_path, 14)  # lines 4, 8, 12; goes on from 12
    with open(file, "a") as out:
        out.write('{"step": 16, "tokens": 1}\n{"step": 1')  # cut by a kill
    model = new_model()
    whole = train_worker.data()
    log = train.fit(model, whole, SETTINGS, kept(tmp_path))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    rates = [line.pop("tokens_per_second") for line in lines]
    assert lines == log and [line["step"] for line in log] == [4, 8, 12, 16, 20]
    assert all(rate > 0 for rate in rates)


def test_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    said = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            said.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            said.append((name, value, step))

        def close(self):
            said.append("closed")

    monkeypatch.setitem(
        sys.modules,
        "torch.utils.tensorboard",
        types.SimpleNamespace(SummaryWriter=SummaryWriter),
    )
    where = kept(tmp_path / "kept", board=tmp_path / "board")
    log = train.fit(new_model(), train_worker.data(), SETTINGS, where)
    where.remove()
    assert said[0] == (str(tmp_path / "board"), 1) and said[-1] == "closed"
    assert ("fvu", log[-1]["fvu"], 20) in said


def test_a_full_disk_stops_nothing(tmp_path, monkeypatch):
    save = torch.save

    def full(state, file):
        if state["step"] < 8:
            return save(state, file)
        with open("/dev/full", "wb") as disk:
            return save(state, disk)

    monkeypatch.setattr(torch, "save", full)
    model, plain = new_model(), new_model()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train.fit(model, train_worker.data(), SETTINGS, kept(tmp_path))
    (one,) = [w for w in said if "no disk space" in str(w.message)]
    assert "step 8; training goes on" in str(one.message)
    assert [file.name for file in tmp_path.glob("step*")] == [
        "step-0000000004.pt"
    ]
    assert kept(tmp_path).state["step"] == 4
    train.fit(plain, train_worker.data(), SETTINGS)
    assert torch.equal(model.W_dec, plain.W_dec)


def test_a_full_disk_may_spare_the_metrics_no_line(tmp_path, monkeypatch):
    where = kept(tmp_path, every=3600)
    run_open = open

    def full(file, *arguments):
        if Path(file).name == checkpoint.METRICS:
            raise OSError(errno.ENOSPC, "No space left on device")
        return run_open(file, *arguments)

    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    with pytest.warns(UserWarning, match="no disk space left"):
        log = train.fit(new_model(), train_worker.data(), SETTINGS, where)
    assert len(log) == 5


def test_other_errors_of_the_disk_are_not_hidden(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="Input/output"):
        train.fit(new_model(), train_worker.data(), SETTINGS, kept(tmp_path))
