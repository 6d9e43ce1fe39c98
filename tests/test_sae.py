"""SAEs: what they compute, refuse, save and load."""

import pytest
import torch

from helpers import sae
from helpers.errors import InputError

HOOK = "blocks.0.mlp.hook_post"


def points(count=20, d_in=6):
    random = torch.Generator().manual_seed(3)
    return torch.randn(count, d_in, generator=random)


def test_topk_by_hand():
    model = sae.TopKSAE(2, 3, HOOK, k=1)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[1.0, 0, -1], [0, 1, -1]]))
        model.b_enc.copy_(torch.tensor([0, 0.5, 0]))
        model.b_dec.copy_(torch.tensor([1.0, 0]))
        model.W_dec.copy_(torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]))
        # x - b_dec = [2, 1] -> pre [2, 1.5, -3]; [-2, 0] -> [-2, 0.5, 2]
        x = torch.tensor([[3.0, 1], [-1, 0]])
        f = model.encode(x)
    assert f.tolist() == [[2, 0, 0], [0, 0, 2]]
    expected = torch.tensor([[3.0, 0], [2.2, 1.6]])
    torch.testing.assert_close(model.decode(f).detach(), expected)


def test_l1_by_hand():
    model = sae.L1SAE(1, 2, HOOK)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[2.0, -1]]))
        model.b_enc.copy_(torch.tensor([-1.0, 0]))
        f = model.encode(torch.tensor([[2.0], [-3]]))
    assert f.tolist() == [[3, 0], [0, 3]]


def test_topk_starts_tied_and_l1_does_not():
    topk, l1 = sae.TopKSAE(6, 12, HOOK, 3), sae.L1SAE(6, 12, HOOK)
    assert torch.equal(topk.W_enc, topk.W_dec.T)
    assert not torch.equal(l1.W_enc, l1.W_dec.T)
    for model in (topk, l1):
        lengths = model.W_dec.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(12))


@pytest.mark.parametrize("kind", [sae.TopKSAE, sae.L1SAE])
def test_folding_the_scale_is_exact(kind):
    model = kind(6, 24, HOOK, 5)
    with torch.no_grad():
        model.b_enc.copy_(torch.linspace(-0.5, 0.5, 24))
        model.b_dec.copy_(torch.linspace(-1, 1, 6))
        x, scale = points(), 4.0
        f, rebuilt = model.encode(x * scale), model(x * scale)
        model.fold_scale(scale)
        torch.testing.assert_close(model.encode(x), f / scale)
        torch.testing.assert_close(model(x), rebuilt / scale)


@pytest.mark.parametrize(
    "model", [sae.TopKSAE(6, 24, HOOK, 5), sae.L1SAE(6, 24, HOOK, 2.0)]
)
def test_saves_and_loads_bit_for_bit(model, tmp_path):
    sae.save(model, tmp_path)
    loaded = sae.load(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.hook_point == HOOK
    assert torch.equal(loaded.encode(points()), model.encode(points()))
    assert not any(part.requires_grad for part in loaded.parameters())


def test_refuses_another_hook_point():
    model = sae.L1SAE(6, 24, HOOK)
    model.check_hook_point(HOOK)
    with pytest.raises(InputError, match="trained on blocks.0.mlp.hook_post"):
        model.check_hook_point("blocks.1.mlp.hook_post")
    with pytest.raises(InputError, match="reads 6 numbers a token"):
        model.encode(torch.zeros(1, 7))


def test_refuses_an_impossible_k():
    with pytest.raises(InputError, match="between 1 and d_sae = 24, not 25"):
        sae.TopKSAE(6, 24, HOOK, 25)


@pytest.mark.parametrize("convention", ["sum", "mean", "batch"])
def test_l1_conventions_give_parallel_gradients(convention):
    n, batch, value = 6, 20, 0.03
    model, x = sae.L1SAE(n, 24, HOOK), points()
    f = model.encode(x)
    square, total = (model.decode(f) - x).pow(2), f.sum()
    theirs = {
        "sum": square.sum(1).mean() + value * total / batch,
        "mean": square.mean() + value * total / batch,
        "batch": square.sum(1).mean() + value * total,
    }[convention]
    l1 = sae.l1_to_sum_units(value, convention, n, batch)
    ours = square.sum(1).mean() + l1 * total / batch
    weights = list(model.parameters())
    scale = n if convention == "mean" else 1
    for a, b in zip(
        torch.autograd.grad(theirs, weights, retain_graph=True),
        torch.autograd.grad(ours, weights),
        strict=True,
    ):
        torch.testing.assert_close(a * scale, b, atol=1e-6, rtol=1e-4)


def test_unknown_convention():
    with pytest.raises(InputError, match="Accepted: sum, mean, batch"):
        sae.l1_to_sum_units(1, "sums", 1, 1)
