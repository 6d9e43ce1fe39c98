"""Every architecture's hand-written step against autograd on its formula."""

import threading

import pytest
import torch

from helpers import kernels, sae
from helpers.kernels import library, native, reference, thresholded

CASES = [(7, 19, 3, 5), (6, 20, 3, 37), (5, 7, 7, 11), (16, 256, 8, 40)]
JUMP = {"l0": 0.3, "bandwidth": 1.0, "threshold": 0.4}
KINDS = {
    "l1": (sae.L1SAE, {"l1": 0.3}),
    "topk": (sae.TopKSAE, {}),
    "batchtopk": (sae.BatchTopKSAE, {}),
    "jumprelu": (sae.JumpReLUSAE, JUMP),
    "jumprelu to a target": (sae.JumpReLUSAE, JUMP | {"target_l0": 2.0}),
    "gated": (sae.GatedSAE, {"l1": 0.3}),
    "matryoshka": (sae.MatryoshkaSAE, {}),
}
RANKED = {"topk", "batchtopk", "matryoshka"}


@pytest.fixture(autouse=True, params=["reference", "dense", "sparse"])
def backend(request, monkeypatch):
    """Each backend in turn; native only where it can be compiled, and with
    all slices treated as dense or all as sparse, where it has the choice.
    """
    name = "reference" if request.param == "reference" else "native"
    monkeypatch.setenv(kernels.CHOICE, name)
    if kernels.backend() != name:
        pytest.skip("no working C++ compiler")
    share = 1.0 if request.param == "sparse" else 0.0
    monkeypatch.setattr(thresholded, "SPARSE", share)


class Step(torch.autograd.Function):
    """1[z > threshold], its threshold's gradient straight-through."""

    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).float()

    @staticmethod
    def backward(ctx, upstream):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold) / ctx.bandwidth).abs() < 0.5
        return None, (near * upstream).sum(0) / -ctx.bandwidth, None


class JumpReLU(torch.autograd.Function):
    """z 1[z > threshold], its threshold's gradient straight-through."""

    @staticmethod
    def forward(ctx, z, threshold, bandwidth):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * (z > threshold)

    @staticmethod
    def backward(ctx, upstream):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold) / ctx.bandwidth).abs() < 0.5
        slope = -threshold / ctx.bandwidth * near
        return upstream * (z > threshold), (slope * upstream).sum(0), None


def points(count, d_in, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, d_in, generator=random)


def make(name, d_in, d_sae, k=3):
    """An SAE with every parameter away from where it starts."""
    kind, options = KINDS[name]
    if name in RANKED:
        options = {"k": k}
    model = kind(d_in, d_sae, "hook", **options)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for part_name, part in model.named_parameters():
            if part.ndim == 1:
                noise = torch.randn(part.shape, generator=random) * 0.3
                part.add_(noise)
            if part_name == "threshold":
                part.clamp_(min=0)
        if name not in RANKED:
            shape = model.W_enc.shape
            model.W_enc.add_(torch.randn(shape, generator=random) * 0.3)
    return model


def keep_largest(f, count):
    """The ``count`` largest of a whole matrix; of equals, the first."""
    order = f.flatten().sort(descending=True, stable=True).indices
    keep = torch.zeros(f.numel(), dtype=torch.bool)
    keep[order[:count]] = True
    return f * keep.view_as(f)


