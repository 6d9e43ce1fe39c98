"""Every backend against autograd on the plain formulas."""

import pytest
import torch

from helpers import kernels
from helpers.errors import InputError
from helpers.kernels import reference, thresholded

CASES = [  # d_in, d_sae, k, batch
    (6, 20, 3, 37),
    (7, 19, 19, 5),
    (33, 4099, 32, 40),
    (16, 4096, 32, 1),
    (8, 64, 1, 1100),
]


@pytest.fixture(params=["reference", "native"])
def backend(request, monkeypatch):
    """Each backend in turn; native only where it can be compiled."""
    monkeypatch.setenv(kernels.CHOICE, request.param)
    if kernels.backend() != request.param:
        pytest.skip("no working C++ compiler")
    return request.param


def draw(*shape, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random)


def weights(d_in, d_sae):
    """Weights of a trained-looking SAE: unit rows, small biases."""
    rows = torch.nn.functional.normalize(draw(d_sae, d_in, seed=2), dim=1)
    encoder = rows + 0.1 * draw(d_sae, d_in, seed=3)
    biases = draw(d_sae, seed=4) * 0.3, draw(d_in, seed=5) * 0.3
    return kernels.Weights(encoder.T, biases[0], rows, biases[1])


def plain(x, w, l1=0.0, k=None, batch_k=None):
    """Error, firings and gradients straight from the loss's definition."""
    w = kernels.Weights(*(part.clone().requires_grad_() for part in w))
    pre = (x - w.b_dec) @ w.W_enc + w.b_enc
    kept = torch.ones_like(pre)
    if k:
        kept = torch.zeros_like(pre).scatter(1, pre.topk(k)[1], 1.0)
    if batch_k:
        best = pre.flatten().topk(batch_k * len(x))[1]
        kept = torch.zeros(pre.numel()).scatter(0, best, 1.0).view_as(pre)
    f = pre.relu() * kept
    error = f @ w.W_dec + w.b_dec - x
    loss = error.pow(2).sum(1).mean() + l1 * f.sum(1).mean()
    gradients = torch.autograd.grad(loss, w)
    firings = (f > 0).sum(0).float()
    return kernels.Result(error.detach(), firings, kernels.Weights(*gradients))


def agree(found, expected, rtol=1e-4):
    torch.testing.assert_close(found.firings, expected.firings)
    pairs = dict(error=(found.error, expected.error))
    for name in kernels.Weights._fields:
        pairs[name] = [getattr(r.gradients, name) for r in (found, expected)]
    for name, (ours, theirs) in pairs.items():
        assert ours.dtype == torch.float32, name
        torch.testing.assert_close(
            ours, theirs, atol=2e-5, rtol=rtol, msg=lambda m, n=name: n + m
        )


def close(found, expected):
    """The same direction and length, as far as bfloat16 goes."""
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert ours.dtype == torch.float32
        cosine = torch.cosine_similarity(ours.flatten(), theirs.flatten(), 0)
        assert cosine > 0.99
        assert ours.norm() / theirs.norm() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("d_in,d_sae,k,count", CASES)
def test_topk_is_that_of_autograd(backend, d_in, d_sae, k, count):
    x, w = draw(count, d_in), weights(d_in, d_sae)
    found = kernels.topk_step(x, w, k, torch.float32)
    agree(found, plain(x, w, k=k))


@pytest.mark.parametrize("bias", [0.0, -2.5])  # dense codes, sparse codes
@pytest.mark.parametrize("d_in,d_sae,k,count", CASES)
def test_relu_is_that_of_autograd(backend, bias, d_in, d_sae, k, count):
    x, w = draw(count, d_in), weights(d_in, d_sae)
    w.b_enc.add_(bias)
    found = kernels.relu_step(x, w, 0.3, torch.float32)
    agree(found, plain(x, w, l1=0.3))


def test_relu_with_sparse_and_dense_slices(backend):
    count = 2 * reference.DENSE_SLICE + 9
    x, w = draw(count, 5), weights(5, 40)
    w.b_enc.sub_(4)
    x[: reference.DENSE_SLICE] *= 8  # these are dense, the rest sparse
    density = plain(x[reference.DENSE_SLICE :], w).firings.sum() / count / 40
    assert 0 < density < thresholded.SPARSE
    found = kernels.relu_step(x, w, 0.3, torch.float32)
    agree(found, plain(x, w, l1=0.3), rtol=1e-3)


def chosen(x, w, k, floor=0.0):
    """The codes of the k * batch largest, as BatchTopK chooses them."""
    count = k * len(x)
    found = kernels.candidates(x, w, floor, count, torch.float32)
    return kernels.keep(found, kernels.largest(found.values, count))


@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("d_in,d_sae,k,count", CASES)
def test_codes_chosen_over_the_batch(backend, floor, d_in, d_sae, k, count):
    x, w = draw(count, d_in), weights(d_in, d_sae)
    codes = chosen(x, w, k, floor)
    pre = ((x - w.b_dec) @ w.W_enc + w.b_enc).flatten()
    expected = pre.topk(k * count)[1]
    expected = expected[pre[expected] > floor].sort()[0]
    assert torch.equal(codes.tokens() * d_sae + codes.indices, expected)
    torch.testing.assert_close(codes.values, pre[expected])
    if floor == 0:
        found = kernels.sparse_step(x, w, codes, torch.float32)
        agree(found, plain(x, w, batch_k=k))


