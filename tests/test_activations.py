"""Streaming activations: what is read, in which order, what is left out."""

import errno
import functools
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import activations
from helpers.activations import forward
from helpers.errors import InputError

HOOKS = ["blocks.0.mlp.hook_post", "blocks.0.hook_resid_pre"]


@functools.cache
def tiny_model(layers=1):
    """A random transformer: vocabulary 30, context 8, d_mlp 32."""
    from dataclasses import asdict

    from helpers.language_model import Architecture, initial_weights
    from helpers.language_model.models import as_hooked

    shape = Architecture(
        layers=layers, d_model=16, heads=2, d_mlp=32, context=8, vocab_size=30
    )
    weights = {
        # large enough to matter
        name: value * 4
        for name, value in initial_weights(shape, 0).items()
    }
    return as_hooked(asdict(shape), weights, "cpu")


def tokens(count=500, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 30, count).astype(np.uint16)


def first(count, **arguments):
    made = activations.stream(
        tiny_model(), tokens(), HOOKS[:1], batch=16, buffer=64, **arguments
    )
    return [part[HOOKS[0]] for part in itertools.islice(made, count)]


def nearest_distances(a, b):
    """Euclidean distances [len(a), len(b)], without the short cut."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(a, b, compute_mode=exact)


def test_run_gives_what_the_cache_holds():
    model = tiny_model(2)
    rows = torch.from_numpy(tokens(24).astype(np.int64)).view(3, 8)
    _, cache = model.run_with_cache(rows)
    names = [*HOOKS, "blocks.1.mlp.hook_post", "hook_embed"]
    for name, found in activations.run(model, rows, names).items():
        torch.testing.assert_close(found, cache[name])
    heads = "blocks.0.attn.hook_z"
    found = activations.run(model, rows, [heads])[heads]
    torch.testing.assert_close(found, cache[heads].flatten(2))


BY_HOOKS = {"by": torch.ones(1)}


def exact(model, rows, names):
    """The same, by hooks: what any other TransformerLens model gets."""
    return forward._run_with_hooks(model, rows, names)


@pytest.mark.parametrize("end", forward.SHORT)
@pytest.mark.parametrize("layer", [0, 1])
def test_the_short_way_agrees_with_the_hooks(layer, end):
    model, name = tiny_model(2), f"blocks.{layer}.{end}"
    rows = torch.from_numpy(tokens(40).astype(np.int64)).view(5, 8)
    for part in (rows, rows[:, :3]):
        found = activations.run(model, part, [name])[name]
        expected = exact(model, part, [name])[name]
        size = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("end", forward.SHORT)
def test_products_in_bfloat16_are_right_to_its_rounding(end):
    model, name = tiny_model(2), f"blocks.1.{end}"
    rows = torch.from_numpy(tokens(40).astype(np.int64)).view(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        hooked = exact(model, rows, [name])[name].float()
    expected = exact(model, rows, [name])[name]
    found = activations.run(model, rows, [name], torch.bfloat16)[name]
    assert found.dtype == torch.bfloat16
    off, peers = (
        ((x.float() - expected).norm() / expected.norm()).item()
        for x in (found, hooked)
    )
    assert 0 < off < 0.02 and off < 2 * peers + 2**-9


def test_the_short_way_is_taken_where_it_is_right(monkeypatch):
    model, rows = tiny_model(), torch.ones(1, 4, dtype=torch.long)
    monkeypatch.setattr(forward, "_run_with_hooks", lambda *_: BY_HOOKS)
    assert activations.run(model, rows, HOOKS) != BY_HOOKS
    assert activations.run(model, rows, ["hook_embed"]) == BY_HOOKS
    for name, value in [("act_fn", "gelu"), ("normalization_type", "LN")]:
        with monkeypatch.context() as patch:
            patch.setattr(model.cfg, name, value)
            assert activations.run(model, rows, HOOKS) == BY_HOOKS
    with model.hooks([("blocks.0.hook_resid_pre", lambda x, hook: x * 0)]):
        assert activations.run(model, rows, HOOKS) == BY_HOOKS


@pytest.mark.parametrize("run", [activations.run, exact])
def test_the_forward_pass_stops_at_the_layer_that_is_read(run, monkeypatch):
    model = tiny_model(2)

    def unexpected(*_):
        raise AssertionError("the second layer ran")

    for part in (model.blocks[1], model.blocks[1].attn):
        monkeypatch.setattr(part, "forward", unexpected)
    monkeypatch.setattr(forward, "_attend", once(forward._attend))
    run(model, torch.zeros(1, 4, dtype=torch.long), HOOKS)


def once(function):
    """A function that may be called one time."""
    left = [True]

    def called(*arguments):
        assert left.pop()
        return function(*arguments)

    return called


def test_contexts_by_hand():
    rows = activations.contexts(np.array([5, 6, 7, 0, 8, 9, 1]), 4)
    assert rows.tolist() == [[0, 5, 6, 7], [0, 0, 8, 9]]
    with pytest.raises(InputError, match="3 tokens, fewer than one context"):
        activations.contexts(np.array([1, 2, 3]), 5)


def test_an_epoch_holds_each_text_token_once():
    rows = activations.contexts(tokens(), 8)
    text = rows != activations.BOS
    ids = torch.from_numpy(rows.astype(np.int64))
    every = activations.run(tiny_model(), ids, HOOKS[:1])[HOOKS[0]][
        torch.from_numpy(text)
    ]
    # a buffer of all of them and more: the first halves are without repeat
    made = activations.stream(
        tiny_model(), tokens(), HOOKS[:1], batch=16,
        buffer=len(every), rows_per_pass=len(rows),
    )  # fmt: skip
    count = len(every) // 2 // 16
    found = torch.cat(
        [part[HOOKS[0]] for part in itertools.islice(made, count)]
    )
    distance = nearest_distances(found, every)
    nearest = distance.argmin(1)
    assert distance.min(1)[0].max() < 1e-3
    # the same token first in two contexts has the same activations
    same = nearest_distances(every, every) < 1e-3
    times = torch.bincount(nearest, minlength=len(every)).float()
    assert (same.float() @ times <= same.sum(1)).all()
    assert nearest.tolist() != sorted(nearest.tolist())


def test_hook_points_stay_aligned():
    made = activations.stream(
        tiny_model(), tokens(), HOOKS, batch=16, buffer=64
    )
    part = next(made)
    rows = activations.contexts(tokens(), 8)
    ids = torch.from_numpy(rows.astype(np.int64))
    every = activations.run(tiny_model(), ids, HOOKS)
    place = nearest_distances(part[HOOKS[0]], every[HOOKS[0]].flatten(0, 1))
    same = every[HOOKS[1]].flatten(0, 1)[place.argmin(1)]
    torch.testing.assert_close(part[HOOKS[1]], same, atol=1e-5, rtol=1e-5)


def test_seeded():
    again, other = first(6), first(6, seed=1)
    for a, b, c in zip(first(6), again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_goes_round_again_when_the_text_ends():
    parts = first(60)  # 960 activations of fewer than 500 tokens
    assert {tuple(part.shape) for part in parts} == {(16, 32)}


@pytest.mark.parametrize("start", [0, 1, 2, 5, 16, 41])
def test_going_on_anywhere_gives_the_same_bits(start):
    whole, rest = first(44), first(3, start=start)
    for a, b in zip(whole[start:], rest, strict=False):
        assert torch.equal(a, b)


def test_going_on_runs_few_passes(monkeypatch):
    run, passes = forward.run, []

    def counted(model, rows, hook_points, dtype):
        passes.append(len(rows))
        return run(model, rows, hook_points, dtype)

    monkeypatch.setattr(forward, "run", counted)
    first(1, start=3000, rows_per_pass=8)
    # a pass of 56 tokens fills half of the buffer; replayed: 1500 passes
    assert len(passes) < 15


def test_dtype():
    assert first(1, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_width_and_unknown_hook_point():
    assert activations.width(tiny_model(), HOOKS[0]) == 32
    with pytest.raises(InputError, match="did you mean 'blocks.0.mlp.hook_p"):
        activations.width(tiny_model(), "blocks.0.mlp.hook_pos")


def test_overlap_gives_the_same_bits_and_leaves_no_thread():
    before = threading.active_count()
    made = activations.stream(
        tiny_model(), tokens(), HOOKS[:1], batch=16, buffer=64, overlap=True,
        start=5,
    )  # fmt: skip
    found = [part[HOOKS[0]] for part in itertools.islice(made, 30)]
    assert threading.active_count() == before + 1
    made.close()
    assert threading.active_count() == before
    for a, b in zip(first(30, start=5), found, strict=True):
        assert torch.equal(a, b)


def test_ahead_keeps_order_and_stays_within_its_bound():
    made = []

    def items():
        for item in range(50):
            made.append(item)
            yield item

    found = activations.ahead(items(), 3)
    for expected in range(20):
        assert next(found) == expected
        assert len(made) <= expected + 5  # three wait, one is in hand
    assert list(found) == list(range(20, 50))
    assert not [t for t in threading.enumerate() if "_make" in t.name]


def test_ahead_works_while_it_is_not_asked():
    asked = threading.Event()

    def items():
        yield 0
        asked.set()
        yield 1

    found = activations.ahead(items(), 1)
    assert next(found) == 0 and asked.wait(10)
    found.close()


def test_ahead_raises_what_the_making_raises():
    def items():
        yield 1
        raise InputError("no more text")

    before, found = threading.active_count(), activations.ahead(items(), 2)
    assert next(found) == 1
    with pytest.raises(InputError, match="no more text"):
        next(found)
    assert threading.active_count() == before


def test_ahead_closes_what_it_reads():
    closed = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread())

    found = activations.ahead(items(), 2)
    next(found)
    del found  # forgotten, as by an exception
    assert len(closed) == 1 and not closed[0].is_alive()


def stored(folder, start=0, opened=None):
    """Batches through the disk; ``opened`` gets where streams begin."""

    def stream(place):
        if opened is not None:
            opened.append(place)
        return activations.stream(
            tiny_model(), tokens(), HOOKS, batch=16, buffer=64, start=place
        )

    return activations.cached(folder, stream, start)


def read(made, count):
    return list(itertools.islice(made, count))


@pytest.mark.parametrize("start", [0, 3, 8, 21])
def test_the_cache_gives_the_streams_bits(start, tmp_path):
    plain = activations.stream(
        tiny_model(), tokens(), HOOKS, batch=16, buffer=64, start=start
    )
    expected = read(plain, 30)
    # the second time all shards that were read to their end are on disk
    for place in (start // 8 * 8, (start + 29) // 8 * 8):
        asked = []
        found = read(stored(tmp_path, start, asked), 30)
        for a, b in zip(expected, found, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in HOOKS)
        assert asked == [place]
    assert not list(tmp_path.glob("*.partial"))


def test_a_damaged_shard_is_made_again(tmp_path):
    whole = read(stored(tmp_path), 17)
    second = tmp_path / "shard-000001.safetensors"
    second.write_bytes(second.read_bytes()[:-100])
    for a, b in zip(whole, read(stored(tmp_path), 17), strict=True):
        assert torch.equal(a[HOOKS[0]], b[HOOKS[0]])


def test_a_full_disk_only_ends_the_keeping(tmp_path, monkeypatch):
    write, left = Path.write_bytes, [1]

    def full(path, content):
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="not kept on disk any more") as said:
        found = read(stored(tmp_path), 40)
    assert len(said) == 1 and "no disk space left" in str(said[0].message)
    assert [file.name for file in tmp_path.iterdir()] == [
        "shard-000000.safetensors"
    ]
    monkeypatch.undo()
    for a, b in zip(found, read(stored(tmp_path), 40), strict=True):
        assert torch.equal(a[HOOKS[0]], b[HOOKS[0]])
