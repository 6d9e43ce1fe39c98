"""Streaming activations: what is read, in which order, what is left out."""

import functools
import itertools

import numpy as np
import pytest
import torch

from helpers import activations
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


def test_the_forward_pass_stops_at_the_layer_that_is_read(monkeypatch):
    model = tiny_model(2)

    def unexpected(*_):
        raise AssertionError("the second layer ran")

    monkeypatch.setattr(model.blocks[1], "forward", unexpected)
    activations.run(model, torch.zeros(1, 4, dtype=torch.long), HOOKS)


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
    run, passes = activations.run, []

    def counted(model, rows, hook_points):
        passes.append(len(rows))
        return run(model, rows, hook_points)

    monkeypatch.setattr(activations, "run", counted)
    first(1, start=3000, rows_per_pass=8)
    # a pass of 56 tokens fills half of the buffer; replayed: 1500 passes
    assert len(passes) < 15


def test_dtype():
    assert first(1, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_width_and_unknown_hook_point():
    assert activations.width(tiny_model(), HOOKS[0]) == 32
    with pytest.raises(InputError, match="did you mean 'blocks.0.mlp.hook_p"):
        activations.width(tiny_model(), "blocks.0.mlp.hook_pos")