def test_candidates_stay_few_and_the_first_of_equal_ones(backend):
    """Searched slice by slice, as if over the whole batch at once."""
    count, most = 3 * reference.SLICE + 5, 700
    x, w = draw(count, 4).round(), weights(4, 90)
    w = kernels.Weights(*((part * 2).round() / 2 for part in w))
    found = kernels.candidates(x, w, 0.0, most, torch.float32)
    assert most <= len(found.values) <= 2 * most
    pre = ((x - w.b_dec) @ w.W_enc + w.b_enc).flatten()
    order = pre.sort(descending=True, stable=True)[1][:most].sort()[0]
    assert (pre == pre[order].min()).sum() > 1  # ties at the cut
    kept = kernels.keep(found, kernels.largest(found.values, most))
    assert torch.equal(kept.tokens() * 90 + kept.indices, order)


@pytest.mark.parametrize("kind", ["topk", "dense", "sparse"])
def test_bfloat16_follows_float32(backend, kind):
    x, w = draw(512, 16), weights(16, 256)
    w.b_enc.sub_(3 if kind == "sparse" else 0)

    def step(dtype, low=None):
        if kind == "topk":
            return kernels.topk_step(x, w, 4, dtype, low)
        return kernels.relu_step(x, w, 0.1, dtype, low)

    exact, coarse = step(torch.float32), step(torch.bfloat16)
    close(coarse, exact)
    low = reference.lowered(w, torch.bfloat16)
    same = step(torch.bfloat16, low)
    assert torch.equal(same.gradients.W_dec, coarse.gradients.W_dec)
    shifted = low._replace(W_enc=low.W_enc + 1)  # and it is what is read
    assert not torch.equal(step(torch.bfloat16, shifted).error, same.error)


@pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
def test_any_memory_layout(backend, layout):
    x, w = draw(40, 6), weights(6, 30)
    expected = plain(x, w, k=3)
    if layout == "columns":
        x = x.T.contiguous().T
        w = kernels.Weights(
            w.W_enc.contiguous(), w.b_enc, w.W_dec.T.contiguous().T, w.b_dec
        )
    if layout == "strided":
        x = torch.stack([x, x], 2)[:, :, 0]
        w = kernels.Weights(
            *(torch.stack([part, part], -1)[..., 0] for part in w)
        )
    agree(kernels.topk_step(x, w, 3, torch.float32), expected)
    relu = kernels.relu_step(x, w, 0.3, torch.float32)
    agree(relu, plain(x, w, l1=0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width,k", [(4096, 32), (4099, 300), (50, 50),
                                     (33, 2), (7, 1)])  # fmt: skip
def test_top_k_finds_the_largest(backend, dtype, width, k):
    pre = draw(30, width).to(dtype)  # in bfloat16 with many ties
    pre[3] = -pre[3].abs() - 0.5
    pre[4] = torch.inf * pre[4].sign()
    values, indices = kernels.top_k(pre, k)
    expected = pre.sort(1, descending=True)[0][:, :k]
    assert torch.equal(values.sort(1, descending=True)[0], expected)
    assert torch.equal(pre.gather(1, indices), values)
    assert all(len(set(row.tolist())) == k for row in indices)


def test_top_k_with_ties_and_zeros_keeps_the_values(backend):
    pre = torch.zeros(4, 256)
    pre[1, 3] = 1
    pre[2] = torch.arange(256) // 64
    values, indices = kernels.top_k(pre, 8)
    assert values[0].tolist() == [0] * 8
    assert sorted(values[1].tolist()) == [0] * 7 + [1]
    assert values[2].tolist() == [3] * 8
    assert all(len(set(row.tolist())) == 8 for row in indices)


def test_top_k_passes_gradients_on(backend):
    pre = draw(5, 40).requires_grad_()
    values, indices = kernels.top_k(pre, 3)
    values.pow(2).sum().backward()
    expected = torch.zeros(5, 40).scatter(1, indices, 2 * values.detach())
    assert torch.equal(pre.grad, expected)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 20])
def test_largest_takes_the_first_of_equal_ones(count):
    values = torch.tensor([2.0, 1, 3, 1, 1, torch.nan, 3, 1, 0])
    order = values.nan_to_num(9).sort(descending=True, stable=True)[1]
    kept = kernels.largest(values, count)
    assert sorted(order[:count].tolist()) == kept.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_with_fewer_than_k_positive_codes(backend, dtype):
    x, w = draw(9, 4), weights(4, 8)
    w.b_enc.fill_(-100)
    w.b_enc[5] = 100
    result = kernels.topk_step(x, w, 6, dtype)
    assert result.firings.tolist() == [0, 0, 0, 0, 0, 9, 0, 0]
    assert result.gradients.W_enc.abs().sum(0).nonzero().tolist() == [[5]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_fires(backend, dtype):
    x, w = draw(9, 4), weights(4, 8)
    w.b_enc.fill_(-100)
    for result in (
        kernels.topk_step(x, w, 6, dtype),
        kernels.relu_step(x, w, 0.3, dtype),
    ):
        assert result.firings.sum() == 0
        assert not result.gradients.W_enc.any()
        assert not result.gradients.W_dec.any()
        assert not result.gradients.b_enc.any()
        expected = (w.b_dec - x).mean(0) * 2
        torch.testing.assert_close(result.gradients.b_dec, expected)


def test_all_zero_activations(backend):
    x, w = torch.zeros(9, 4), weights(4, 8)
    agree(kernels.topk_step(x, w, 2, torch.float32), plain(x, w, k=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_never_hidden(backend, dtype):
    x, w = draw(9, 4), weights(4, 80)
    w.W_enc[:, 7] = torch.tensor(-torch.nan)  # the sign must not matter
    for step in (
        kernels.topk_step(x, w, 2, dtype),
        kernels.relu_step(x, w, 0.3, dtype),
    ):
        assert step.error.isnan().all()


def test_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv(kernels.CHOICE, "natve")
    with pytest.raises(InputError, match="did you mean 'native'"):
        kernels.backend()
