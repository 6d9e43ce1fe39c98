"""The loop: agreement with a plain one, unit rows, schedule, its stops."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from helpers import kernels, sae, train
from helpers.errors import InputError
from helpers.train import guard, loop, revival
from tests.train_worker import data

SETTINGS = train.Settings(
    activations=640, batch=64, lr=3e-3, dead_after=100, log_every=4, aux_k=8
)
ALL = [*sae.ARCHITECTURES]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products are faster so, much faster on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Compare in float32, whatever the machine."""
    monkeypatch.setattr(loop, "find_precision", lambda _: torch.float32)


def build(architecture):
    """A small SAE of any architecture."""
    return train.build(architecture, 12, "h", expansion=4, k=4, l1=0.1, seed=1)


def plain_loop(model, batches, settings, scale):
    """The same training, autograd and the textbook order, no tricks."""
    adam = torch.optim.Adam(
        model.parameters(), lr=settings.lr, betas=settings.betas
    )
    for step, x in enumerate(itertools.islice(batches, settings.steps)):
        x = x * scale
        f = model.encode(x)
        loss = (model.decode(f) - x).pow(2).sum(1).mean()
        loss = loss + getattr(model, "l1", 0) * f.sum(1).mean()
        adam.zero_grad()
        loss.backward()
        for row, gradient in zip(
            model.W_dec.data, model.W_dec.grad, strict=True
        ):
            gradient -= (gradient @ row) * row
        for group in adam.param_groups:
            group["lr"] = train.learning_rate(step, settings)
        adam.step()
        for row in model.W_dec.data:
            row /= row.norm()
    model.fold_scale(scale)


@pytest.mark.parametrize("architecture", ["topk", "l1"])
def test_the_loop_is_the_plain_loop(architecture):
    settings = train.Settings(activations=640, batch=64, lr=3e-3, aux=0.0)
    ours, plain = (build(architecture) for _ in range(2))
    train.train(ours, data(), settings, scale=2.0)
    plain_loop(plain, data(), settings, scale=2.0)
    for found, expected in zip(
        ours.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-3)


def old_sequence(model, batches, settings):
    """Step by step what the fused optimiser does: project, torch's own
    Adam, renormalise."""
    adam = torch.optim.Adam(model.parameters(), betas=settings.betas)
    for step, x in enumerate(itertools.islice(batches, settings.steps)):
        found = model.gradients(x).gradients._asdict()
        rows = model.W_dec.detach()
        along = (found["W_dec"] * rows).sum(1, keepdim=True)
        found["W_dec"] = found["W_dec"] - along * rows
        for name, parameter in model.named_parameters():
            parameter.grad = torch.empty_like(parameter).copy_(found[name])
        adam.param_groups[0]["lr"] = train.learning_rate(step, settings)
        adam.step()
        rows /= rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("architecture", ALL)
def test_the_fused_optimiser_is_project_step_renormalise(
    architecture, backend, monkeypatch
):
    monkeypatch.setenv(kernels.CHOICE, backend)
    settings = train.Settings(
        activations=640, batch=64, lr=3e-3, aux=0.0, resample=()
    )
    ours, plain = (build(architecture) for _ in range(2))
    train.train(ours, data(), settings)
    old_sequence(plain, data(), settings)
    for found, expected in zip(
        ours.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ALL)
def test_decoder_rows_are_unit_after_every_step(
    architecture, precision, monkeypatch
):
    monkeypatch.setattr(loop, "find_precision", lambda _: precision)
    worst, take_step = [], loop.take_step

    def watched(run, x):
        take_step(run, x)
        norms = run.model.W_dec.norm(dim=1)
        worst.append((norms - 1).abs().max().item())
        if run.adam.low:  # what the next step multiplies
            expected = run.model.W_enc.to(precision)
            assert torch.equal(run.adam.low.W_enc, expected)

    monkeypatch.setattr(loop, "take_step", watched)
    train.train(build(architecture), data(), SETTINGS)
    assert len(worst) == SETTINGS.steps and max(worst) < 1e-6


def test_a_free_decoder_keeps_its_lengths():
    class Free(sae.TopKSAE):
        is_unit_decoder = False

    model = Free(12, 36, "h", 4)
    train.train(model, data(), SETTINGS)
    assert (model.W_dec.norm(dim=1) - 1).abs().max() > 1e-3


def test_training_lowers_the_error_and_finds_the_sparsity():
    model = sae.TopKSAE(12, 48, "h", 3)
    settings = train.Settings(
        activations=64 * 200, batch=64, lr=3e-3, log_every=20
    )
    log = train.fit(model, data(), settings)
    assert log[-1]["fvu"] < 0.5 * log[0]["fvu"]
    assert 2 < log[-1]["l0"] <= 3
    last = torch.cat(list(itertools.islice(data(), 180, 200)))
    error = (model(last) - last).pow(2).sum()
    fvu = error / (last - last.mean(0)).pow(2).sum()
    assert fvu.item() == pytest.approx(log[-1]["fvu"], rel=0.1)