def plain(model, x):
    """Codes, reconstruction and loss, straight from the definitions."""
    c = x - model.b_dec
    if model.architecture == "gated":
        gate = c @ model.W_enc + model.b_gate
        mag = c @ (model.W_enc * model.r_mag.exp()) + model.b_mag
        f = (gate > 0) * mag.relu()
        frozen = gate.relu() @ model.W_dec.detach() + model.b_dec.detach()
        extra = (frozen - x).pow(2).sum(1) + model.l1 * gate.relu().sum(1)
        return f, f @ model.W_dec + model.b_dec, extra.mean()
    z, extra = c @ model.W_enc + model.b_enc, torch.zeros(())
    if model.architecture == "standard":
        f = z.relu()
        extra = model.l1 * f.sum(1).mean()
    elif model.architecture == "topk":
        f = torch.stack([keep_largest(row, model.k) for row in z.relu()])
    elif model.architecture == "jumprelu":
        f = JumpReLU.apply(z, model.threshold, model.bandwidth)
        l0 = Step.apply(z, model.threshold, model.bandwidth).sum(1)
        target = model.target_l0
        paid = l0 if target is None else 2 / target * (l0 - target) ** 2
        extra = model.l0 * paid.mean()
    else:
        f = keep_largest(z.relu(), model.k * len(x))
        for m in getattr(model, "widths", [])[:-1]:
            part = f[:, :m] @ model.W_dec[:m] + model.b_dec
            extra = extra + (part - x).pow(2).sum(1).mean()
    return f, f @ model.W_dec + model.b_dec, extra


def check(model, x, atol=2e-5):
    f, rebuilt, extra = plain(model, x)
    ((rebuilt - x).pow(2).sum(1).mean() + extra).backward()
    result = model.gradients(x)
    close = torch.testing.assert_close
    close(result.error, (rebuilt - x).detach(), atol=1e-5, rtol=1e-4)
    close(result.firings, (f > 0).sum(0).float())
    expected = {n: p.grad for n, p in model.named_parameters()}
    found = result.gradients._asdict()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        close(gradient, expected[name], atol=atol, rtol=1e-4, msg=name)
    return result


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("d_in,d_sae,k,count", CASES)
def test_gradients_are_those_of_autograd(name, d_in, d_sae, k, count):
    result = check(make(name, d_in, d_sae, k), points(count, d_in))
    assert result.firings.sum() > 0
    assert all(part.any() for part in result.gradients)


@pytest.mark.parametrize("name", KINDS)
def test_slices_of_the_batch_add_up(name, monkeypatch):
    monkeypatch.setattr(reference, "DENSE_SLICE", 4)
    for module in (reference, native, thresholded):
        monkeypatch.setattr(module, "SLICE", 3)
    check(make(name, 7, 19), points(11, 7))


@pytest.mark.parametrize("name", sorted(KINDS.keys() - {"topk"}))
def test_ties_and_all_zero_rows(name):
    model = make(name, 4, 12, k=2)
    x = points(9, 4).round()
    x[3:6] = 0
    x[7] = x[1]
    with torch.no_grad():
        for part in model.parameters():
            part.copy_((part * 2).round() / 2)
    check(model, x)


