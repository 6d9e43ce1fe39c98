"""The hand-written steps against autograd on the plain formulas."""

import pytest
import torch

from helpers import kernels, sae

CASES = [(6, 20, 3, 37), (16, 4096, 32, 40), (5, 7, 7, 11), (8, 64, 1, 1100)]


def batch(d_in, count, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, d_in, generator=random)


def make(kind, d_in, d_sae, k=3, l1=0.3):
    if kind == "topk":
        made = sae.TopKSAE(d_in, d_sae, "hook", k)
    else:
        made = sae.L1SAE(d_in, d_sae, "hook", l1)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for bias in (made.b_enc, made.b_dec):
            bias.copy_(torch.randn(bias.shape, generator=random) * 0.3)
    return made


def plain_loss(model, x):
    """The loss, straight from its definition."""
    f = model.encode(x)
    error = (model.decode(f) - x).pow(2).sum(1).mean()
    return error + getattr(model, "l1", 0.0) * f.sum(1).mean()


@pytest.mark.parametrize("kind", ["topk", "l1"])
@pytest.mark.parametrize("d_in,d_sae,k,count", CASES)
def test_gradients_are_those_of_autograd(kind, d_in, d_sae, k, count):
    model, x = make(kind, d_in, d_sae, k), batch(d_in, count)
    plain_loss(model, x).backward()
    result = model.gradients(x)
    f = model.encode(x)
    torch.testing.assert_close(
        result.error, (model.decode(f) - x).detach(), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(result.firings, (f > 0).sum(0).float())
    for name, found in result.gradients._asdict().items():
        expected = getattr(model, name).grad
        torch.testing.assert_close(
            found, expected, atol=1e-5, rtol=1e-4, msg=name
        )


def test_bfloat16_gradients_point_the_same_way():
    model, x = make("topk", 16, 256, 4), batch(16, 512)
    exact = model.gradients(x).gradients
    coarse = model.gradients(x, torch.bfloat16).gradients
    for found, expected in zip(coarse, exact, strict=True):
        assert found.dtype == torch.float32
        cosine = torch.cosine_similarity(
            found.flatten(), expected.flatten(), dim=0
        )
        assert cosine > 0.99


@pytest.mark.parametrize("width,k", [(4096, 32), (64, 8), (50, 50), (33, 2)])
def test_top_k_finds_the_largest(width, k):
    pre = batch(width, 30)
    values, indices = kernels.top_k(pre, k)
    expected = pre.sort(1, descending=True)[0][:, :k]
    assert torch.equal(values.sort(1, descending=True)[0], expected)
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row.tolist())) == k for row in indices)


def test_top_k_with_ties_and_zeros_keeps_the_values():
    pre = torch.zeros(4, 256)
    pre[1, 3] = 1
    pre[2] = torch.arange(256) // 64
    values, indices = kernels.top_k(pre, 8)
    assert values[0].tolist() == [0] * 8
    assert sorted(values[1].tolist()) == [0] * 7 + [1]
    assert values[2].tolist() == [3] * 8
    assert all(len(set(row.tolist())) == 8 for row in indices)


def test_a_token_with_fewer_than_k_positive_codes():
    model = make("topk", 4, 8, k=6)
    with torch.no_grad():
        model.b_enc.fill_(-100)
    result = model.gradients(batch(4, 9))
    assert result.firings.sum() == 0
    assert not result.gradients.W_enc.any()
    assert not result.gradients.b_enc.any()
    assert result.gradients.b_dec.any()