def test_the_log_counts_by_hand():
    model = sae.TopKSAE(12, 36, "h", 4)
    x = next(data())
    settings = train.Settings(activations=64, batch=64, lr=0.0, aux=0.0)
    (line,) = train.train(model, [x], settings)
    rebuilt, f = model(x), model.encode(x)
    fvu = (rebuilt - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert line["fvu"] == pytest.approx(fvu.item(), rel=1e-4)
    assert line["l0"] == pytest.approx((f > 0).sum(1).float().mean().item())
    assert line["tokens"] == 64 and line["step"] == 1


def test_silent_latents_are_dead_until_they_fire():
    model = sae.TopKSAE(12, 36, "h", 4)
    meter = train.Meter(model, SETTINGS)
    x, error = torch.ones(64, 12), torch.zeros(64, 12)
    none = torch.zeros(36)
    for _ in range(2):
        meter.update(x, kernels.Result(error, none, None), 64)
    assert meter.line()["dead"] == 1 and len(meter.dead) == 36
    some = none.clone()
    some[:9] = 1
    meter.update(x, kernels.Result(error, some, None), 64)
    assert meter.line()["dead"] == 0.75
    assert meter.dead.tolist() == list(range(9, 36))


def aux(model, x, error, dead, dtype=torch.float32):
    """AuxK's loss and gradients, added to gradients of zero."""
    zeros = (torch.zeros_like(part) for part in model.weights())
    result = kernels.Result(error, None, kernels.Weights(*zeros))
    loss = train.add_aux_gradients(model, x, result, dead, SETTINGS, dtype)
    return loss, result.gradients


def plain_aux(model, x, error, dead, aux_k):
    """AuxK's loss as its definition reads; gradients by autograd."""
    pre = (x - model.b_dec) @ model.W_enc[:, dead] + model.b_enc[dead]
    values, indices = pre.topk(min(aux_k, len(dead)))
    codes = torch.zeros_like(pre).scatter(1, indices, values.relu())
    left = (codes @ model.W_dec[dead] + error).pow(2).sum()
    variance = (x - x.mean(0)).pow(2).sum(1).mean()
    return SETTINGS.aux * variance * left / error.pow(2).sum()


def test_aux_loss_by_hand():
    model = sae.TopKSAE(2, 3, "h", 1)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        model.W_dec.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 0]]))
    x = torch.tensor([[3.0, 1], [1, 1]])
    error = torch.tensor([[0.0, -2], [0, -2]])  # x_hat - x
    # dead latent 1 codes both tokens as 1, so the rest is [0, -1] twice:
    # 2 of 8 left; the variance of x is 1 + 0
    loss, found = aux(model, x, error, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx(SETTINGS.aux * 2 / 8)
    assert not found.W_dec[0].any() and found.W_dec[1].any()


@pytest.mark.parametrize("dead", [[5], [40, 2, 17], list(range(3, 48))])
def test_aux_gradients_are_those_of_autograd(dead, monkeypatch):
    monkeypatch.setattr(revival, "SLICE", 24)  # 64 tokens: the last is short
    model, x, dead = build("topk"), next(data()), torch.tensor(dead)
    with torch.no_grad():
        model.b_dec += 0.1
        model.b_enc += 0.2
    error = model.gradients(x).error
    loss, found = aux(model, x, error, dead)
    expected = plain_aux(model, x, error, dead, SETTINGS.aux_k)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in found._asdict().items():
        torch.testing.assert_close(gradient, getattr(model, name).grad)


def test_aux_adds_to_what_the_step_found():
    model, x = build("topk"), next(data())
    result, dead = model.gradients(x), torch.tensor([1, 30])
    before = [part.clone() for part in result.gradients]
    train.add_aux_gradients(model, x, result, dead, SETTINGS, torch.float32)
    _, added = aux(model, x, result.error, dead)
    for was, more, now in zip(before, added, result.gradients, strict=True):
        torch.testing.assert_close(now, was + more)


def test_nothing_left_over_gives_no_gradient():
    model, x = build("topk"), next(data())
    loss, found = aux(model, x, torch.zeros_like(x), torch.arange(9))
    assert loss == 0 and not any(part.any() for part in found)


def test_aux_moves_dead_latents_towards_what_is_left():
    model, x, dead = build("topk"), next(data()), torch.arange(24, 48)
    error = model.gradients(x).error
    adam = train.optimiser(model, SETTINGS)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = []
    for _ in range(20):
        loss, found = aux(model, x, error, dead)
        adam.step(1e-2, found)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    torch.testing.assert_close(model.W_dec[:24], before["W_dec"][:24])
    assert torch.equal(model.W_enc[:, :24], before["W_enc"][:, :24])


def test_schedule():
    settings = train.Settings(
        activations=100, batch=1, lr=2.0, warm_up=0.1, decay=0.2
    )
    rates = [train.learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == 2.0
    assert rates[50] == rates[80] == 2.0
    assert rates[90] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1)


def test_geometric_median_is_not_moved_by_an_outlier():
    points = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [500, 500]])
    median = train.geometric_median(points, 500)

    def total(guess):
        return (points - guess).norm(dim=1).sum()

    assert (median - 0.5).abs().max() < 0.5
    for shift in ([0.01, 0], [-0.01, 0], [0, 0.01], [0, -0.01]):
        assert total(median) <= total(median + torch.tensor(shift)) + 1e-4


