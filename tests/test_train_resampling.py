"""Neuron resampling, clause by clause and as a whole."""

import itertools

import pytest
import torch

from helpers import kernels, sae, train
from helpers.train import loop, resampling
from helpers.train.checkpoint import Run
from tests.train_worker import data

SETTINGS = train.Settings(
    activations=64 * 100, batch=64, resample=(0.1, 0.2, 0.9), log_every=5
)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    monkeypatch.setattr(loop, "find_precision", lambda _: torch.float32)


def small_run():
    """Three latents in two dimensions, the last one dead; moments of 1."""
    model = sae.L1SAE(2, 3, "h", 0.5)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[3.0, 0, 9], [4, 1, 0]]))
        model.W_dec.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 1]]))
        model.b_enc.copy_(torch.tensor([0.0, 0, -50]))
        model.b_dec.copy_(torch.tensor([0.0, 0]))
    adam = kernels.Adam(dict(model.named_parameters()), dtype=torch.bfloat16)
    for name in adam.parameters:
        for moment in adam.moments(name).values():
            moment.fill_(1)
    run = Run(model, adam, train.Meter(model, SETTINGS), 1.0)
    run.meter.silent.copy_(torch.tensor([0.0, 319, 320]))
    return run


def test_the_loss_of_each_input_by_hand():
    model = small_run().model
    inputs = torch.tensor([[1.0, 0], [0, -1]])
    # [1, 0]: codes 3, 0, 0 -> [3, 0]; error 4, L1 0.5 * 3
    # [0, -1]: no code; error 1
    assert resampling.input_losses(model, inputs).tolist() == [5.5, 1.0]


def test_a_dead_latent_takes_an_input():
    run = small_run()
    inputs = torch.tensor([[0.0, -6]])
    resampling.resample(run, inputs, 320, torch.Generator())
    model = run.model
    assert model.W_dec.tolist() == [[1, 0], [0, 1], [0, -1]]
    # encoders of the living have norms 5 and 1: 0.2 * 3
    found = model.W_enc.T.tolist()
    assert found[:2] == [[3, 4], [0, 1]]
    assert found[2] == pytest.approx([0, -0.6])
    assert model.b_enc.tolist() == [0, 0, 0]


def test_only_its_moments_start_anew():
    run = small_run()
    resampling.resample(
        run, torch.tensor([[0.0, -6]]), 320, torch.Generator()
    )
    for moment in ("exp_avg", "exp_avg_sq"):
        of = {
            name: run.adam.moments(name)[moment]
            for name in run.adam.parameters
        }
        assert of["W_dec"].tolist() == [[1, 1], [1, 1], [0, 0]]
        assert of["W_enc"].tolist() == [[1, 1, 0], [1, 1, 0]]
        assert of["b_enc"].tolist() == [1, 1, 0]
        assert of["b_dec"].tolist() == [1, 1]
    assert run.meter.silent.tolist() == [0, 319, 0]
    for name, low in run.adam.low._asdict().items():
        full = getattr(run.model, name)
        assert torch.equal(low, full.to(torch.bfloat16))


def test_inputs_are_picked_by_their_squared_loss():
    counts = torch.zeros(3)
    for seed in range(600):
        run = small_run()
        inputs = torch.tensor([[1.0, 0], [0, -1], [0.0, 0]])
        random = torch.Generator().manual_seed(seed)
        resampling.resample(run, inputs, 320, random)
        row = run.model.W_dec[2].tolist()
        counts[[[1, 0], [0, -1]].index(row)] += 1
    # losses 5.5 and 1: the first 30.25 times as often; nothing never
    assert counts[0].item() == pytest.approx(600 * 30.25 / 31.25, abs=14)


def test_an_input_is_picked_once_at_most():
    run = small_run()
    run.meter.silent.fill_(320)  # all dead: no living encoder to go by
    inputs = torch.tensor([[0.0, -6], [-2, 0]])
    resampling.resample(run, inputs, 320, torch.Generator())
    assert sorted(run.model.W_dec[:2].tolist()) == [[-1, 0], [0, -1]]
    assert run.model.W_dec[2].tolist() == [0, 1]  # none was left for it
    assert run.model.W_enc.isfinite().all()


def test_when_and_on_which_inputs():
    resampler = resampling.Resampler(sae.L1SAE(2, 4, "h"), SETTINGS)
    assert resampler.steps == [10, 20, 90] and resampler.window == 5
    assert resampler.inputs.maxlen == 5  # no more than half an interval
    for place in range(10):
        resampler.see(place, place)
    assert list(resampler.inputs) == [5, 6, 7, 8, 9]
    paper = train.Settings(activations=8192 * 10**6, batch=8192)
    resampler = resampling.Resampler(sae.L1SAE(2, 4, "h"), paper)
    assert resampler.steps == [25_000, 50_000, 75_000, 100_000]
    assert resampler.window == 12_500
    assert resampler.inputs.maxlen * paper.batch == 819_200


def test_a_run_that_goes_on_sees_the_same_inputs():
    for start, first, seen in [(8, 5, [5, 6, 7, 8]), (12, 12, []), (3, 3, [])]:
        resampler = resampling.Resampler(sae.L1SAE(2, 4, "h"), SETTINGS)
        assert resampler.first_needed(start) == first
        for place in range(first, start + 1):
            resampler.see(place, place)
        assert list(resampler.inputs) == seen


def test_other_architectures_and_short_runs_never_resample():
    topk = resampling.Resampler(sae.TopKSAE(2, 4, "h", 1), SETTINGS)
    short = train.Settings(activations=640, batch=64)
    l1 = resampling.Resampler(sae.L1SAE(2, 4, "h"), short)
    none = train.Settings(resample=())
    never = resampling.Resampler(sae.L1SAE(2, 4, "h"), none)
    assert topk.steps == l1.steps == never.steps == []


@pytest.mark.parametrize("resample,dead", [((), 6), ((0.1, 0.2), 0)])
def test_a_planted_dead_latent_comes_back(resample, dead):
    model = sae.L1SAE(12, 48, "h", 0.3, seed=1)
    model.b_enc.data[:6] = -100  # nothing makes them fire
    settings = train.Settings(
        activations=64 * 100, batch=64, resample=resample, dead_after=1000,
        log_every=10,
    )  # fmt: skip
    log = train.fit(model, data(), settings)
    assert round(log[-1]["dead"] * 48) == dead
    x = torch.cat(list(itertools.islice(data(), 20)))
    fired = model.encode(x)[:, :6].any(0)
    assert fired.sum() == 6 - dead
