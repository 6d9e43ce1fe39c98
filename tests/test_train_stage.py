"""From a language model to artifacts: one SAE, or several in one pass."""

import threading
import types

import numpy as np
import pytest
import torch

from helpers import activations, artifacts, paths, sae, train
from helpers.activations import forward
from helpers.errors import InputError
from tests.test_activations import HOOKS, tiny_model

SMALL = {"expansion": 2, "k": 4, "activations": 640, "batch": 32}
WANTED = {
    "topk": SMALL,
    "wide": SMALL | {"expansion": 4, "seed": 1, "data_seed": 0},
    "short": SMALL | {"activations": 320, "k": 2},
    "l1": SMALL | {"architecture": "l1", "l1": 0.1, "hook_point": HOOKS[1]},
    "gated": SMALL | {"architecture": "gated", "l1": 0.1},
}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Artifacts that stand for a tiny model and its text."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    text = np.random.default_rng(0).integers(1, 30, 600).astype(np.uint16)
    monkeypatch.setattr(
        "helpers.language_model.models.load_language_model",
        lambda _: tiny_model(),
    )
    monkeypatch.setattr(
        "helpers.text.tokens.load_tokens",
        lambda _: types.SimpleNamespace(train=text),
    )
    yield [
        artifacts.produce(
            tmp_path / name,
            lambda folder: (folder / "x").write_text(""),
            parameters={},
        )
        for name in ("model", "tokens")
    ]
    torch.set_num_threads(before)


def count_passes(monkeypatch):
    """A list that gets the hook points of each forward pass."""
    run, passes = forward.run, []

    def counted(model, rows, hook_points, *dtype):
        passes.append(list(hook_points))
        return run(model, rows, hook_points, *dtype)

    monkeypatch.setattr(forward, "run", counted)
    return passes


def weights(path):
    return (path / sae.WEIGHTS).read_bytes()


def test_make_sae_end_to_end(inputs, monkeypatch):
    def make():
        return train.make_sae(
            "p", "topk-2x", *inputs, expansion=2, k=4, activations=256,
            batch=32, checkpoint_every=0,
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(sae, "save", lambda *_: 1 / 0)  # stopped just before
        with pytest.raises(ZeroDivisionError):
            make()
    left = paths.checkpoints("p", "topk-2x")
    assert (left / "step-0000000008.pt").exists()
    with monkeypatch.context() as patch:
        patch.setattr(sae.SAE, "gradients", lambda *_: 1 / 0)  # none is left
        made = make()
    assert not left.exists()
    loaded, log = train.load_sae(made), train.load_log(made)
    assert (loaded.d_in, loaded.d_sae, loaded.k) == (32, 64, 4)
    assert log["tokens"].tolist() == [256]


def test_several_in_one_pass_are_those_made_alone(inputs, monkeypatch):
    threads = threading.active_count()
    passes = count_passes(monkeypatch)
    together = train.make_saes("p", WANTED, *inputs)
    assert len(passes) > 5 and threading.active_count() == threads
    assert passes[-1] == sorted(HOOKS)  # one pass reads both
    many = len(passes)
    for name, how in WANTED.items():
        alone = train.make_sae("alone", name, *inputs, **how)
        assert weights(alone) == weights(together[name]), name
        pairs = zip(
            *(path.read_text().splitlines()
              for path in (alone / train.LOG, together[name] / train.LOG)),
            strict=True,
        )  # fmt: skip
        assert all(a == b for a, b in pairs)
    assert len(passes) - many > 2 * many
    assert train.load_sae(together["l1"]).hook_point == HOOKS[1]


def test_only_the_missing_ones_are_trained(inputs, monkeypatch):
    train.make_sae("p", "topk", *inputs, **WANTED["topk"])
    trained, fit_together = [], train.stage.fit_together

    def watched(jobs, batches):
        trained.extend(job.model.architecture for job in jobs)
        return fit_together(jobs, batches)

    monkeypatch.setattr(train.stage, "fit_together", watched)
    both = {name: WANTED[name] for name in ("topk", "gated")}
    train.make_saes("p", both, *inputs)
    train.make_saes("p", both, *inputs)
    assert trained == ["gated"]


@pytest.mark.parametrize("architecture", ["topk", "l1"])
def test_stopped_ones_go_on_from_where_each_stood(
    architecture, inputs, monkeypatch
):
    """Cut at different steps: their checkpoints are not written together."""
    first = SMALL | {"architecture": architecture, "activations": 32 * 48}
    first |= {"resample": (0.2, 0.4, 0.6), "log_every": 3, "dead_after": 90}
    wanted = {"first": first, "second": SMALL | {"log_every": 7}}
    whole = train.make_saes("whole", wanted, *inputs)
    take_step, left = train.loop.take_step, [33]

    def cut(run, x):
        left[0] -= 1
        if not left[0]:
            raise InterruptedError
        take_step(run, x)

    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "take_step", cut)
        with pytest.raises(InterruptedError):
            train.make_saes("p", wanted, *inputs, checkpoint_every=0)
    newest = [
        max(paths.checkpoints("p", name).glob("*.pt")).name
        for name in wanted
    ]
    assert newest == ["step-0000000015.pt", "step-0000000014.pt"]
    assert not list(paths.sae("p", "first").parent.iterdir())
    again = train.make_saes("p", wanted, *inputs)
    for name in wanted:
        assert weights(again[name]) == weights(whole[name]), name