def test_unit_scale():
    points = torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 15]])
    assert train.unit_scale(points) == pytest.approx(2 / 10)
    with pytest.raises(InputError, match="all zero"):
        train.unit_scale(torch.zeros(2, 2))


def test_the_same_seed_gives_the_same_weights():
    first, second = (
        train.build("topk", 12, "h", expansion=3, k=4, l1=0, seed=1)
        for _ in range(2)
    )
    for model in (first, second):
        train.fit(model, data(), SETTINGS)
    assert torch.equal(first.W_enc, second.W_enc)
    assert torch.equal(first.W_dec, second.W_dec)


def spoiled(step, factor):
    """The data, with one batch multiplied."""
    for number, x in enumerate(data()):
        yield x * factor if number == step else x


def test_not_a_number_stops_with_a_sentence(tmp_path):
    kept = train.Checkpoints(tmp_path, "key", every=0)
    with pytest.raises(InputError) as error:
        train.fit(
            sae.TopKSAE(12, 36, "h", 4), spoiled(8, np.nan), SETTINGS, kept
        )
    assert str(error.value) == (
        "the SAE's loss is not finite at step 9 (activations 512 to 575 of "
        "the stream); that batch itself holds values that are not finite; "
        f"the last good checkpoint is {tmp_path}/step-0000000008.pt"
    )
    good = train.Checkpoints(tmp_path, "key").state["weights"]
    assert all(part.isfinite().all() for part in good.values())


def test_a_broken_loss_asks_for_a_lower_learning_rate():
    settings = dataclasses.replace(SETTINGS, lr=1e30)
    with pytest.raises(InputError, match="lower the learning rate .now 1e.30"):
        train.train(sae.L1SAE(12, 36, "h"), data(), settings)


def test_an_exploding_loss_stops():
    model = sae.TopKSAE(12, 36, "h", 4)
    batches = data()

    def pushed():
        for step, x in enumerate(batches):
            if step == 6:
                model.b_dec.data += 1e4
            yield x

    said = "grew to [0-9,]+ times the usual at step 7 .activations 384 to 447"
    with pytest.raises(InputError, match=said):
        train.train(model, pushed(), SETTINGS)


def test_out_of_memory_proposes_a_batch():
    class Large(sae.TopKSAE):
        def gradients(self, x, *arguments):
            if len(x) > 20:
                raise RuntimeError("DefaultCPUAllocator: can't allocate")
            return super().gradients(x, *arguments)

    said = "out of memory at step 1 with a batch of 64; a batch of 16 fits"
    with pytest.raises(InputError, match=said):
        train.train(Large(12, 36, "h", 4), data(), SETTINGS)


def test_what_is_out_of_memory():
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**55)
    assert guard.is_out_of_memory(real.value)
    assert guard.is_out_of_memory(torch.OutOfMemoryError("CUDA"))
    assert not guard.is_out_of_memory(RuntimeError("shapes differ"))


def test_too_few_activations():
    model = sae.TopKSAE(12, 36, "h", 4)
    batches = itertools.islice(data(), 3)
    with pytest.raises(InputError, match="ended after 3 of 10 steps"):
        train.train(model, batches, SETTINGS)


@pytest.mark.parametrize(
    "wrong,sentence",
    [
        ({"learning_rate": 1}, "unknown training setting 'learning_rate'"),
        ({"activations": 10}, "10 activations are fewer than one batch"),
    ],
)
def test_bad_settings(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        train.make_sae("p", "n", None, None, **wrong)


def test_unknown_architecture():
    with pytest.raises(InputError, match="unknown SAE architecture 'topq'"):
        train.build("topq", 1, "h", expansion=1, k=1, l1=0, seed=0)