@pytest.mark.parametrize("name", KINDS)
def test_more_asked_for_than_is_positive(name):
    model = make(name, 4, 8, k=6)
    biases = "b_gate", "b_mag", "b_enc"
    with torch.no_grad():
        for bias in (getattr(model, b) for b in biases if hasattr(model, b)):
            bias.fill_(-100)
            bias[0] = 100
    result = check(model, points(9, 4), atol=2e-3)
    assert result.firings.tolist() == [9, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_nan_is_never_hidden(name, dtype):
    model, x = make(name, 4, 64), points(9, 4)
    with torch.no_grad():
        model.W_enc[:, 7] = torch.nan
    assert model.gradients(x, dtype).error.isnan().any(1).all()


@pytest.mark.parametrize("name", KINDS)
def test_copies_at_hand_change_nothing(name):
    model, x = make(name, 16, 64), points(40, 16)
    low = reference.lowered(model.weights(), torch.bfloat16)
    given = model.gradients(x, torch.bfloat16, low)
    made = model.gradients(x, torch.bfloat16)
    for one, other in zip(given.gradients, made.gradients, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", KINDS)
def test_any_number_of_threads_gives_the_same_bits(name, backend):
    found, before = [], torch.get_num_threads()
    if kernels.backend() == "reference":
        pytest.skip("torch's own sums depend on it")
    for threads in (1, 3):
        torch.set_num_threads(threads)
        result = make(name, 33, 300).gradients(points(700, 33))
        found.append([result.error, result.firings, *result.gradients])
    torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["l1", "jumprelu to a target", "gated"])
def test_sparse_and_dense_slices_mix(name, backend, monkeypatch):
    """Some slices listed, some not: a sum over both."""
    if kernels.backend() == "reference":
        pytest.skip("all slices are dense there")
    shares, count = [], library.mark

    def mark(pre, *others):
        found = count(pre, *others)
        shares.append(float(found[1].sum()) / pre.numel())
        return found

    monkeypatch.setattr(library, "mark", mark)
    monkeypatch.setattr(thresholded, "SLICE", 8)
    model, x = make(name, 7, 19), points(40, 7)
    model.gradients(x)
    middle = sorted(shares)[2]
    assert min(shares) < middle < max(shares)
    monkeypatch.setattr(thresholded, "SPARSE", middle)
    check(model, x)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_nothing_positive_at_all(name):
    model = make(name, 4, 8, k=6)
    with torch.no_grad():
        model.b_enc.fill_(-100)
    result = model.gradients(points(9, 4))
    assert not result.firings.any() and not result.gradients.W_enc.any()
    assert result.gradients.b_dec.any() and model.threshold == 0


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_gradients_point_the_same_way(name):
    model, x = make(name, 16, 256, 8), points(512, 16)
    exact = model.gradients(x).gradients
    coarse = model.gradients(x, torch.bfloat16).gradients
    for found, expected in zip(coarse, exact, strict=True):
        assert found.dtype == torch.float32
        cosine = torch.cosine_similarity(
            found.flatten(), expected.flatten(), dim=0
        )
        assert cosine > 0.98


def test_the_search_for_candidates_changes_no_result():
    fresh, used = make("batchtopk", 7, 19), make("batchtopk", 7, 19)
    used.gradients(points(40, 7) * 10)  # a floor far above the next batch
    assert used._floor > 0
    for x in (points(40, 7, seed=5), points(40, 7, seed=6)):
        a, b = fresh.gradients(x), used.gradients(x)
        assert torch.equal(a.error, b.error)
        for found, expected in zip(a.gradients, b.gradients, strict=True):
            assert torch.equal(found, expected)


def test_thresholds_stay_above_zero_and_come_back():
    model = make("jumprelu", 7, 19)
    with torch.no_grad():
        model.threshold[:3] = -0.2
    gradients = model.gradients(points(50, 7)).gradients
    assert (model.threshold >= 0).all()
    assert gradients.threshold[:3].any()  # free to rise again


class Ranks:
    """Threads that stand in for processes, each with a slice of a batch."""

    def __init__(self, count):
        self.barrier, self.given = threading.Barrier(count), [None] * count

    def gather(self, rank):
        def join(values):
            self.given[rank] = values
            self.barrier.wait()
            parts = list(self.given)
            self.barrier.wait()
            start = sum(len(part) for part in parts[:rank])
            return torch.cat(parts), slice(start, start + len(values))

        return join


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_processes_choose_together(name):
    x = points(12, 4).round()  # with ties
    whole, ranks, found = make(name, 4, 12), Ranks(2), [None, None]
    models = [make(name, 4, 12) for _ in range(2)]

    def run(rank):
        models[rank].gather = ranks.gather(rank)
        part = x[6 * rank : 6 * rank + 6]
        found[rank] = models[rank].gradients(part)

    threads = [threading.Thread(target=run, args=[rank]) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    expected = whole.gradients(x)
    firings = found[0].firings + found[1].firings
    assert torch.equal(firings, expected.firings)
    assert firings.sum() == 3 * 12
    for part in (0, 1):
        assert torch.equal(models[part].threshold, whole.threshold)
    for ours, a, b in zip(
        expected.gradients, *(r.gradients for r in found), strict=True
    ):
        torch.testing.assert_close((a + b) / 2, ours, atol=1e-5, rtol=1e-4)