def test_a_broken_one_is_named_and_the_others_are_kept(inputs):
    wanted = {"good": SMALL, "bad": SMALL | {"lr": 1e30}}
    with pytest.raises(InputError, match="^bad: the SAE.s loss"):
        train.make_saes("p", wanted, *inputs)
    (left,) = paths.checkpoints("p", "good").glob("*.pt")
    assert left.name == "step-0000000020.pt"


@pytest.mark.parametrize(
    "other,said",
    [
        ({"batch": 64}, "same batch, not a 32, b 64"),
        ({"seed": 3}, "same data_seed, not a 0, b 3; give all of them"),
    ],
)
def test_what_cannot_share_a_pass(other, said):
    wanted = {"a": SMALL, "b": SMALL | other}
    with pytest.raises(InputError, match=said):
        train.make_saes("p", wanted, None, None)


def test_the_weights_seed_is_not_the_datas(inputs, monkeypatch):
    seeds, stream = [], activations.stream

    def watched(*arguments, **named):
        seeds.append(named["seed"])
        return stream(*arguments, **named)

    monkeypatch.setattr(activations, "stream", watched)
    train.make_sae("p", "a", *inputs, **SMALL, seed=5)
    train.make_sae("p", "b", *inputs, **SMALL, seed=5, data_seed=2)
    assert seeds == [5, 2]
    assert weights(paths.sae("p", "a")) != weights(paths.sae("p", "b"))


def test_no_thread_is_left_by_an_error(inputs, monkeypatch):
    threads = threading.active_count()
    monkeypatch.setattr(train.loop, "take_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.make_sae("p", "a", *inputs, **SMALL)
    assert threading.active_count() == threads


def test_kept_on_disk_the_second_time_nothing_is_harvested(inputs, monkeypatch):
    plain = train.make_sae("p", "plain", *inputs, **SMALL)
    kept = train.make_sae("p", "kept", *inputs, **SMALL, cache=True)
    (folder,) = paths.activations("p").iterdir()
    names = [file.name for file in sorted(folder.iterdir())]
    assert names == [f"shard-{n:06d}.safetensors" for n in (0, 1)]
    passes = count_passes(monkeypatch)
    short = SMALL | {"activations": 16 * 32, "seed": 1, "data_seed": 0}
    train.make_sae("p", "again", *inputs, **short, cache=True)
    assert len(passes) == 1  # for the width
    assert weights(kept) == weights(plain)
